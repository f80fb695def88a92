//! The same numbers on an accelerator as on the CPU: forwards, cached forwards, draft trees, a training step of heads above
//! the frozen backbone; and the same text, token by token and block by block. Guards against faults of fused kernels that the
//! tensor library has had (its issues 4366, 5162 and 5257). Debian's software Vulkan is accelerator enough.

use std::path::{Path, PathBuf};

use crate::common::skipped;
use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use draftsmith::backbone::{
    Backbone, Checkpoint, Feature, FeatureTensors, KvCache, Model, Precision, Span, check, generate,
};
use draftsmith::decoding::{Decoder, Decoding, Verification};
use draftsmith::device::{DeviceChoice, open};
use draftsmith::drafting::{
    Bpd, Drafter, Grown, GrowthLimits, GrowthPolicy, Rescoring, Settings, SizedSelection, StopRule,
};
use draftsmith::heads::{
    AttentionConfig, AttentionContext, DraftHeads, FfnConfig, FrozenHeads, HeadKind, HeadShape, RowOrder,
    SpeculatorConfig, Starts,
};
use draftsmith::nn::{
    Criterion, FrozenUnembedding, Init, Targets, Tokens, collect_parameters, from_host, load_parameters, to_host,
};
use draftsmith::storage_type::StorageType;

const TOLERANCE: f32 = 1e-3;

/// The first accelerator that this build can use and this machine has.
fn accelerator() -> Option<Device> {
    let mut missing = Vec::new();
    for choice in [DeviceChoice::Cuda(0), DeviceChoice::Wgpu(0)] {
        match open(choice) {
            Ok(opened) => return Some(opened.device),
            Err(error) => missing.push(error.to_string()),
        }
    }
    skipped(&format!("no accelerator: {}", missing.join(" ")));
    None
}

/// The crate's folder. Cargo names it to the tests that it runs, and `.ci/gpu` to those that were built elsewhere.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn load(folder: &Path, device: &Device) -> Model {
    Checkpoint::open(folder).unwrap().load(Precision::AS_STORED, device).unwrap()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: largest difference {largest:e}");
    assert!(largest < TOLERANCE, "{what}: {largest}");
}

#[test]
fn every_family_gives_the_reference_s_logits() {
    let Some(device) = accelerator() else { return };
    for name in ["llama", "llama3-rope", "mistral-window", "qwen2-window", "qwen3", "gpt2", "gpt-neox"] {
        let folder = root().join("tests/reference").join(name);
        let found = check(&load(&folder, &device), None, &folder.join("vectors.json"), TOLERANCE).unwrap();
        assert!(found.differences.is_empty(), "{name}: {:#?}", found.differences);
    }
}

#[test]
fn cached_forwards_and_draft_trees_agree_with_the_cpu() {
    let Some(device) = accelerator() else { return };
    let folder = root().join("checkpoints/tales");
    let (there, here) = (load(&folder, &device), load(&folder, &Device::flex()));
    let text: Vec<u32> = (0..40).map(|i| (i * 97 + 5) % 2048).collect();
    let plain = |model: &Model| model.logits(model.hidden(&[Span::chain(&text)], None));
    let expected = plain(&here);
    assert_near(&plain(&there), &expected, "plain forward");
    // Through a cache that grows: pieces, a roll-back, single tokens.
    let mut cache = there.cache(1, 8);
    let mut found = Vec::new();
    let feed = |cache: &mut KvCache, tokens: &[u32]| there.logits(there.hidden(&[Span::chain(tokens)], Some(cache)));
    found.extend(feed(&mut cache, &text[..11]));
    feed(&mut cache, &text[3..9]);
    cache.truncate(0, 11);
    found.extend(feed(&mut cache, &text[11..30]));
    (30..40).for_each(|i| found.extend(feed(&mut cache, &text[i..=i])));
    assert_near(&found, &expected, "cached forward");
    // A tree of two branches, and what follows the branch that is kept.
    let after = [Some(39), Some(39), Some(40), Some(41), Some(43)];
    let span = Span { tokens: &text[..5], after: Some(&after) };
    let step = |model: &Model| {
        let mut cache = model.cache(1, 64);
        model.hidden(&[Span::chain(&text)], Some(&mut cache));
        let mut found = model.logits(model.hidden(&[span], Some(&mut cache)));
        cache.keep(0, 40, &[1, 3, 4]);
        found.extend(model.logits(model.hidden(&[Span::chain(&text[7..9])], Some(&mut cache))));
        found
    };
    assert_near(&step(&there), &step(&here), "draft tree");
}

