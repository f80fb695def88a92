//! Blocks that end by a bound that dev has chosen, and that may follow what is accepted (AdaEDL, arXiv 2410.18351, section 3).

use super::{Drafter, Drafts, Origin, Session, StopMeasure, StopRule, early_stop_len};
use crate::error::Result;
use crate::rescorer::BlockContext;

/// A drafter whose blocks end where a rule without a bound of its own ([`StopRule::Tuned`], [`StopRule::Adaptive`]) ends them.
pub struct TunedStop<'a> {
    /// What drafts the slots before the end.
    pub inner: Box<dyn Drafter + 'a>,
    /// What is compared with the bound.
    pub measure: StopMeasure,
    /// The bound that every document begins with.
    pub bound: f64,
    /// Whether the bound belongs to the document: it rises while few of the drafted tokens are accepted, so that blocks become
    /// shorter, and falls while most are.
    pub follows: bool,
}

impl Drafter for TunedStop<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        let bound = DocumentBound { bound: self.bound, rate: None };
        let (measure, follows) = (self.measure, self.follows);
        Box::new(TunedSession { inner: self.inner.session(), measure, bound, follows, last: None })
    }

    fn reads_whole_lattice(&self) -> bool {
        self.inner.reads_whole_lattice()
    }

    fn reads_heads(&self) -> bool {
        self.inner.reads_heads()
    }

    fn reads_states(&self) -> bool {
        self.inner.reads_states()
    }

    fn origin(&self) -> Origin {
        self.inner.origin()
    }
}

/// The bound of a document.
struct DocumentBound {
    bound: f64,
    /// The mean share of drafted tokens that were accepted, of which the last block is one half. The paper does not say where it
    /// begins; here it is that of the first block.
    rate: Option<f64>,
}

/// The share of accepted tokens that the bound aims at, how far the bound is to move, and how much of that it moves at once. The
/// pinned token is neither drafted nor accepted here.
const WANTED_RATE: f64 = 0.9;
const STEP: f64 = 0.01;
const MOVED: f64 = 0.1;

impl DocumentBound {
    /// Takes in a block of which `accepted` of `drafted` tokens were accepted, where `most` could have been drafted.
    fn learn(&mut self, accepted: usize, drafted: usize, most: usize) {
        if drafted == 0 {
            return;
        }
        let share = accepted as f64 / drafted as f64;
        let rate = self.rate.map_or(share, |rate| 0.5 * rate + 0.5 * share);
        self.rate = Some(rate);
        let wanted = match rate {
            rate if rate < WANTED_RATE => self.bound + STEP,
            _ if accepted != most => self.bound - STEP,
            _ => self.bound,
        };
        self.bound = (1.0 - MOVED) * self.bound + MOVED * wanted;
    }
}

struct TunedSession<'a> {
    inner: Box<dyn Session + 'a>,
    measure: StopMeasure,
    bound: DocumentBound,
    follows: bool,
    /// Where the block before began, and how many tokens were and could have been drafted behind its pinned token.
    last: Option<(usize, usize, usize)>,
}

impl Session for TunedSession<'_> {
    fn drafts(&mut self, text: &[u32], blocks: &[BlockContext]) -> Result<Vec<Drafts>> {
        let one = |block: &BlockContext| {
            if let Some((start, drafted, most)) = self.last.filter(|_| self.follows) {
                self.bound.learn((block.start - start - 1).min(drafted), drafted, most);
            }
            let rule = StopRule::Below(self.measure, self.bound.bound.clamp(0.0, 1.0));
            let (slots, distance) = early_stop_len(rule, block.lattice, block.stats);
            let lattice = block.lattice.prefix(slots, usize::MAX)?;
            self.last = Some((block.start, slots - 1, block.lattice.slots() - 1));
            let mut drafts = self.inner.drafts(text, &[BlockContext { lattice: &lattice, ..*block }])?.remove(0);
            drafts.margin = drafts.margin.min(distance);
            Ok(drafts)
        };
        blocks.iter().map(one).collect()
    }

    fn skip(&mut self) {
        // The next block begins behind a token that was not drafted, so it says nothing about the block before.
        self.last = None;
        self.inner.skip();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::Bpd;
    use crate::heads::SlotStats;
    use crate::kernels::SoftmaxStats;
    use crate::lattice::Lattice;

    /// The rounds of the formulas, one after the other.
    #[test]
    fn the_bound_follows_what_is_accepted() {
        let mut bound = DocumentBound { bound: 0.5, rate: None };
        let mut expect = |accepted, drafted, rate: f64, value: f64| {
            bound.learn(accepted, drafted, 4);
            assert!((bound.rate.unwrap() - rate).abs() < 1e-12, "{:?}", bound.rate);
            assert!((bound.bound - value).abs() < 1e-12, "{}", bound.bound);
        };
        expect(1, 4, 0.25, 0.501);
        expect(4, 4, 0.625, 0.502);
        expect(4, 4, 0.8125, 0.503);
        // From here on nine of ten are accepted: all that could be drafted, then all of fewer.
        expect(4, 4, 0.90625, 0.503);
        expect(3, 3, 0.953125, 0.502);
        expect(0, 0, 0.953125, 0.502);
    }

    #[test]
    fn nothing_is_learnt_from_a_block_without_drafts() {
        let lattice = Lattice::pinned(7, 1, &[1], &[0.0]).unwrap();
        let stats = [SlotStats { softmax: SoftmaxStats { log_sum: 0.0, entropy: 0.0 }, confidence: None }];
        let mut session = TunedSession {
            inner: Bpd.session(),
            measure: StopMeasure::EntropyBound,
            follows: true,
            bound: DocumentBound { bound: 0.5, rate: None },
            last: Some((0, 1, 1)),
        };
        session.skip();
        session.drafts(&[0; 40], &[BlockContext { stats: &stats, ..BlockContext::new(2, &lattice) }]).unwrap();
        assert_eq!((session.bound.rate, session.last), (None, Some((2, 1, 1))));
    }

    #[test]
    fn a_block_ends_by_the_bound_that_the_blocks_before_left() {
        let lattice = Lattice::pinned(7, 1, &[1, 2, 3], &[0.0, 0.0, 0.0]).unwrap();
        // The values of 1 - sqrt(0.2 H) are 0.8, 0.5005 and 0.2.
        let stats = [0.2, 5.0 * 0.4995f32.powi(2), 3.2]
            .map(|entropy| SlotStats { softmax: SoftmaxStats { log_sum: 0.0, entropy }, confidence: None });
        for (follows, second) in [(true, [7, 1].to_vec()), (false, [7, 1, 2].to_vec())] {
            let stop = TunedStop { inner: Box::new(Bpd), measure: StopMeasure::EntropyBound, bound: 0.5, follows };
            let mut session = stop.session();
            let mut draft = |start| {
                let block = BlockContext { stats: &stats, ..BlockContext::new(start, &lattice) };
                session.drafts(&[0; 40], &[block]).unwrap().remove(0).paths.remove(0)
            };
            assert_eq!(draft(0), [7, 1, 2]);
            // None of the two was accepted, so a bound that follows is 0.501 now.
            assert_eq!(draft(1), second);
        }
    }
}
