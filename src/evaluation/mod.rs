//! Block efficiency: by replay on traces, checked live.
//!
//! [`ReplayText`] holds one traced document with its lattices; [`replay`] walks it with a drafter; [`Tally`] sums the
//! walks; [`bootstrap`] puts intervals around them; [`check_live`] decodes for real and compares.

pub mod bootstrap;
mod live;
mod replay;
mod tally;

pub use live::{LiveOutcome, NEAR_TIE, autoregressive_speed, check_live};
pub use replay::{ReplayText, Step, oracle_lengths, replay, replay_oracle};
pub use tally::{Tally, block_efficiency, loops};
