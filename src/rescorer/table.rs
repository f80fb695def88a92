//! Tables of scores that are computed for a whole block at once.

use super::BlockScores;
use crate::error::{Result, bail};
use crate::lattice::{Lattice, SlotScorer};

/// The scores of a lattice's candidates, either of each alone or of each after each candidate of the slot before.
///
/// No score is above 0, because the search relies on that bound. Scores that are not log-probabilities are shifted by a
/// constant per slot, which does not change how paths compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    slots: Vec<SlotScores>,
}

#[derive(Debug, Clone, PartialEq)]
struct SlotScores {
    width: usize,
    /// The scores `[rows, width]`. There is a row for each candidate of the slot before, or a single row for all of
    /// them.
    values: Vec<f64>,
}

impl Table {
    /// Makes the table of a lattice. `values` returns the scores of a slot, row by row: either `width` numbers, or
    /// `width` numbers for each candidate of the slot before.
    ///
    /// # Errors
    /// Returns an error if a score is NaN or plus infinity, or if the number of scores is wrong.
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

    /// Returns whether the scores in `slot` depend on the candidate before.
    fn reads_previous(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|scores| scores.values.len() > scores.width)
    }

    /// Returns the scores of the candidates of `slot` after candidate `previous` of the slot before.
    fn row(&self, slot: usize, previous: usize) -> &[f64] {
        let SlotScores { width, values } = &self.slots[slot];
        let row = if values.len() > *width { previous } else { 0 };
        &values[row * width..(row + 1) * width]
    }
}

impl SlotScorer for Table {
    /// The place of the last candidate in its slot if the next scores depend on it, and 0 otherwise.
    type State = u32;

    fn extend(&mut self, slot: usize, previous: u32, number: usize, out: &mut Vec<(f64, u32)>) {
        let row = &self.row(slot, previous as usize)[..number];
        if self.reads_previous(slot + 1) {
            out.extend(row.iter().copied().zip(0..));
        } else {
            out.extend(row.iter().map(|&score| (score, 0)));
        }
    }
}

impl BlockScores for Table {
    fn start(&self) -> u32 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_are_not_numbers_are_refused_and_positive_ones_shifted() {
        let lattice = Lattice::pinned(4, 3, &[1, 2, 3, 3, 2, 1], &[3.0, 2.0, 1.0, 3.0, 2.0, 1.0]).unwrap();
        let error = Table::new(&lattice, |slot| vec![f64::NAN; lattice.width(slot)]).unwrap_err().to_string();
        assert!(error.contains("slot 0"), "{error}");
        assert!(Table::new(&lattice, |_| vec![0.0; 2]).is_err());
        let shifted = Table::new(&lattice, |slot| vec![3.0 + slot as f64; lattice.width(slot)]).unwrap();
        let nothing = Table::new(&lattice, |slot| vec![0.0; lattice.width(slot)]).unwrap();
        assert_eq!(shifted, nothing);
    }
}
