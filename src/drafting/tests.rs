//! Tests that compare rescored drafts with their definitions.

use proptest::prelude::*;

use super::{Drafter, Drafts, Rescoring, Settings, SizedSelection};
use crate::backbone::{Model, Span};
use crate::error::Result;
use crate::lattice::testing::small_lattice;
use crate::lattice::{Lattice, Weighting, p_best};
use crate::rescorer::testing::{VOCABULARY, hidden, lattice, model};
use crate::rescorer::{
    BlockContext, BlockScores, BlockShape, GlobalScoring, NeuralRescorer, Normalisation, PrefixReader, PrefixToken,
    Rescorer, RescoringCost, Scoring, Table,
};

/// Returns the log-softmax of a row of scores.
fn log_probabilities(scores: impl Iterator<Item = f32>) -> Vec<f64> {
    let scores: Vec<f64> = scores.map(f64::from).collect();
    let normaliser = scores.iter().map(|x| x.exp()).sum::<f64>().ln();
    scores.iter().map(|x| x - normaliser).collect()
}

/// A rescorer with made-up scores of the tokens and their head scores. The latter show which head scores it reads.
struct Reading;

/// Returns the score that [`Reading`] gives to a candidate.
fn reading(id: u32, score: f32) -> f64 {
    -f64::from(id * 13 % 7) / 4.0 - f64::from(score.abs())
}

impl GlobalScoring for Reading {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let of_slot = |slot: usize| {
            let candidates = block.lattice.ids(slot).iter().zip(block.lattice.scores(slot));
            candidates.map(|(&id, &score)| reading(id, score)).collect()
        };
        Ok(Box::new(Table::new(block.lattice, of_slot)?))
    }
}

impl Rescorer for Reading {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Global(self)
    }

    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost::default()
    }
}

#[test]
fn tempering_divides_what_paths_are_compared_by_and_not_what_rescorers_read() {
    let (lattice, temperatures) = (lattice(3), vec![1.0, 4.0, 0.25, 2.0, 0.5]);
    let divided = lattice.tempered(&temperatures);
    let context = BlockContext::new(0, &lattice);
    let mut scores = Reading.scores(&[], &context).unwrap();
    let start = scores.start();
    let expected: Drafts = p_best(&divided, &mut *scores, start, Weighting::from(0.5), 4).into();
    let settings = |tempering| Settings {
        weighting: Weighting::from(0.5),
        slot_temperatures: temperatures.clone(),
        tempering,
        shares: vec![1.0],
        ..Settings::new(3, Vec::new(), 1.0)
    };
    let drafts = |tempering| {
        let (rescorers, selection): (Vec<&dyn Rescorer>, _) = (vec![&Reading], SizedSelection::Paths(4));
        let rescoring = Rescoring { rescorers, selection, include_top1: false, settings: settings(tempering) };
        rescoring.session().drafts(&[], &[context]).unwrap().remove(0)
    };
    assert_eq!(drafts(1.0), expected);
    assert_ne!(drafts(0.0).paths, expected.paths);
}

/// Returns the log-probabilities of the token after `text`, computed by one forward pass over the whole text.
fn log_softmax_after(model: &Model, text: &[u32]) -> Vec<f64> {
    let hidden = model.hidden(&[Span::chain(text)], None).narrow(0, text.len() - 1, 1);
    log_probabilities(model.logits(hidden).into_iter())
}

/// Returns the drafts of a local search for one block, computed by their definition, and the margin of the choice.
/// `behind` returns the rescorers' scores of the candidates of a slot behind a prefix.
fn by_definition(
    lattice: &Lattice,
    settings: &Settings,
    width: usize,
    behind: impl Fn(usize, &[u32]) -> Vec<f64>,
) -> Drafts {
    let Weighting { scale, decay } = settings.weighting;
    let mut beam = vec![(0.0, vec![lattice.ids(0)[0]])];
    let mut margin = f64::INFINITY;
    for slot in 1..lattice.slots() {
        let mut longer = Vec::new();
        for (score, prefix) in &beam {
            let after = behind(slot, prefix);
            for ((&id, &head), after) in lattice.ids(slot).iter().zip(lattice.scores(slot)).zip(after) {
                let one = (1.0 - scale) * f64::from(head) + scale * after;
                longer.push((score + decay.powi(slot as i32) * one, [&prefix[..], &[id]].concat()));
            }
        }
        longer.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        if longer.len() > width {
            margin = f64::min(margin, longer[width - 1].0 - longer[width].0);
        }
        longer.truncate(width);
        beam = longer;
    }
    Drafts::chosen(beam.into_iter().map(|(_, path)| path).collect(), margin)
}

