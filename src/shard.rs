//! A share of work that several processes divide among themselves by number: every n-th piece, from the i-th on.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, bail};

/// The value of `--shard i/n`: every n-th piece of the work, starting with the i-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Returns the `count` shards that make up the whole work.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(move |index| Self { index, count })
    }

    /// Returns whether the piece with this number, counted from 0, belongs to the shard.
    pub fn has(self, number: usize) -> bool {
        number % self.count == self.index
    }

    /// Returns about how many of so many pieces belong to the shard; at most one more.
    pub fn share(self, pieces: usize) -> usize {
        pieces.div_ceil(self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
        match parts {
            Some((index @ 1.., count)) if index <= count => Ok(Self { index: index - 1, count }),
            _ => bail!("`{text}` is no shard: write i/n with i from 1 to n, such as 2/8."),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}
