//! Candidates that depend on the path: what heads propose behind the tokens of drafts that are being grown.

use std::collections::{BTreeSet, HashMap};

use super::network::{Begun, RowStates, Starts};
use super::{BlockStarts, FrozenHeads};
use crate::backbone::Model;
use crate::error::Result;
use crate::kernels::SoftmaxStats;
use crate::nn::{Largest, Tokens};

/// Proposes tokens behind the paths of blocks.
pub trait Growth {
    /// Returns the best next tokens, best first, behind each of `paths`, with the statistics of the softmax that they were
    /// chosen from. Each path, of at most H - 1 tokens, stands behind the number of its block and begins with the block's
    /// pinned token; blocks ascend. Behind equal paths of a block the tokens are the same, whatever else is asked for.
    ///
    /// # Errors
    /// Returns an error if logits are not finite.
    fn behind(&mut self, paths: &[(usize, &[u32])]) -> Result<Vec<Largest>>;
}

/// Blocks whose drafts are being grown by heads, side by side. The rows of a level of all of them are run together.
pub struct GrowingBlocks<'a> {
    heads: &'a FrozenHeads,
    model: &'a Model,
    begun: Begun<'a>,
    /// The number of tokens proposed behind a path.
    k: usize,
    where_finite: bool,
    /// The rows of sequential heads by their paths, for each block, and the states of all rows.
    rows: Vec<HashMap<Vec<u32>, usize>>,
    states: RowStates,
    /// What parallel heads propose: by slot, for each block.
    found: Vec<Vec<Largest>>,
}

impl FrozenHeads {
    /// Begins to grow the drafts of blocks. The heads will propose the `k` best tokens behind each path, or all where there are
    /// fewer. The rows that are run stay in the cache of a context.
    pub fn grow<'a>(&'a self, model: &'a Model, starts: BlockStarts<'a>, k: usize) -> GrowingBlocks<'a> {
        let BlockStarts { states, pinned, context } = starts;
        let pinned_tokens = Tokens::new(pinned, model.embed(pinned));
        let starts = Starts { model, states: states.clone(), pinned: pinned_tokens, context };
        let begun = self.network().begin(starts);
        let (mut rows, mut states) = (vec![HashMap::new(); pinned.len()], RowStates::new());
        if let Begun::Sequential(begun) = &begun {
            (0..).zip(rows.iter_mut().zip(pinned)).for_each(|(row, (of_block, &pinned))| {
                of_block.insert(vec![pinned], row);
            });
            states.push(begun.root());
        }
        GrowingBlocks { heads: self, model, begun, k, where_finite: false, rows, states, found: Vec::new() }
    }
}

impl GrowingBlocks<'_> {
    /// Proposes nothing behind paths where logits are not finite, instead of failing.
    #[must_use]
    pub fn where_finite(self) -> Self {
        Self { where_finite: true, ..self }
    }

    /// Runs the rows of sequential heads on the way to `paths` that were not run yet, level by level.
    fn run(&mut self, paths: &[(usize, &[u32])]) {
        let Begun::Sequential(begun) = &mut self.begun else { return };
        let longest = paths.iter().map(|(_, path)| path.len()).max().unwrap_or(0);
        for depth in 2..=longest {
            let mut new: Vec<(usize, &[u32])> = Vec::new();
            for &(block, path) in paths {
                let Some(path) = path.get(..depth) else { continue };
                if !self.rows[block].contains_key(path) && !new.contains(&(block, path)) {
                    new.push((block, path));
                }
            }
            if new.is_empty() {
                continue;
            }
            let parents: Vec<usize> = new.iter().map(|&(block, path)| self.rows[block][&path[..depth - 1]]).collect();
            let tokens: Vec<u32> = new.iter().map(|(_, path)| path[depth - 1]).collect();
            let first = self.states.len();
            self.states.push(begun.expand(&parents, Tokens::new(&tokens, self.model.embed(&tokens))));
            for ((block, path), row) in new.into_iter().zip(first..) {
                self.rows[block].insert(path.to_vec(), row);
            }
        }
    }

    /// Returns what head `head` (0 is head 2) proposes behind paths of its length.
    fn proposals(&mut self, head: usize, paths: &[(usize, &[u32])]) -> Result<Vec<Largest>> {
        let Self { heads, begun, k, where_finite, rows, states, found, .. } = self;
        let largest = |head, states| {
            if !*where_finite {
                return heads.largest(head, states, *k, true);
            }
            let stats = Some(SoftmaxStats { log_sum: 0.0, entropy: 0.0 });
            let nothing = Largest { ids: Vec::new(), logits: Vec::new(), stats };
            let found = heads.largest_where_finite(head, states, *k, true).into_iter();
            Ok(found.map(|found| found.unwrap_or_else(|| nothing.clone())).collect())
        };
        match begun {
            Begun::Parallel(of_head) => {
                while found.len() <= head {
                    found.push(largest(found.len(), of_head(found.len()))?);
                }
                Ok(paths.iter().map(|&(block, _)| found[head][block].clone()).collect())
            }
            Begun::Sequential(_) => {
                let rows: Vec<usize> = paths.iter().map(|&(block, path)| rows[block][path]).collect();
                largest(head, states.at(&rows))
            }
        }
    }
}

impl Growth for GrowingBlocks<'_> {
    fn behind(&mut self, paths: &[(usize, &[u32])]) -> Result<Vec<Largest>> {
        self.run(paths);
        let lengths: BTreeSet<usize> = paths.iter().map(|(_, path)| path.len()).collect();
        let mut found = vec![None; paths.len()];
        for length in lengths {
            let places: Vec<usize> = (0..paths.len()).filter(|&place| paths[place].1.len() == length).collect();
            let of_length: Vec<(usize, &[u32])> = places.iter().map(|&place| paths[place]).collect();
            for (place, proposed) in places.into_iter().zip(self.proposals(length - 1, &of_length)?) {
                found[place] = Some(proposed);
            }
        }
        Ok(found.into_iter().map(|found| found.expect("every path has a length")).collect())
    }
}
