//! Drafts from head scores alone.

use super::{Drafter, Drafts, Session};
use crate::error::Result;
use crate::lattice::{Lattice, NoScorer, p_best};

/// Plain blockwise parallel decoding: every head's own best token.
#[derive(Debug, Clone, Copy)]
pub struct Bpd;

impl Drafter for Bpd {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(*self)
    }

    fn reads_whole_lattice(&self) -> bool {
        false
    }
}

impl Session for Bpd {
    fn drafts(&mut self, _text: &[u32], _starts: &[usize], lattices: &[&Lattice]) -> Result<Vec<Drafts>> {
        Ok(lattices
            .iter()
            .map(|lattice| Drafts { paths: vec![lattice.top1()], margin: first_leads(lattice) })
            .collect())
    }
}

/// The smallest lead of a slot's first candidate over its second.
fn first_leads(lattice: &Lattice) -> f64 {
    let lead = |slot| match lattice.scores(slot) {
        [first, second, ..] => f64::from(first - second),
        _ => f64::INFINITY,
    };
    (0..lattice.slots()).map(lead).fold(f64::INFINITY, f64::min)
}

/// p-best 0-gram: the p best paths by head scores, the control for p-best n-gram (arXiv 2404.09221).
#[derive(Debug, Clone, Copy)]
pub struct PBestHeads {
    /// p
    pub paths: usize,
}

impl Drafter for PBestHeads {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(*self)
    }
}

impl Session for PBestHeads {
    fn drafts(&mut self, _text: &[u32], _starts: &[usize], lattices: &[&Lattice]) -> Result<Vec<Drafts>> {
        Ok(lattices.iter().map(|lattice| p_best(lattice, &NoScorer, (), 0.0, self.paths).into()).collect())
    }
}

impl From<crate::lattice::PBest> for Drafts {
    fn from(best: crate::lattice::PBest) -> Self {
        Self { paths: best.paths.into_iter().map(|path| path.tokens).collect(), margin: best.margin }
    }
}
