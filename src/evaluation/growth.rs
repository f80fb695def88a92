//! What drafts of a traced document are grown from, without running the backbone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::backbone::Backbone;
use crate::error::Result;
use crate::heads::{FrozenHeads, GrowingBlock, Growth, ReadDocument};
use crate::nn::Largest;
use crate::traces::Trace;

/// The heads on one traced document. What they propose behind a path does not depend on who asks, so it is remembered: the
/// many walks of a search for settings run the heads once.
pub struct TextGrowth<'a> {
    trace: &'a Trace,
    /// The number of the document in the trace.
    document: usize,
    heads: &'a FrozenHeads,
    backbone: &'a Backbone,
    k: usize,
    /// By the number of tokens before a block, and the path.
    known: Mutex<HashMap<(usize, Vec<u32>), Largest>>,
}

impl<'a> TextGrowth<'a> {
    /// Prepares to propose the `k` best tokens behind every path.
    pub fn new(trace: &'a Trace, document: usize, heads: &'a FrozenHeads, backbone: &'a Backbone, k: usize) -> Self {
        Self { trace, document, heads, backbone, k, known: Mutex::default() }
    }

    /// Opens the document for a walk. Nothing is read before something unknown is asked for.
    pub fn open(&self) -> OpenedGrowth<'_> {
        OpenedGrowth { text: self, read: None }
    }
}

/// A document that is open for a walk.
pub struct OpenedGrowth<'a> {
    text: &'a TextGrowth<'a>,
    read: Option<ReadDocument>,
}

impl<'a> OpenedGrowth<'a> {
    /// Returns what a block with this pinned token grows from, behind the first `start` tokens of the document.
    pub fn at(&mut self, start: usize, pinned: u32) -> BlockGrowth<'a, '_> {
        BlockGrowth { text: self.text, read: Some(&mut self.read), start, pinned, growing: None }
    }
}

/// What one block grows from.
pub struct BlockGrowth<'a, 'b> {
    text: &'a TextGrowth<'a>,
    /// Taken when the heads begin.
    read: Option<&'b mut Option<ReadDocument>>,
    start: usize,
    pinned: u32,
    growing: Option<GrowingBlock<'b>>,
}

impl<'a: 'b, 'b> BlockGrowth<'a, 'b> {
    fn begin(&mut self) -> Result<&mut GrowingBlock<'b>> {
        if let Some(read) = self.read.take() {
            let text = self.text;
            let model = &text.backbone.model;
            let read = match read {
                Some(read) => read,
                None => read.insert(text.heads.read_document(model, text.trace, text.document)?),
            };
            let (states, context) = read.behind(self.start - 1..self.start);
            self.growing = Some(text.heads.grow(model, (states, self.pinned), context, text.k));
        }
        Ok(self.growing.as_mut().expect("begun"))
    }
}

impl<'a: 'b, 'b> Growth for BlockGrowth<'a, 'b> {
    fn behind(&mut self, paths: &[&[u32]]) -> Result<Vec<Largest>> {
        let key = |path: &[u32]| (self.start, path.to_vec());
        let known = |text: &TextGrowth| -> Vec<Option<Largest>> {
            let known = text.known.lock().unwrap_or_else(PoisonError::into_inner);
            paths.iter().map(|path| known.get(&key(path)).cloned()).collect()
        };
        let mut found = known(self.text);
        let unknown: Vec<usize> = (0..paths.len()).filter(|&at| found[at].is_none()).collect();
        if !unknown.is_empty() {
            let asked: Vec<&[u32]> = unknown.iter().map(|&at| paths[at]).collect();
            let proposed = self.begin()?.behind(&asked)?;
            let mut known = self.text.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (&at, proposed) in unknown.iter().zip(proposed) {
                known.insert((self.start, paths[at].to_vec()), proposed.clone());
                found[at] = Some(proposed);
            }
        }
        Ok(found.into_iter().map(|found| found.expect("known or proposed")).collect())
    }
}
