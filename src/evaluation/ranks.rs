//! How often the proposals of each rank are right, which the shape of fixed trees follows from.

use std::sync::{Mutex, PoisonError};

use super::{ReplayText, Route, replay_all};
use crate::drafting::{Drafter, Drafts, GrowingSession, Session};
use crate::error::Result;
use crate::lattice::Lattice;
use crate::nn::Largest;
use crate::rescorer::BlockContext;

/// Returns how often the token that follows in the text has each rank among what the heads propose behind the text itself: by
/// slot from the second one on, and by rank. All starts of `texts` count, with one of `lattices` for each.
///
/// # Errors
/// Returns the errors of the heads.
pub fn rank_rates(texts: &[ReplayText], lattices: &[Vec<Lattice>], k: usize) -> Result<Vec<Vec<f64>>> {
    let along = AlongTheText { k, counts: Mutex::default() };
    let routes: Vec<Route> = texts
        .iter()
        .zip(lattices)
        .map(|(text, lattices)| Route { text, lattices, starts: Some((0..lattices.len()).collect()) })
        .collect();
    replay_all(&routes, &along, |_, _, _| ())?;
    let counts = along.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let rates = |(all, of_rank): Counts| of_rank.into_iter().map(|n| n as f64 / all as f64).collect();
    Ok(counts.into_iter().map(rates).collect())
}

/// Of a slot: the number of proposals, and of those in which the text's token had each rank.
type Counts = (u64, Vec<u64>);

/// A drafter of the text itself, which it knows, to see what the heads propose behind it.
struct AlongTheText {
    k: usize,
    counts: Mutex<Vec<Counts>>,
}

impl Drafter for AlongTheText {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Following { along: self, block: Vec::new(), known: 0 })
    }

    fn grows(&self) -> bool {
        true
    }
}

struct Following<'a> {
    along: &'a AlongTheText,
    /// The tokens of the text in the present block.
    block: Vec<u32>,
    /// How many of them were drafted.
    known: usize,
}

impl GrowingSession for Following<'_> {
    fn begin(&mut self, text: &[u32], block: &BlockContext) -> Result<()> {
        self.block = text[block.start..].iter().copied().take(block.slots).collect();
        self.known = 1;
        Ok(())
    }

    fn wanted(&self) -> Vec<&[u32]> {
        if self.known < self.block.len() { vec![&self.block[..self.known]] } else { Vec::new() }
    }

    fn give(&mut self, proposed: &[Largest]) -> Result<()> {
        let token = self.block[self.known];
        let mut counts = self.along.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = counts.len().max(self.known);
        counts.resize(slots, (0, vec![0; self.along.k]));
        let (all, of_rank) = &mut counts[self.known - 1];
        *all += 1;
        if let Some(rank) = proposed[0].ids.iter().position(|&id| id == token) {
            of_rank[rank] += 1;
        }
        self.known += 1;
        Ok(())
    }

    fn finish(&mut self) -> Drafts {
        Drafts::chosen(vec![std::mem::take(&mut self.block)], f64::INFINITY)
    }
}