struct Flat<'a>(&'a GradientsParams, Vec<f32>);

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.extend(to_host(self.0.get::<D>(param.id).expect("every parameter has a gradient")));
    }
}

/// Gradients of a head's loss above the frozen backbone, which is the teacher for a quarter of the targets.
fn gradients(device: &Device) -> Vec<f32> {
    let model = load(&root().join("checkpoints/tales"), device);
    let text: Vec<u32> = (0..24).map(|i| (i * 131 + 7) % 2048).collect();
    let hidden = to_host(model.hidden(&[Span::chain(&text)], None));
    let width = model.config().hidden_size;
    let hidden: Tensor<2> = from_host(hidden, [text.len(), width], device);
    let trained = device.clone().autodiff();
    let ffn = FfnConfig { hidden: 16, ..FfnConfig::default() };
    let heads = ffn.network(HeadShape::new(2, &model), &mut Init::seeded(3, &trained));
    let unembedding = FrozenUnembedding::new(model.projection());
    let mut targets = Targets::default();
    text.iter().for_each(|&token| targets.push_taught(token, [(token, 0.75)], 0.25));
    let mut objective = None;
    let read = FeatureTensors::new(&[Feature::Last], vec![hidden.clone().autodiff()]);
    let drafted = |_| unreachable!("these heads read no tokens");
    let pinned = Tokens::new(&text, read.get(Feature::Last));
    let starts = Starts { model: &model, pinned, states: read, context: None };
    let states = [0, 1].map(heads.begin(starts).chains(&drafted));
    for (state, criterion) in states.into_iter().zip([Criterion::CrossEntropy, Criterion::LkHybrid]) {
        let plain = state.clone().without_autodiff();
        let taught = unembedding.teach(&hidden, criterion, false);
        let result = unembedding.loss(plain, &targets, Some(&taught), criterion, Some(1.0 / 24.0));
        let part = (state * result.gradient.unwrap()).sum();
        objective = Some(match objective {
            None => part,
            Some(sum) => sum + part,
        });
    }
    let mut backward = objective.unwrap().backward();
    let gradients = GradientsParams::from_module(&mut backward, &heads);
    let mut flat = Flat(&gradients, Vec::new());
    burn::module::Module::visit(&heads, &mut flat);
    flat.1
}

#[test]
fn a_training_step_above_the_frozen_backbone_agrees_with_the_cpu() {
    let Some(device) = accelerator() else { return };
    let expected = gradients(&Device::flex());
    assert!(expected.iter().any(|g| g.abs() > 10.0 * TOLERANCE));
    assert_near(&gradients(&device), &expected, "gradients");
}

/// Heads that are a little off the backbone's own prediction, the same on every device.
fn heads(backbone: &Backbone, kind: &impl HeadKind) -> FrozenHeads {
    let model = &backbone.model;
    let mut heads = kind.network(HeadShape::new(4, model), &mut Init::seeded(5, model.device()));
    heads.warm_start(model).unwrap();
    let mut parameters = collect_parameters(&heads);
    let numbers = parameters.values_mut().flat_map(|(_, numbers)| numbers.iter_mut());
    numbers.enumerate().for_each(|(i, x)| *x += 0.02 * (i as f32 * 0.7).sin());
    FrozenHeads::new(load_parameters(heads, parameters).unwrap(), model, None)
}

