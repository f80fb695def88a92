//! Candidates that depend on the path: what heads propose behind the tokens of a draft that is being grown.

use std::collections::HashMap;

use super::FrozenHeads;
use super::network::{Begun, Context, RowStates, Starts};
use crate::backbone::{FeatureTensors, Model};
use crate::error::Result;
use crate::nn::Largest;

/// Proposes tokens behind the paths of one block.
pub trait Growth {
    /// Returns the best next tokens, best first, behind each of `paths`, with the statistics of the softmax that they were
    /// chosen from. The paths have the same length, at most H - 1, and begin with the block's pinned token. Behind equal
    /// paths the tokens are the same, whatever else was asked for.
    ///
    /// # Errors
    /// Returns an error if logits are not finite.
    fn behind(&mut self, paths: &[&[u32]]) -> Result<Vec<Largest>>;
}

/// A block whose drafts are being grown by heads.
pub struct GrowingBlock<'a> {
    heads: &'a FrozenHeads,
    model: &'a Model,
    begun: Begun<'a>,
    /// The number of tokens proposed behind a path.
    k: usize,
    /// The rows of sequential heads, by their paths, and their states.
    rows: HashMap<Vec<u32>, usize>,
    states: RowStates,
    /// What parallel heads propose, by slot.
    found: Vec<Largest>,
}

impl FrozenHeads {
    /// Begins to grow the drafts of one block, given the backbone's states `[1, d]` at the token before it, its pinned token
    /// and, for heads that attend, its text. The heads will propose the `k` best tokens behind each path, or all where there
    /// are fewer. The rows that are run stay in the cache of a context.
    pub fn grow<'a>(
        &'a self,
        model: &'a Model,
        (states, pinned): (FeatureTensors, u32),
        context: Option<Context<'a>>,
        k: usize,
    ) -> GrowingBlock<'a> {
        let begun = self.network().begin(Starts { states, pinned: model.embed(&[pinned]), context });
        let (mut rows, mut states) = (HashMap::new(), RowStates::new());
        if let Begun::Sequential(begun) = &begun {
            rows.insert(vec![pinned], 0);
            states.push(begun.root());
        }
        GrowingBlock { heads: self, model, begun, k, rows, states, found: Vec::new() }
    }
}

impl Growth for GrowingBlock<'_> {
    fn behind(&mut self, paths: &[&[u32]]) -> Result<Vec<Largest>> {
        let length = paths.first().map_or(0, |path| path.len());
        match &mut self.begun {
            Begun::Parallel(states) => {
                while self.found.len() < length {
                    let head = self.found.len();
                    self.found.extend(self.heads.largest(head, states(head), self.k, true)?);
                }
                Ok(vec![self.found[length - 1].clone(); paths.len()])
            }
            Begun::Sequential(rows) => {
                // The rows on the way that were not run yet, level by level.
                for depth in 2..=length {
                    let mut new: Vec<&[u32]> = Vec::new();
                    for path in paths.iter().map(|path| &path[..depth]) {
                        if !self.rows.contains_key(path) && !new.contains(&path) {
                            new.push(path);
                        }
                    }
                    if new.is_empty() {
                        continue;
                    }
                    let parents: Vec<usize> = new.iter().map(|path| self.rows[&path[..depth - 1]]).collect();
                    let tokens: Vec<u32> = new.iter().map(|path| path[depth - 1]).collect();
                    let first = self.states.len();
                    self.states.push(rows.expand(&parents, self.model.embed(&tokens)));
                    self.rows.extend(new.iter().zip(first..).map(|(path, row)| (path.to_vec(), row)));
                }
                let rows: Vec<usize> = paths.iter().map(|&path| self.rows[path]).collect();
                self.heads.largest(length - 1, self.states.at(&rows), self.k, true)
            }
        }
    }
}
