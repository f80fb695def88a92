//! The pure parts of a decoding step: top-k of a head, p best paths of a lattice, a query of the n-gram model.
//!
//! Each stands beside what it replaces, so that one run gives a ratio.

use std::path::Path;

use divan::{Bencher, black_box};
use draftsmith::backbone::{Checkpoint, Precision};
use draftsmith::device;
use draftsmith::kernels::top_k;
use draftsmith::lattice::{Lattice, NoScorer, p_best};
use draftsmith::ngram::{Counter, DEFAULT_FALLBACK, Ending, Memory, Model, Options, State, Vocabulary, estimate};
use draftsmith::nn::Init;
use draftsmith::rescorer::{
    BlockContext, GlobalScoring, LatticeKind, LatticeLoss, LatticeShape, NgramScores, Transition, TransitionConfig,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The vocabulary of SmolLM2, as a typical size.
const VOCABULARY: usize = 49_152;
const K: usize = 16;
const HEADS: usize = 8;

fn main() {
    divan::main();
}

fn logits(rng: &mut ChaCha8Rng, number: usize) -> Vec<f32> {
    (0..number).map(|_| rng.random_range(-10.0..10.0)).collect()
}

#[divan::bench_group(name = "top-16 of 49,152")]
mod top_16 {
    use super::*;

    #[divan::bench(name = "partial selection")]
    fn partial_selection(bencher: Bencher) {
        let logits = logits(&mut ChaCha8Rng::seed_from_u64(1), VOCABULARY);
        bencher.bench_local(|| {
            let (mut ids, mut scores) = (Vec::new(), Vec::new());
            top_k(black_box(&logits), K, &mut ids, &mut scores);
            (ids, scores)
        });
    }

    #[divan::bench(name = "full sort")]
    fn full_sort(bencher: Bencher) {
        let logits = logits(&mut ChaCha8Rng::seed_from_u64(1), VOCABULARY);
        bencher.bench_local(|| {
            let mut order: Vec<u32> = (0..VOCABULARY as u32).collect();
            order.sort_unstable_by(|&i, &j| logits[j as usize].total_cmp(&logits[i as usize]).then(i.cmp(&j)));
            order.truncate(K);
            order
        });
    }
}

/// A text with the statistics that matter here: few frequent tokens, many rare ones, some order.
fn text(rng: &mut ChaCha8Rng, length: usize) -> Vec<u32> {
    let mut token = 1u32;
    (0..length)
        .map(|_| {
            let draw = 1.0 / rng.random_range(0.0005..1.0f64);
            token = if rng.random_bool(0.5) { (token * 7 + 1) % 2000 } else { draw as u32 };
            token
        })
        .collect()
}

/// 8 slots x 16 behind a pinned one, the candidates of random logits.
fn lattice(rng: &mut ChaCha8Rng) -> Lattice {
    let (mut ids, mut scores) = (Vec::new(), Vec::new());
    for _ in 0..HEADS {
        top_k(&logits(rng, 2048), K, &mut ids, &mut scores);
    }
    Lattice::pinned(5, K, &ids, &scores).expect("well-formed")
}

#[divan::bench_group(name = "paths of 8 slots x 16")]
mod paths {
    use super::*;

    struct Search {
        lattice: Lattice,
        model: Model,
        state: State,
    }

    fn search() -> Search {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let words = text(&mut rng, 200_000);
        let vocabulary = Vocabulary { size: Some(2048), ..Vocabulary::default() };
        let mut counter = Counter::new(3, vocabulary, &Memory::usual()).expect("order 3");
        counter.add(&words, Ending::Complete).expect("ids below 2048");
        let counts = counter.finish().expect("text");
        let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
        let estimated = estimate(&counts, &options, &Memory::usual()).expect("a fallback");
        let model = Model::compile(&estimated.listing).expect("a small model");
        let state = model.state_of(&words[..50], true);
        Search { lattice: lattice(&mut rng), model, state }
    }

    #[divan::bench(name = "best by head scores", args = [16])]
    fn by_head_scores(bencher: Bencher, p: usize) {
        let Search { lattice, .. } = search();
        bencher.bench_local(|| p_best(black_box(&lattice), NoScorer, (), 0.0, p));
    }

    #[divan::bench(name = "best with a trigram", args = [1, 16])]
    fn with_a_trigram(bencher: Bencher, p: usize) {
        let Search { lattice, model, state } = search();
        bencher.bench_local(|| {
            let scores = NgramScores::new(&model, black_box(&lattice), state);
            p_best(&lattice, scores, state.into(), 0.4, p)
        });
    }

    #[divan::bench(name = "2,048 trigram queries")]
    fn queries(bencher: Bencher) {
        let Search { model, state, .. } = search();
        bencher.bench_local(|| (0..2048u32).map(|token| model.extend(state, black_box(token)).0).sum::<f64>());
    }
}

/// The embedded model's embeddings, hidden states of its width, a network that was not trained: its numbers cost the same.
#[divan::bench(name = "transition scores of 8 slots x 16, by rank", args = [64, 128])]
fn transition_scorer(bencher: Bencher, rank: usize) {
    let device = device::open("cpu".parse().expect("a device")).expect("the CPU").device;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tales");
    let model = Checkpoint::open(&folder).and_then(|it| it.load(Precision::AS_STORED, &device)).expect("the model");
    let (width, vocabulary) = (model.config().hidden_size, model.config().vocab_size);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let hidden: Vec<f32> = (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
    let lattice = lattice(&mut rng);
    let context = BlockContext { hidden: &hidden, ..BlockContext::new(0, &lattice) };
    let shape = LatticeShape { slots: HEADS, width, vocabulary };
    let kind = TransitionConfig { rank, ..TransitionConfig::default() };
    let network = kind.network(shape, &mut Init::seeded(1, &device));
    let transition = Transition::new(&network, &model, LatticeLoss::CrossEntropy);
    bencher.bench_local(|| transition.scores(&[], black_box(&context)).expect("numbers").start());
}
