//! The documents of a split with their lattices, and walks over them.

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;

use super::analyses::loops;
use super::{ReplayText, Route, Step, replay_all};
use crate::backbone::Backbone;
use crate::drafting::{Drafter, Drafts, StopRule};
use crate::error::{Result, bail};
use crate::heads::{FrozenHeads, StoredCandidates};
use crate::lattice::Lattice;
use crate::traces::Trace;

/// The documents of a split that have a continuation, with the lattices that variants draft from.
pub struct Texts<'a> {
    /// The documents.
    pub texts: Vec<ReplayText<'a>>,
    /// For each document, whether its continuation loops.
    pub looping: Vec<bool>,
    /// The seconds that it took to build the lattices from stored candidates.
    pub seconds: f64,
    /// For each stop rule, the lattices of every document. They end where the rule ends blocks.
    lattices: Vec<(StopRule, Vec<Vec<Lattice>>)>,
}

impl<'a> Texts<'a> {
    /// Reads every document of `trace` that has a continuation, with its lattices from `candidates`, those of the heads. For
    /// each rule of `stops`, the lattices are cut to the top `k` and to where the rule ends blocks.
    ///
    /// # Errors
    /// Returns an error if no document has a continuation, or if the candidates belong to another trace.
    pub fn new(
        trace: &'a Trace,
        candidates: &StoredCandidates,
        heads: (&'a FrozenHeads, &'a Backbone),
        k: usize,
        stops: &[StopRule],
    ) -> Result<Self> {
        let (started, mut texts) = (Instant::now(), Vec::new());
        for (document, entry) in trace.documents().iter().enumerate().filter(|(_, entry)| entry.continuation > 0) {
            texts.push(ReplayText::new(trace, document, candidates, heads, k).map_err(|e| e.within(&entry.id))?);
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
        let looping = texts.iter().map(|text| loops(text.continuation())).collect();
        Ok(Self { texts, looping, seconds: started.elapsed().as_secs_f64(), lattices })
    }

    /// Returns the lattices of every document under a stop rule. The rule must be one that the texts were made for.
    pub fn lattices(&self, stop: StopRule) -> &[Vec<Lattice>] {
        let found = self.lattices.iter().find(|(known, _)| *known == stop);
        &found.expect("the lattices of every variant's rule were built").1
    }

    /// Calls `work` for every document, with its lattices under a stop rule, and returns the results. Documents are independent,
    /// so the number of threads does not change the results.
    ///
    /// # Errors
    /// Returns an error that `work` returns.
    pub fn of_each<R: Send>(
        &self,
        stop: StopRule,
        work: impl Fn(&ReplayText, &[Lattice]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        self.texts.par_iter().zip(self.lattices(stop)).map(|(text, lattices)| work(text, lattices)).collect()
    }

    /// Walks over every document with a drafter, and returns for every block what `keep` makes of the document's number, its step
    /// and its drafts.
    ///
    /// # Errors
    /// Returns an error if the drafter fails.
    pub fn walk_with<T: Send>(
        &self,
        stop: StopRule,
        drafter: &dyn Drafter,
        keep: impl Fn(usize, Step, &Drafts) -> T + Sync,
    ) -> Result<Vec<Vec<T>>> {
        let routes = self.texts.iter().zip(self.lattices(stop)).map(|(text, lattices)| Route::walk(text, lattices));
        replay_all(&routes.collect::<Vec<_>>(), drafter, keep)
    }

    /// Walks over every document with a drafter.
    ///
    /// # Errors
    /// Returns an error if the drafter fails.
    pub fn walk(&self, stop: StopRule, drafter: &dyn Drafter) -> Result<Vec<Vec<Step>>> {
        self.walk_with(stop, drafter, |_, step, _| step)
    }

    /// Returns the number of decoded tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.continuation().len() as u64).sum()
    }

    /// Returns the group of every document. Groups are numbered in order of appearance.
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
