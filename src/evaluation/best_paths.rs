//! What more drafts buy: block efficiency by the number of best paths, by replay.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{ReplayText, Step};
use crate::drafting::{Decision, Drafter, TightestMargin};
use crate::error::Result;
use crate::lattice::{DraftTree, Lattice, accepted_length};

/// Walks one text once for each of `counts`, with that many of the best paths that `drafter` gives, the most of them at every
/// start. Where `include_top1`, plain decoding's draft is added to several that lack it. The few best are the first of the
/// many, so every start is searched once.
pub fn replay_best_paths(
    text: &ReplayText,
    lattices: &[Lattice],
    drafter: &dyn Drafter,
    counts: &[usize],
    include_top1: bool,
) -> Result<Vec<Vec<Step>>> {
    let target = text.continuation();
    let mut session = drafter.session();
    let mut found: HashMap<usize, Vec<Vec<u32>>> = HashMap::new();
    let mut walk = |count: usize| -> Result<Vec<Step>> {
        let (mut steps, mut start) = (Vec::new(), 0);
        while start < target.len() {
            let lattice = &lattices[start];
            let paths = match found.entry(start) {
                Entry::Occupied(earlier) => earlier.into_mut(),
                Entry::Vacant(place) => {
                    let drafts = session.drafts(&text.tokens, &[text.block_context(start, lattice)])?.remove(0);
                    place.insert(drafts.paths)
                }
            };
            let best = &paths[..count.min(paths.len())];
            let top1 = lattice.top1();
            let added = (include_top1 && count > 1 && !best.contains(&top1)).then_some(&top1);
            let paths: Vec<&[u32]> = best.iter().chain(added).map(Vec::as_slice).collect();
            let accepted = accepted_length(&paths, &target[start..]).max(1);
            steps.push(Step {
                start,
                accepted,
                slots: lattice.slots().min(target.len() - start),
                nodes: DraftTree::from_paths(&paths).len(),
                tightest: TightestMargin::new(Decision::Draft, f64::INFINITY),
            });
            start += accepted;
        }
        Ok(steps)
    };
    counts.iter().map(|&count| walk(count)).collect()
}
