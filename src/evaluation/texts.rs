//! The documents of a split with their lattices, and walks over all of them.

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;

use super::analyses::loops;
use super::{ReplayText, Step, replay};
use crate::drafting::{Drafter, StopRule};
use crate::error::{Result, bail};
use crate::heads::StoredCandidates;
use crate::lattice::Lattice;
use crate::traces::Trace;

/// The documents of a split that have a continuation, with their lattices cut to the k that variants draft from.
pub struct Texts {
    /// The documents.
    pub texts: Vec<ReplayText>,
    /// Of each, whether its continuation loops.
    pub looping: Vec<bool>,
    /// What building the lattices from stored candidates took.
    pub seconds: f64,
    /// By stop rule, the lattices of every document, which end where the rule ends blocks.
    lattices: Vec<(StopRule, Vec<Vec<Lattice>>)>,
}

impl Texts {
    /// Every document of `trace` with the lattices that `candidates` gives, cut to the top `k` and, once for each of `stops`,
    /// to where that rule ends blocks.
    ///
    /// # Errors
    /// A trace without a continuation; candidates that are not of this trace.
    pub fn new(trace: &Trace, candidates: &StoredCandidates, k: usize, stops: &[StopRule]) -> Result<Self> {
        let (started, mut texts) = (Instant::now(), Vec::new());
        for (document, entry) in trace.documents().iter().enumerate().filter(|(_, entry)| entry.continuation > 0) {
            texts.push(ReplayText::new(trace, document, candidates, k).map_err(|e| e.within(&entry.id))?);
        }
        if texts.is_empty() {
            bail!("no traced document has a continuation; there is nothing to evaluate.");
        }
        let mut lattices: Vec<(StopRule, Vec<Vec<Lattice>>)> = Vec::new();
        for &stop in stops {
            if lattices.iter().all(|(known, _)| *known != stop) {
                lattices.push((stop, texts.iter().map(|text| text.narrowed(k, stop)).collect::<Result<_>>()?));
            }
        }
        let looping = texts.iter().map(|text| loops::loops(text.continuation())).collect();
        Ok(Self { texts, looping, seconds: started.elapsed().as_secs_f64(), lattices })
    }

    /// The lattices of every document under a stop rule that the texts were made for.
    pub fn lattices(&self, stop: StopRule) -> &[Vec<Lattice>] {
        let found = self.lattices.iter().find(|(known, _)| *known == stop);
        &found.expect("the lattices of every variant's rule were built").1
    }

    /// Returns what `work` makes of every document, given its number, under a stop rule. Documents are independent, so the
    /// number of threads changes nothing.
    ///
    /// # Errors
    /// The first that `work` returns.
    pub fn of_each<R: Send>(
        &self,
        stop: StopRule,
        drafter: &dyn Drafter,
        work: impl Fn(usize, &ReplayText, &[Lattice]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let lattices = self.lattices(stop);
        let one = |number: usize| work(number, &self.texts[number], &lattices[number]);
        let numbers = 0..self.texts.len();
        // Where drafting at all starts at once is better, the device parallelises inside.
        if drafter.prefers_all_starts() {
            numbers.map(one).collect()
        } else {
            numbers.into_par_iter().map(one).collect()
        }
    }

    /// Walks over every document.
    ///
    /// # Errors
    /// What the drafter fails with.
    pub fn walk(&self, stop: StopRule, drafter: &dyn Drafter) -> Result<Vec<Vec<Step>>> {
        self.of_each(stop, drafter, |_, text, lattices| replay(text, lattices, drafter))
    }

    /// Decoded tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.continuation().len() as u64).sum()
    }

    /// The group of every document, groups numbered in order of appearance.
    pub fn groups(&self) -> Vec<usize> {
        let mut numbers = BTreeMap::new();
        self.texts
            .iter()
            .map(|text| {
                let next = numbers.len();
                *numbers.entry(text.entry.group.as_str()).or_insert(next)
            })
            .collect()
    }
}
