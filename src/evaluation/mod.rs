//! Block efficiency: by replay on traces, checked live.
//!
//! [`ReplayText`] holds one traced document with its lattices; [`replay`] walks it with a drafter; [`Tally`] sums the
//! walks; [`bootstrap`] puts intervals around them; [`check_live`] decodes for real and compares.

pub mod bootstrap;
mod live;
mod replay;
mod same_starts;
mod tally;
mod tuning;

pub use live::{LiveOutcome, NEAR_TIE, autoregressive_speed, check_live};
pub use replay::{ReplayText, Step, coverage, oracle_lengths, replay, replay_oracle};
pub use same_starts::SameStarts;
pub use tally::{Tally, block_efficiency, loops};
pub use tuning::{Axis, Coordinate, Trial, Tuned, search};
