//! Walks over traced documents whose drafts are grown, without running the backbone. Several documents are walked over side by
//! side, so that the heads run a level of all their blocks at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::replay::{Route, Step};
use super::stop_if_interrupted;
use crate::backbone::Backbone;
use crate::drafting::{Drafter, Drafts, GrowingSession, Session};
use crate::error::Result;
use crate::heads::{BlockStarts, FrozenHeads, Growth, ReadDocuments};
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
    /// By the number of tokens before a block, then by path.
    known: Mutex<HashMap<usize, HashMap<Vec<u32>, Largest>>>,
}

impl<'a> TextGrowth<'a> {
    /// Prepares to propose the `k` best tokens behind every path.
    pub fn new(trace: &'a Trace, document: usize, heads: &'a FrozenHeads, backbone: &'a Backbone, k: usize) -> Self {
        Self { trace, document, heads, backbone, k, known: Mutex::default() }
    }

    /// Returns what is known behind each of `paths` of the block behind `start` tokens.
    fn known(&self, start: usize, paths: &[&[u32]]) -> Vec<Option<Largest>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_block = known.get(&start);
        paths.iter().map(|&path| of_block?.get(path).cloned()).collect()
    }

    fn remember(&self, start: usize, path: &[u32], proposed: Largest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(start).or_default().insert(path.to_vec(), proposed);
    }
}

/// The number of documents that are walked over side by side. With trees of several rows a level they keep the cores busy.
const SEATS: usize = 32;
/// The number of tokens that the heads keep of all of them together, if documents are long.
const KEPT_TOKENS: usize = 1 << 16;

/// Walks over documents of one trace with a drafter whose drafts grow. Returns for every block what `keep` makes of the
/// document's number among `routes`, the step and the drafts.
///
/// # Errors
/// Returns the errors of the heads and of the drafter.
pub fn walk_grown<T: Send>(
    routes: &[Route],
    drafter: &dyn Drafter,
    keep: impl Fn(usize, Step, &Drafts) -> T + Sync,
) -> Result<Vec<Vec<T>>> {
    let mut walked: Vec<Vec<T>> = routes.iter().map(|_| Vec::new()).collect();
    let Some(TextGrowth { trace, heads, backbone, .. }) = routes.first().map(|route| &route.text.growth) else {
        return Ok(walked);
    };
    let longest = routes.iter().map(|route| route.text.tokens.len()).max().unwrap_or(1);
    let seats = (KEPT_TOKENS / longest).clamp(1, SEATS).min(routes.len());
    let mut read = ReadDocuments::new(heads, &backbone.model, trace, seats);
    let mut waiting: VecDeque<usize> = (0..routes.len()).collect();
    let mut walks: Vec<Option<Walk<T>>> = (0..seats).map(|_| None).collect();
    loop {
        // Every walk goes on alone until it wants what is not known, or ends. A seat that is free is taken.
        for walk in &mut walks {
            if walk.is_none() {
                *walk = waiting.pop_front().map(|number| Walk::new(number, &routes[number], drafter));
            }
        }
        stop_if_interrupted()?;
        walks.par_iter_mut().flatten().try_for_each(|walk| walk.go_on(&keep))?;
        let mut ended = false;
        for walk in &mut walks {
            if let Some(Walk { number, kept, .. }) = walk.take_if(|walk| walk.block.is_none()) {
                walked[number] = kept;
                ended = true;
            }
        }
        if ended && !waiting.is_empty() {
            continue;
        }
        let mut stuck: Vec<(usize, &mut Walk<T>)> =
            walks.iter_mut().enumerate().filter_map(|(seat, walk)| Some((seat, walk.as_mut()?))).collect();
        if stuck.is_empty() {
            return Ok(walked);
        }
        ask(&mut stuck, &mut read)?;
    }
}

