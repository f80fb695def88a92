//! What stands in one place of a table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One place of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cell {
    /// There is nothing to say here.
    Nothing,
    /// Yes or no.
    Flag(bool),
    /// A count.
    Count(u64),
    /// A number.
    Number(f64),
    /// An interval, low end first.
    Interval([f64; 2]),
    /// A number with its interval.
    Estimate(Estimate),
    /// A word.
    Text(String),
}

/// A number with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its 95 % interval, low end first.
    pub interval: [f64; 2],
}

impl Cell {
    /// The number that stands for the cell where cells are compared: of an interval its low end.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Nothing | Self::Text(_) => None,
            Self::Flag(flag) => Some(f64::from(*flag)),
            Self::Count(count) => Some(*count as f64),
            Self::Number(number) => Some(*number),
            Self::Interval([low, _]) => Some(*low),
            Self::Estimate(estimate) => Some(estimate.value),
        }
    }
}

/// Numbers of one kind, as many columns of a table as there are keys: a rate by position, an efficiency by training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Family<T>(pub Vec<(String, T)>);

impl<T> Family<T> {
    /// Values whose keys are their places, from `first` on.
    pub fn numbered(first: usize, values: impl IntoIterator<Item = T>) -> Self {
        values.into_iter().enumerate().map(|(place, value)| ((first + place).to_string(), value)).collect()
    }
}

impl<T> FromIterator<(String, T)> for Family<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}
