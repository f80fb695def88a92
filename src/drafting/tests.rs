//! Rescored drafts against their definitions.

use burn::tensor::Device;

use super::{Drafter, Drafts, Rescoring, Settings, SizedSelection};
use crate::backbone::{Model, ModelConfig, Span, Transformer};
use crate::config::{LanguageModelConfig, Normalisation, StorageType};
use crate::error::Result;
use crate::lattice::{Lattice, Weighting, p_best};
use crate::nn::Init;
use crate::rescorer::{BlockContext, BlockShape, NeuralRescorer, Rescorer, RescoringCost, Scores, Sum, Table};

const VOCABULARY: usize = 40;
const WIDTH: usize = 16;

fn model(seed: u64) -> Model {
    let size = LanguageModelConfig { hidden: WIDTH, layers: 1, heads: 2, kv_heads: 1, intermediate: 24, context: 64 };
    let config = ModelConfig::from_scratch(&size, VOCABULARY);
    let trained = Transformer::new(&config, &mut Init::seeded(seed, &Device::flex()));
    Model::freeze(&trained, StorageType::Float32).unwrap()
}

/// Four slots of three candidates behind a pinned one.
fn lattice(shift: u32) -> Lattice {
    let ids: Vec<u32> = (0..12).map(|at| (at * 7 + shift) % VOCABULARY as u32).collect();
    let scores: Vec<f32> = (0..12).map(|at| 2.0 - 0.7 * (at % 3) as f32 - 0.1 * (at / 3) as f32).collect();
    Lattice::pinned(shift % VOCABULARY as u32, 3, &ids, &scores).unwrap()
}

fn hidden(shift: usize) -> Vec<f32> {
    (0..WIDTH).map(|at| ((at * 3 + shift) as f32).sin()).collect()
}

/// Log-softmax of a row of scores.
fn log_probabilities(scores: impl Iterator<Item = f32>) -> Vec<f64> {
    let scores: Vec<f64> = scores.map(f64::from).collect();
    let normaliser = scores.iter().map(|x| x.exp()).sum::<f64>().ln();
    scores.iter().map(|x| x - normaliser).collect()
}

/// Scores made up from the tokens and, to see what it reads, from their head scores.
struct Reading;

impl Rescorer for Reading {
    fn scores<'a>(&'a self, _: &[u32], block: &BlockContext) -> Result<Scores<'a>> {
        let of_slot = |slot: usize| {
            let candidates = block.lattice.ids(slot).iter().zip(block.lattice.scores(slot));
            candidates.map(|(&id, &score)| -f64::from(id * 13 % 7) / 4.0 - f64::from(score.abs())).collect()
        };
        Table::new(block.lattice, of_slot).map(Scores::Table)
    }

    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost::default()
    }
}

#[test]
fn tempering_divides_what_paths_are_compared_by_and_not_what_rescorers_read() {
    let (lattice, temperatures) = (lattice(3), vec![1.0, 4.0, 0.25, 2.0, 0.5]);
    let divided = lattice.tempered(&temperatures);
    let context = BlockContext { start: 0, slots: lattice.slots(), lattice: &lattice, hidden: &[] };
    let Scores::Table(table) = Reading.scores(&[], &context).unwrap() else { panic!("a table") };
    let (sum, _) = Sum::new(&lattice, vec![(1.0, Scores::Table(table))]);
    let expected: Drafts = p_best(&divided, &sum, sum.start(), Weighting::from(0.5), 4).into();
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

/// Log-probabilities of the next token by one whole forward.
fn log_softmax_after(model: &Model, text: &[u32]) -> Vec<f64> {
    let hidden = model.hidden(&[Span::chain(text)], None).narrow(0, text.len() - 1, 1);
    log_probabilities(model.logits(hidden).into_iter())
}

#[test]
fn local_search_is_greedy_or_a_beam_by_definition() {
    let rescorer = NeuralRescorer { model: model(8), normalise: Normalisation::Vocabulary };
    let text: Vec<u32> = (0..20).map(|at| (at * 11 + 3) % VOCABULARY as u32).collect();
    let lattices: Vec<Lattice> = (0..3).map(|at| lattice(at * 5)).collect();
    let starts = [0, 6, 20];
    let hidden = hidden(0);
    let blocks: Vec<BlockContext> = starts
        .iter()
        .zip(&lattices)
        .map(|(&start, lattice)| BlockContext { start, slots: lattice.slots(), lattice, hidden: &hidden })
        .collect();
    for (width, decay, scale) in [(1, 1.0, 0.6), (1, 0.8, 1.0), (4, 1.0, 0.6), (4, 0.8, 0.3), (9, 1.0, 1.0)] {
        let mut settings = Settings::new(3, vec![], 1.0);
        settings.weighting = Weighting { scale, decay };
        settings.shares = vec![1.0];
        let rescoring = Rescoring {
            rescorers: vec![&rescorer],
            selection: SizedSelection::Paths(width),
            include_top1: false,
            settings,
        };
        let together = rescoring.session().drafts(&text, &blocks).unwrap();
        for ((&start, lattice), drafts) in starts.iter().zip(&lattices).zip(&together) {
            let mut beam = vec![(0.0, vec![lattice.ids(0)[0]])];
            let mut margin = f64::INFINITY;
            for slot in 1..lattice.slots() {
                let mut longer = Vec::new();
                for (score, prefix) in &beam {
                    let after = log_softmax_after(&rescorer.model, &[&text[..start], prefix].concat());
                    for (&id, &head) in lattice.ids(slot).iter().zip(lattice.scores(slot)) {
                        let one = (1.0 - scale) * f64::from(head) + scale * after[id as usize];
                        longer.push((score + decay.powi(slot as i32) * one, [&prefix[..], &[id]].concat()));
                    }
                }
                longer.sort_by(|a, b| b.0.total_cmp(&a.0));
                if longer.len() > width {
                    margin = f64::min(margin, longer[width - 1].0 - longer[width].0);
                }
                longer.truncate(width);
                beam = longer;
            }
            let paths: Vec<Vec<u32>> = beam.into_iter().map(|(_, path)| path).collect();
            assert_eq!(drafts.paths, paths, "start {start}, width {width}");
            assert!((drafts.margin - margin).abs() < 1e-4, "{} {margin}", drafts.margin);
        }
        // One block at a time, as live decoding asks, gives the same.
        let mut session = rescoring.session();
        for (context, drafts) in blocks.iter().zip(together) {
            assert_eq!(session.drafts(&text[..context.start], &[*context]).unwrap()[0].paths, drafts.paths);
        }
    }
}
