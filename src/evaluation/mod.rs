//! Block efficiency: by replay on traces, checked live.
//!
//! [`ReplayText`] holds one traced document with its lattices; [`replay`] walks it with a drafter; [`Tally`] sums the
//! walks; [`bootstrap`] puts intervals around them; [`check_live`] decodes for real and compares. [`head_qualities`] look at the heads
//! themselves: how sure they are, how often right, and whether the one says the other.

mod axes;
mod best_paths;
pub mod bootstrap;
mod confidence;
mod cost;
mod examples;
mod head_quality;
mod live;
mod records;
mod reliability;
mod replay;
mod same_starts;
mod tally;
mod temperatures;
mod tuning;

pub use axes::axes;
pub use best_paths::replay_best_paths;
pub use confidence::{Regression, h_max, regression};
pub use cost::{Cost, Drafting, KV_CONTEXTS, cost};
pub use examples::{Example, ExampleBlock, Examples, best_and_worst, example};
pub use head_quality::{HeadQuality, head_qualities};
pub use live::{LiveOutcome, NEAR_TIE, autoregressive_speed, check_live};
pub use records::{StepRecord, drafts_of};
pub use reliability::{Reliability, ReliabilityBin, reliability};
pub use replay::{ReplayText, Step, coverage, oracle_lengths, replay, replay_oracle};
pub use same_starts::SameStarts;
pub use tally::{Tally, block_efficiency, loops};
pub use temperatures::slot_temperatures;
pub use tuning::{Axis, Coordinate, Trial, Tuned, search};