/// The texts of `prompts`, and how many blocks they took together.
fn by_blocks(
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    prompts: &[Vec<u32>],
    batch: usize,
) -> (Vec<Vec<u32>>, usize) {
    let options =
        Decoding { top_k: 8, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    // Of different lengths, so that one ends before the others and a third takes its place.
    let documents: Vec<(&[u32], usize)> = prompts.iter().zip([10, 24, 17]).map(|(p, most)| (&p[..], most)).collect();
    let mut decoder = Decoder::new(backbone, heads, drafter, options, &documents, batch).unwrap();
    let mut blocks = 0;
    while !decoder.finished() {
        blocks += decoder.step().unwrap().blocks.len();
    }
    ((0..prompts.len()).map(|document| decoder.decoded(document).to_vec()).collect(), blocks)
}

#[test]
fn texts_decoded_by_blocks_are_the_greedy_ones_of_both_devices() {
    let Some(device) = accelerator() else { return };
    let folder = root().join("checkpoints/tales");
    let [there, here] =
        [&device, &Device::flex()].map(|device| Backbone::load(&folder, Precision::AS_STORED, device).unwrap());
    let prompts =
        ["Write a short story about a fox named Pip who finds a lamp.\n", "Once", "The old miller had two sons"]
            .map(|text| here.tokenizer.encode(text).unwrap());
    let token_by_token = |backbone: &Backbone| {
        let texts = prompts
            .iter()
            .zip([10, 24, 17])
            .map(|(prompt, most)| generate(backbone, &[prompt], most).unwrap().remove(0));
        texts.collect::<Vec<_>>()
    };
    let expected = token_by_token(&here);
    assert_eq!(token_by_token(&there), expected);
    let settings = Settings::new(8, vec![0.9; 4], 1.0);
    let tree =
        Rescoring { rescorers: Vec::new(), selection: SizedSelection::ExpectedTree(12), include_top1: true, settings };
    let limits = GrowthLimits { nodes: 12, frontier: 4 };
    let grown =
        Grown { rescorers: Vec::new(), policy: GrowthPolicy::MostProbable, limits, settings: tree.settings.clone() };
    let (ffn, speculator) = (
        FfnConfig { hidden: 16, ..FfnConfig::default() },
        SpeculatorConfig { inner: 16, ..SpeculatorConfig::default() },
    );
    let attention = AttentionConfig { layers: 2, ..AttentionConfig::default() };
    let context = AttentionContext::Features(vec![Feature::Layer(2), Feature::Last]);
    let parallel = AttentionConfig { rows: RowOrder::Parallel, context, ..AttentionConfig::default() };
    let kinds = [
        ("attention", [&there, &here].map(|backbone| heads(backbone, &attention))),
        ("attention, parallel", [&there, &here].map(|backbone| heads(backbone, &parallel))),
        ("ffn", [&there, &here].map(|backbone| heads(backbone, &ffn))),
        ("speculator", [&there, &here].map(|backbone| heads(backbone, &speculator))),
    ];
    for (kind, [there_heads, here_heads]) in &kinds {
        for (name, drafter) in [("bpd", &Bpd as &dyn Drafter), ("tree", &tree), ("grown", &grown)] {
            // Alone as well with one kind: software is slow.
            let batches: &[usize] = if *kind == "ffn" { &[1, 2] } else { &[2] };
            for &batch in batches {
                let (texts, blocks) = by_blocks(&there, there_heads, drafter, &prompts, batch);
                let on_cpu = by_blocks(&here, here_heads, drafter, &prompts, batch);
                println!("{kind}, {name}, {batch} side by side: {blocks} blocks, {} on the CPU", on_cpu.1);
                assert_eq!(texts, expected, "{kind}, {name}, {batch} side by side");
                assert_eq!(on_cpu.0, expected, "{kind}, {name}, {batch} side by side, on the CPU");
                let tokens = expected.iter().map(Vec::len).sum();
                assert!(name == "bpd" || blocks < tokens, "no drafted token was ever kept");
            }
        }
    }
}
