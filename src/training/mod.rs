//! The one loop for everything that trains: schedule, clipping, checkpoints, resuming, progress. It knows nothing of
//! what it trains.

mod adamw;
mod average;
mod checkpoint;
mod config;
mod log;
mod run;
mod schedule;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod timings;

pub use adamw::AdamW;
pub use average::Average;
pub use checkpoint::{KeptCheckpoints, kept_bytes};
pub use config::OptimizationConfig;
#[cfg(all(test, feature = "cpu"))]
pub(crate) use run::gradient;
pub use run::{Batch, Evaluated, Replica, Task, TrainingContext, train};
pub use schedule::{Schedule, SchedulePhase};
pub use timings::{Timing, read_timings, seconds_per_step};
