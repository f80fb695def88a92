//! The pure parts of a decoding step: top-k of a head, p best paths of a lattice, a query of the n-gram model.
//!
//! Each stands beside what it replaces, so that one run gives a ratio.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use draftsmith::backbone::{Checkpoint, Precision};
use draftsmith::device;
use draftsmith::kernels::top_k;
use draftsmith::lattice::{Lattice, NoScorer, p_best};
use draftsmith::nn::Init;
use draftsmith::rescorer::ngram::{Counter, DEFAULT_FALLBACK, Ending, Memory, Model, Options, Vocabulary, estimate};
use draftsmith::rescorer::{Opening, Rescorer, Transition, TransitionNetwork};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The vocabulary of SmolLM2, as a typical size.
const VOCABULARY: usize = 49_152;
const K: usize = 16;
const HEADS: usize = 8;

fn partial_selection(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let logits: Vec<f32> = (0..VOCABULARY).map(|_| rng.random_range(-10.0..10.0)).collect();
    let mut group = c.benchmark_group("top-16 of 49,152");
    group.bench_function("partial selection", |b| {
        b.iter(|| {
            let (mut ids, mut scores) = (Vec::new(), Vec::new());
            top_k(black_box(&logits), K, &mut ids, &mut scores);
            (ids, scores)
        });
    });
    group.bench_function("full sort", |b| {
        b.iter(|| {
            let mut order: Vec<u32> = (0..VOCABULARY as u32).collect();
            order.sort_unstable_by(|&i, &j| logits[j as usize].total_cmp(&logits[i as usize]).then(i.cmp(&j)));
            order.truncate(K);
            order
        });
    });
    group.finish();
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

fn paths(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let words = text(&mut rng, 200_000);
    let vocabulary = Vocabulary { size: Some(2048), ..Vocabulary::default() };
    let mut counter = Counter::new(3, vocabulary, &Memory::usual()).expect("order 3");
    counter.add(&words, Ending::Complete).expect("ids below 2048");
    let counts = counter.finish().expect("text");
    let options = Options { discount_fallback: Some(DEFAULT_FALLBACK), ..Options::default() };
    let estimated = estimate(&counts, &options, &Memory::usual()).expect("a fallback");
    let model = Model::compile(&estimated.listing).expect("a small model");
    let mut ids: Vec<u32> = Vec::new();
    let mut scores: Vec<f32> = Vec::new();
    for _ in 0..HEADS {
        let logits: Vec<f32> = (0..2048).map(|_| rng.random_range(-10.0..10.0)).collect();
        top_k(&logits, K, &mut ids, &mut scores);
    }
    let lattice = Lattice::pinned(5, K, &ids, &scores).expect("well-formed");
    let state = model.state_of(&words[..50], true);
    let mut group = c.benchmark_group("paths of 8 slots x 16");
    group.bench_function("16 best by head scores", |b| b.iter(|| p_best(black_box(&lattice), &NoScorer, (), 0.0, 16)));
    group.bench_function("best with a trigram", |b| b.iter(|| p_best(black_box(&lattice), &model, state, 0.4, 1)));
    group.bench_function("16 best with a trigram", |b| b.iter(|| p_best(black_box(&lattice), &model, state, 0.4, 16)));
    group.finish();
    c.bench_function("2,048 trigram queries", |b| {
        b.iter(|| (0..2048u32).map(|token| model.extend(state, black_box(token)).0).sum::<f64>());
    });
}

/// The embedded model's embeddings, hidden states of its width, a network that was not trained: its numbers cost the same.
fn transition_scorer(c: &mut Criterion) {
    let device = device::open("cpu".parse().expect("a device")).expect("the CPU").device;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tales");
    let model = Checkpoint::open(&folder).and_then(|it| it.load(Precision::AS_STORED, &device)).expect("the model");
    let width = model.config().hidden_size;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let hidden: Vec<f32> = (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
    let (mut ids, mut scores) = (Vec::new(), Vec::new());
    for _ in 0..HEADS {
        let logits: Vec<f32> = (0..2048).map(|_| rng.random_range(-10.0..10.0)).collect();
        top_k(&logits, K, &mut ids, &mut scores);
    }
    let lattice = Lattice::pinned(5, K, &ids, &scores).expect("well-formed");
    let opening = Opening { start: 0, slots: lattice.slots(), lattice: &lattice, hidden: &hidden };
    for rank in [64, 128] {
        let transition =
            Transition::new(&TransitionNetwork::new(HEADS, width, rank, &mut Init::seeded(1, &device)), &model);
        c.bench_function(&format!("transition scores of 8 slots x 16, rank {rank}, width {width}"), |b| {
            b.iter(|| transition.scores(&[], black_box(&opening)).expect("numbers"));
        });
    }
}

criterion_group!(benches, partial_selection, paths, transition_scorer);
criterion_main!(benches);
