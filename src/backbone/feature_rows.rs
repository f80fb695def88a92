//! States of some tokens by name, in this process's memory and on a device.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::Feature;
use crate::nn::{from_host, to_host};
use crate::storage_type::StorageType;

/// Named states of n tokens in this process's memory, `[n, d]` each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureRows {
    width: usize,
    states: Vec<(Feature, Vec<f32>)>,
}

impl FeatureRows {
    /// The states called `features`, each `[n, d]` of width `d`.
    pub fn new(features: &[Feature], width: usize, states: Vec<Vec<f32>>) -> Self {
        Self { width, states: features.iter().copied().zip(states).collect() }
    }

    /// Returns the states of all tokens of `parts`, which have the same features, in their order.
    pub fn concat(parts: &[&Self]) -> Self {
        let Some(first) = parts.first() else { return Self::default() };
        let all = |feature| parts.iter().flat_map(|part| part.get(feature)).copied().collect();
        Self { width: first.width, states: first.states.iter().map(|&(feature, _)| (feature, all(feature))).collect() }
    }

    /// Returns n, the number of tokens.
    pub fn tokens(&self) -> usize {
        self.states.first().map_or(0, |(_, values)| values.len() / self.width)
    }

    /// Adds the states of some tokens of `other`, which has the same features, unless these are of no tokens yet.
    pub fn extend(&mut self, other: &Self, tokens: Range<usize>) {
        if self.states.is_empty() {
            self.width = other.width;
            self.states = other.states.iter().map(|(feature, _)| (*feature, Vec::new())).collect();
        }
        let range = tokens.start * self.width..tokens.end * self.width;
        let pairs = self.states.iter_mut().zip(&other.states);
        pairs.for_each(|((_, mine), (_, theirs))| mine.extend_from_slice(&theirs[range.clone()]));
    }

    /// Keeps the states of the first tokens, if there are more.
    pub fn truncate(&mut self, tokens: usize) {
        self.states.iter_mut().for_each(|(_, values)| values.truncate(tokens * self.width));
    }

    /// Returns the states called `feature`, `[n, d]`.
    ///
    /// # Panics
    /// When they are not among these.
    pub fn get(&self, feature: Feature) -> &[f32] {
        &self.states[place(feature, self.states.iter().map(|state| state.0))].1
    }

    /// Returns the states of one token.
    pub fn row(&self, row: usize) -> FeatureRow<'_> {
        FeatureRow { rows: self, row }
    }

    /// Copies the states to a device.
    pub fn to_device(&self, device: &Device) -> FeatureTensors {
        let tensor = |(feature, values): &(Feature, Vec<f32>)| {
            let rows = values.len() / self.width;
            (*feature, from_host(values.clone(), [rows, self.width], device))
        };
        FeatureTensors { states: self.states.iter().map(tensor).collect() }
    }
}

/// Named states of one token, `[d]` each.
#[derive(Debug, Clone, Copy)]
pub struct FeatureRow<'a> {
    rows: &'a FeatureRows,
    row: usize,
}

impl<'a> FeatureRow<'a> {
    /// Returns the state called `feature`, `[d]`.
    ///
    /// # Panics
    /// When it is not among these.
    pub fn get(self, feature: Feature) -> &'a [f32] {
        let width = self.rows.width;
        &self.rows.get(feature)[self.row * width..][..width]
    }

    /// Returns a copy of the states of this token alone.
    pub fn to_rows(self) -> FeatureRows {
        let features = self.rows.states.iter().map(|state| state.0);
        let states = features.map(|feature| (feature, self.get(feature).to_vec())).collect();
        FeatureRows { width: self.rows.width, states }
    }
}

/// Named states of n tokens on a device, `[n, d]` each.
#[derive(Debug, Clone)]
pub struct FeatureTensors {
    states: Vec<(Feature, Tensor<2>)>,
}

impl FeatureTensors {
    /// The states called `features`, each `[n, d]`.
    pub fn new(features: &[Feature], states: Vec<Tensor<2>>) -> Self {
        Self { states: features.iter().copied().zip(states).collect() }
    }

    /// Returns the states called `feature`, `[n, d]`; they are shared, not copied.
    ///
    /// # Panics
    /// When they are not among these.
    pub fn get(&self, feature: Feature) -> Tensor<2> {
        self.states[place(feature, self.states.iter().map(|state| state.0))].1.clone()
    }

    /// Copies the states to this process's memory, rounded to `dtype`.
    pub fn to_rows(&self, dtype: StorageType) -> FeatureRows {
        let rows = |(feature, state): &(Feature, Tensor<2>)| {
            let mut values = to_host(state.clone());
            dtype.round(&mut values);
            (*feature, values)
        };
        let width = self.states.first().map_or(0, |(_, state)| state.dims()[1]);
        FeatureRows { width, states: self.states.iter().map(rows).collect() }
    }

    /// Returns what `change` makes of every state.
    pub fn map(&self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        let changed = self.states.iter().map(|(feature, state)| (*feature, change(state.clone())));
        Self { states: changed.collect() }
    }

    /// Returns the rows of `parts`, at least one, which all have the same states, part after part.
    pub fn concat(parts: &[Self]) -> Self {
        if let [part] = parts {
            return part.clone();
        }
        let all = |(place, (feature, _)): (usize, &(Feature, Tensor<2>))| {
            let states = parts.iter().map(|part| part.states[place].1.clone()).collect();
            (*feature, Tensor::cat(states, 0))
        };
        Self { states: parts[0].states.iter().enumerate().map(all).collect() }
    }
}

fn place(feature: Feature, mut known: impl Iterator<Item = Feature>) -> usize {
    known.position(|known| known == feature).unwrap_or_else(|| panic!("nobody asked for the states called `{feature}`"))
}
