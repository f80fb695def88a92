//! What a rescorer says of one block, and the weighted sum of several.

use super::NeuralRescorer;
use super::ngram_rescorer::LatticeRows;
use crate::config::MOST_NGRAMS;
use crate::error::{Result, bail};
use crate::lattice::{Lattice, PathScorer, SlotScorer};
use crate::ngram::{Model, State};

/// A rescorer's view of one block.
pub enum Scores<'a> {
    /// An n-gram model, in its state behind the committed text.
    Ngram(&'a Model, State),
    /// Scores of every candidate, perhaps by the candidate before it.
    Table(Table),
    /// A language model that reads the whole prefix.
    Language(&'a NeuralRescorer),
}

/// Scores of a lattice's candidates: of each alone, or of each after each candidate of the slot before. None is above 0, as
/// the search relies on bounds; scores that are no log-probabilities are shifted slot by slot, which changes no comparison
/// between paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    slots: Vec<SlotScores>,
}

#[derive(Debug, Clone, PartialEq)]
struct SlotScores {
    width: usize,
    /// `[rows, width]`: a row for each candidate of the slot before, or one for all.
    values: Vec<f64>,
}

impl Table {
    /// `values` gives the scores of a slot, row by row.
    ///
    /// # Errors
    /// Scores that are not numbers; a wrong number of them.
    pub fn new(lattice: &Lattice, mut values: impl FnMut(usize) -> Vec<f64>) -> Result<Self> {
        let mut slots = Vec::with_capacity(lattice.slots());
        for slot in 0..lattice.slots() {
            let (width, mut values) = (lattice.width(slot), values(slot));
            let before = if slot == 0 { 1 } else { lattice.width(slot - 1) };
            if values.len() != width && values.len() != before * width {
                bail!("a rescorer gave {} scores for the {width} candidates of slot {slot}", values.len());
            }
            if values.iter().any(|value| value.is_nan() || *value == f64::INFINITY) {
                bail!(
                    "a rescorer's scores are not all numbers (slot {slot} of a block). Train it anew with a lower learning rate."
                );
            }
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if most > 0.0 {
                values.iter_mut().for_each(|value| *value -= most);
            }
            slots.push(SlotScores { width, values });
        }
        Ok(Self { slots })
    }

    /// Whether the scores in `slot` depend on the candidate before.
    fn reads_previous(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|scores| scores.values.len() > scores.width)
    }

    /// Scores of the candidates of `slot` after candidate `previous` of the slot before.
    fn row(&self, slot: usize, previous: usize) -> &[f64] {
        let SlotScores { width, values } = &self.slots[slot];
        let row = if values.len() > *width { previous } else { 0 };
        &values[row * width..(row + 1) * width]
    }

    /// `share` times this, and `other` added.
    fn weighted_sum(self, share: f64, other: Option<Self>) -> Self {
        let mut slots = Vec::with_capacity(self.slots.len());
        for (slot, SlotScores { width, values }) in self.slots.into_iter().enumerate() {
            let mut values: Vec<f64> = values.into_iter().map(|value| share * value).collect();
            if let Some(other) = other.as_ref().map(|other| &other.slots[slot]) {
                let rows = values.len().max(other.values.len()) / width.max(1);
                let cell = |of: &[f64], at: usize| of[at % of.len()];
                values = (0..rows * width).map(|at| cell(&values, at) + cell(&other.values, at)).collect();
            }
            slots.push(SlotScores { width, values });
        }
        Self { slots }
    }
}

/// A weighted sum of finite-state scores.
pub struct Sum<'a> {
    lattice: &'a Lattice,
    table: Option<Table>,
    /// With their shares.
    ngrams: Vec<(f64, &'a Model)>,
    start: SumState,
}

/// What a sum remembers of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SumState {
    /// Tokens in the prefix.
    slot: u16,
    /// Place of the last token in its slot, where the next scores depend on it.
    previous: u16,
    ngrams: [State; MOST_NGRAMS],
}

impl<'a> Sum<'a> {
    /// Of scores with their shares; gives the sum, and the language model with its share if one is among them.
    pub fn new(lattice: &'a Lattice, parts: Vec<(f64, Scores<'a>)>) -> (Self, Option<(f64, &'a NeuralRescorer)>) {
        let (mut table, mut ngrams, mut language) = (None, Vec::new(), None);
        let mut start = SumState { slot: 0, previous: 0, ngrams: [State::default(); MOST_NGRAMS] };
        for (share, scores) in parts {
            match scores {
                Scores::Table(scores) => table = Some(scores.weighted_sum(share, table)),
                Scores::Language(model) => language = Some((share, model)),
                Scores::Ngram(model, state) => {
                    start.ngrams[ngrams.len()] = state;
                    ngrams.push((share, model));
                }
            }
        }
        (Self { lattice, table, ngrams, start }, language)
    }

    /// The one n-gram model with its state, where the sum is nothing else.
    pub fn only_ngram(&self) -> Option<(&'a Model, State)> {
        match &self.ngrams[..] {
            [(share, model)] if self.table.is_none() && *share == 1.0 => Some((model, self.start.ngrams[0])),
            _ => None,
        }
    }

    /// Whether nothing is summed.
    pub fn is_empty(&self) -> bool {
        self.table.is_none() && self.ngrams.is_empty()
    }

    /// Behind the committed text.
    pub fn start(&self) -> SumState {
        self.start
    }
}

impl PathScorer for Sum<'_> {
    type State = SumState;

    fn extend(&self, state: SumState, token: u32) -> (f64, SumState) {
        let slot = usize::from(state.slot);
        let place = self.lattice.ids(slot).iter().position(|&id| id == token).expect("a candidate of the slot");
        let mut found = Vec::new();
        self.on(self.lattice).extend(slot, state, place + 1, &mut found);
        found[place]
    }

    fn on<'a>(&'a self, lattice: &'a Lattice) -> impl SlotScorer<State = SumState> {
        let ngrams = self.ngrams.iter().map(|&(share, model)| (share, LatticeRows::new(model, lattice))).collect();
        LatticeSum { table: self.table.as_ref(), ngrams, steps: Vec::new() }
    }
}

/// A sum at work on its lattice.
struct LatticeSum<'a> {
    table: Option<&'a Table>,
    /// With their shares.
    ngrams: Vec<(f64, LatticeRows<'a>)>,
    /// Kept between calls.
    steps: Vec<(f64, State)>,
}

impl SlotScorer for LatticeSum<'_> {
    type State = SumState;

    fn extend(&mut self, slot: usize, state: SumState, number: usize, out: &mut Vec<(f64, SumState)>) {
        let base = out.len();
        let row = self.table.map(|table| table.row(slot, usize::from(state.previous)));
        let told_apart = self.table.is_some_and(|table| table.reads_previous(slot + 1));
        for place in 0..number {
            let previous = if told_apart { place as u16 } else { 0 };
            out.push((row.map_or(0.0, |row| row[place]), SumState { slot: state.slot + 1, previous, ..state }));
        }
        for (index, (share, rows)) in self.ngrams.iter_mut().enumerate() {
            self.steps.clear();
            rows.extend(slot, state.ngrams[index], number, &mut self.steps);
            for ((score, next), &(log_probability, after)) in out[base..].iter_mut().zip(&self.steps) {
                *score += *share * log_probability;
                next.ngrams[index] = after;
            }
        }
    }
}