/// Runs the heads for the blocks at which walks are stuck, until each of these blocks has grown.
fn ask<T: Send>(stuck: &mut [(usize, &mut Walk<T>)], read: &mut ReadDocuments) -> Result<()> {
    let (mut places, mut pinned) = (Vec::new(), Vec::new());
    for (seat, walk) in stuck.iter_mut() {
        let text = walk.route.text;
        if !std::mem::replace(&mut walk.read, true) {
            read.read(*seat, text.growth.document)?;
        }
        places.push((*seat, walk.start() - 1));
        pinned.push(text.tokens[walk.start()]);
    }
    let TextGrowth { heads, backbone, k, .. } = &stuck[0].1.route.text.growth;
    let (states, context) = read.behind(&places);
    let starts = BlockStarts { states: &states, pinned: &pinned, context };
    let mut growth = heads.grow(&backbone.model, starts, *k);
    loop {
        let unknown = |(block, (_, walk)): (usize, &mut (usize, &mut Walk<T>))| {
            let (start, growth) = (walk.start(), &walk.route.text.growth);
            let wanted = walk.wanted();
            let known = growth.known(start, &wanted);
            let unknown = wanted.into_iter().zip(known).filter(|(_, known)| known.is_none());
            unknown.map(|(path, _)| (block, path.to_vec())).collect::<Vec<_>>()
        };
        let unknown: Vec<(usize, Vec<u32>)> = stuck.iter_mut().enumerate().flat_map(unknown).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let paths: Vec<(usize, &[u32])> = unknown.iter().map(|(block, path)| (*block, &path[..])).collect();
        for ((block, path), proposed) in unknown.iter().zip(growth.behind(&paths)?) {
            let walk = &stuck[*block].1;
            walk.route.text.growth.remember(walk.start(), path, proposed);
        }
        stuck.par_iter_mut().try_for_each(|(_, walk)| walk.grow())?;
    }
}

/// A walk over one document.
struct Walk<'a, T> {
    /// The number of its route.
    number: usize,
    route: &'a Route<'a>,
    drafter: &'a dyn Drafter,
    session: Box<dyn Session + 'a>,
    /// The block that is being grown, by the number of tokens of the continuation before it. None before the first and after
    /// the last.
    block: Option<usize>,
    kept: Vec<T>,
    /// Whether the heads have read the document.
    read: bool,
}

impl<'a, T> Walk<'a, T> {
    fn new(number: usize, route: &'a Route<'a>, drafter: &'a dyn Drafter) -> Self {
        Self { number, route, drafter, session: drafter.session(), block: None, kept: Vec::new(), read: false }
    }

    /// Goes on until something is wanted that is not known. At the end of the walk, no block is being grown.
    fn go_on(&mut self, keep: &impl Fn(usize, Step, &Drafts) -> T) -> Result<()> {
        if self.block.is_none() {
            self.begin(self.route.next(0, 0))?;
        }
        while let Some(start) = self.block {
            // Where all is known from earlier walks, nobody is asked until the document ends.
            stop_if_interrupted()?;
            self.grow()?;
            if !self.wanted().is_empty() {
                break;
            }
            let drafts = growing(&mut self.session).finish();
            let step = self.route.step(start, &drafts, self.drafter);
            let accepted = step.accepted;
            self.kept.push(keep(self.number, step, &drafts));
            self.begin(self.route.next(self.kept.len(), start + accepted))?;
        }
        Ok(())
    }

    /// Begins the block at `next`, if the walk has not ended.
    fn begin(&mut self, next: Option<usize>) -> Result<()> {
        self.block = next;
        let Some(start) = next else { return Ok(()) };
        let Route { text, lattices, .. } = self.route;
        growing(&mut self.session).begin(&text.tokens, &text.block_context(start, &lattices[start]))
    }

    /// Grows the block as far as everything that is wanted is known.
    fn grow(&mut self) -> Result<()> {
        let start = self.start();
        let growing = growing(&mut self.session);
        loop {
            let wanted = growing.wanted();
            let known: Option<Vec<Largest>> = self.route.text.growth.known(start, &wanted).into_iter().collect();
            match known {
                Some(known) if !wanted.is_empty() => growing.give(&known)?,
                _ => return Ok(()),
            }
        }
    }

    /// Returns the paths behind which tokens are wanted next.
    fn wanted(&mut self) -> Vec<&[u32]> {
        growing(&mut self.session).wanted()
    }

    /// Returns the number of tokens before the block.
    fn start(&self) -> usize {
        self.route.text.prompt + self.block.expect("a block is being grown")
    }
}

/// Returns a session as one whose drafts grow.
fn growing<'s>(session: &'s mut Box<dyn Session + '_>) -> &'s mut dyn GrowingSession {
    session.growing().expect("the drafter says that its drafts grow")
}
