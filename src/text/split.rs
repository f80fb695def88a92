//! The split into train, dev and test by the hash of a group, so that it depends neither on the order nor on the size
//! of the corpus.

use serde::{Deserialize, Serialize};

use super::DataConfig;

/// A part of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The part on which heads and rescorers are trained.
    Train,
    /// The part on which scales and checkpoints are chosen.
    Dev,
    /// The part on which results are reported.
    Test,
}

impl Split {
    /// Returns the lower-case name, as in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// The shares of the groups that go to dev and test; the rest go to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitFractions {
    /// The share of dev, 0 to 1.
    pub dev: f64,
    /// The share of test, 0 to 1.
    pub test: f64,
}

impl From<&DataConfig> for SplitFractions {
    fn from(data: &DataConfig) -> Self {
        Self { dev: data.dev, test: data.test }
    }
}

impl SplitFractions {
    /// Returns the share of a split.
    pub fn share(&self, split: Split) -> f64 {
        match split {
            Split::Train => 1.0 - self.dev - self.test,
            Split::Dev => self.dev,
            Split::Test => self.test,
        }
    }

    /// Returns the split of a group: test takes the lowest hashes, dev the next.
    pub fn split_of(&self, group: &str) -> Split {
        let hash = blake3::hash(group.as_bytes());
        let first: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
        let point = u64::from_le_bytes(first) as f64 / u64::MAX as f64;
        if point < self.test {
            Split::Test
        } else if point < self.test + self.dev || self.share(Split::Train) <= 0.0 {
            Split::Dev
        } else {
            Split::Train
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_groups_stay_together() {
        let fractions = SplitFractions { dev: 0.1, test: 0.2 };
        let mut counts = [0usize; 3];
        for i in 0..10_000 {
            counts[fractions.split_of(&format!("group {i}")) as usize] += 1;
        }
        // The standard deviations of the binomial distributions are 46, 30 and 40.
        assert!((counts[0] as i64 - 7000).abs() < 200, "{counts:?}");
        assert!((counts[1] as i64 - 1000).abs() < 150, "{counts:?}");
        assert!((counts[2] as i64 - 2000).abs() < 170, "{counts:?}");
        assert_eq!(fractions.split_of("x"), fractions.split_of("x"));
    }
}