#[test]
fn local_search_is_greedy_or_a_beam_by_definition() {
    let first = NeuralRescorer { model: model(8), normalise: Normalisation::Vocabulary };
    let second = NeuralRescorer { model: model(9), normalise: Normalisation::Candidates };
    let text: Vec<u32> = (0..20).map(|at| (at * 11 + 3) % VOCABULARY as u32).collect();
    let lattices: Vec<Lattice> = (0..3).map(|at| lattice(at * 5)).collect();
    let starts = [0, 6, 20];
    let hidden = hidden(0);
    let blocks: Vec<BlockContext> = starts
        .iter()
        .zip(&lattices)
        .map(|(&start, lattice)| BlockContext { hidden: &hidden, ..BlockContext::new(start, lattice) })
        .collect();
    for shares in [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]] {
        for (width, decay, scale) in [(1, 1.0, 0.6), (1, 0.8, 1.0), (4, 1.0, 0.6), (4, 0.8, 0.3), (9, 1.0, 1.0)] {
            let weighting = Weighting { scale, decay };
            let settings = Settings { weighting, shares: shares.to_vec(), ..Settings::new(3, vec![], 1.0) };
            let rescorers: Vec<&dyn Rescorer> = vec![&first, &second, &Reading];
            let rescoring = Rescoring {
                rescorers,
                selection: SizedSelection::Paths(width),
                include_top1: false,
                settings: settings.clone(),
            };
            let together = rescoring.session().drafts(&text, &blocks).unwrap();
            for ((&start, lattice), drafts) in starts.iter().zip(&lattices).zip(&together) {
                let behind = |slot: usize, prefix: &[u32]| {
                    let text = [&text[..start], prefix].concat();
                    let ids = lattice.ids(slot);
                    let of = |after: &[f64]| -> Vec<f64> { ids.iter().map(|&id| after[id as usize]).collect() };
                    let first = of(&log_softmax_after(&first.model, &text));
                    let second = of(&log_softmax_after(&second.model, &text));
                    let normaliser = second.iter().map(|x| x.exp()).sum::<f64>().ln();
                    let said = first.iter().zip(second).zip(ids.iter().zip(lattice.scores(slot)));
                    said.map(|((first, second), (&id, &head))| {
                        shares[0] * first + shares[1] * (second - normaliser) + shares[2] * reading(id, head)
                    })
                    .collect()
                };
                let expected = by_definition(lattice, &settings, width, behind);
                assert_eq!(drafts.paths, expected.paths, "start {start}, width {width}, shares {shares:?}");
                assert!((drafts.margin - expected.margin).abs() < 1e-4, "{} {}", drafts.margin, expected.margin);
            }
            // Drafting one block at a time, as live decoding does, gives the same paths.
            let mut session = rescoring.session();
            for (context, drafts) in blocks.iter().zip(together) {
                assert_eq!(session.drafts(&text[..context.start], &[*context]).unwrap()[0].paths, drafts.paths);
            }
        }
    }
}

/// A rescorer whose scores are multiples of -1/4 and depend on the whole text up to a token.
struct Hashing(u64);

impl Hashing {
    fn hash(&self, before: Option<u64>, token: u32) -> u64 {
        (before.unwrap_or(self.0) ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
    }

    fn score(&self, before: u64, token: u32) -> f64 {
        -((self.hash(Some(before), token) >> 61) as f64) / 4.0
    }

    fn of(&self, text: &[u32]) -> Option<u64> {
        text.iter().fold(None, |before, &token| Some(self.hash(before, token)))
    }
}

impl Rescorer for Hashing {
    fn scoring(&self) -> Scoring<'_> {
        Scoring::Local(Box::new(HashReader { rescorer: self, hashes: Vec::new() }))
    }

    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost::default()
    }
}

struct HashReader<'a> {
    rescorer: &'a Hashing,
    /// For each token, in the order of reading, the hash of all tokens up to it.
    hashes: Vec<u64>,
}

impl PrefixReader for HashReader<'_> {
    fn read(&mut self, text: &[u32], _: usize) -> Result<()> {
        self.hashes = (1..=text.len()).filter_map(|length| self.rescorer.of(&text[..length])).collect();
        Ok(())
    }

    fn extend(&mut self, newest: &[PrefixToken], _: bool) -> Result<Vec<Vec<f64>>> {
        let mut scores = Vec::new();
        for &PrefixToken { token, after, candidates, .. } in newest {
            let hash = self.rescorer.hash(after.map(|number| self.hashes[number]), token);
            self.hashes.push(hash);
            scores.push(candidates.iter().map(|&candidate| self.rescorer.score(hash, candidate)).collect());
        }
        Ok(scores)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Compares exactly, since all sums of these numbers are exact.
    #[test]
    fn several_readers_and_other_rescorers_are_summed(
        blocks in prop::collection::vec((small_lattice(), 0usize..5), 1..4),
        text in prop::collection::vec(0u32..6, 16),
        seeds: [u64; 2],
        shares in prop::sample::select(vec![[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]]),
        width in 1usize..6,
        scale in prop::sample::select(vec![0.25, 0.5, 1.0]),
        decay in prop::sample::select(vec![1.0, 0.5]),
    ) {
        let readers = seeds.map(Hashing);
        let rescorers: Vec<&dyn Rescorer> = vec![&readers[0], &readers[1], &Reading];
        let weighting = Weighting { scale, decay };
        let settings = Settings { weighting, shares: shares.to_vec(), ..Settings::new(4, vec![], 1.0) };
        let selection = SizedSelection::Paths(width);
        let rescoring = Rescoring { rescorers, selection, include_top1: false, settings: settings.clone() };
        let mut start = 0;
        let contexts: Vec<BlockContext> = blocks
            .iter()
            .map(|(lattice, step)| {
                start += step;
                BlockContext::new(start, lattice)
            })
            .collect();
        let together = rescoring.session().drafts(&text, &contexts).unwrap();
        let mut session = rescoring.session();
        for (context, found) in contexts.iter().zip(together) {
            let lattice = context.lattice;
            let behind = |slot: usize, prefix: &[u32]| {
                let text = [&text[..context.start], prefix].concat();
                let said = lattice.ids(slot).iter().zip(lattice.scores(slot));
                said.map(|(&id, &head)| {
                    let read = |at: usize| shares[at] * readers[at].score(readers[at].of(&text).unwrap(), id);
                    read(0) + read(1) + shares[2] * reading(id, head)
                })
                .collect()
            };
            prop_assert_eq!(&found, &by_definition(lattice, &settings, width, behind));
            prop_assert_eq!(&session.drafts(&text[..context.start], &[*context]).unwrap()[0], &found);
        }
        prop_assert_eq!(session.drafts(&text, &[]).unwrap(), []);
    }
}
