//! Live decoding against plain decoding: whatever is drafted, the text is the backbone's.

use std::collections::HashMap;
use std::time::Duration;

use crate::common::{CONTEXT, alone, world};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use draftsmith::backbone::{Backbone, Feature, Precision, Span, TOKENS_A_FORWARD, generate};
use draftsmith::decoding::{
    Block, BlockSeconds, Decoder, Decoding, Round, Rule, Spent, TimedBatch, Verification, block_seconds,
};
use draftsmith::drafting::{
    Bpd, Drafter, DrawnDrafter, Grown, GrowthLimits, GrowthPolicy, PromptLookup, Rescoring, Settings, SizedSelection,
    StopMeasure, StopRule,
};
use draftsmith::heads::{
    AttentionConfig, AttentionContext, DflashConfig, FfnConfig, FrozenHeads, HeadKind, HeadShape, RowOrder,
    SpeculatorConfig,
};
use draftsmith::nn::Init;
use draftsmith::rescorer::{NgramRescorer, PrefixToken, Rescorer};
use draftsmith::storage_type::StorageType;
use proptest::prelude::*;

fn backbone() -> Backbone {
    Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap()
}

/// Replaces every parameter by numbers of a generator of the given size.
struct Randomise(u64, f32);

impl ModuleMapper for Randomise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let numbers = (0..shape.iter().product::<usize>()).map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * self.1
            });
            Tensor::from_data(TensorData::new(numbers.collect::<Vec<f32>>(), shape), &device)
        })
    }
}

/// Five heads of random numbers of the given size; one that is not finite makes all they say NaN.
fn heads(backbone: &Backbone, seed: u64, size: f32, kind: &str) -> FrozenHeads {
    match kind {
        "ffn" => of_kind(&FfnConfig { hidden: 8, ..FfnConfig::default() }, backbone, seed, size),
        "speculator" => of_kind(&SpeculatorConfig { inner: 8, ..SpeculatorConfig::default() }, backbone, seed, size),
        "attention" => of_kind(&AttentionConfig { layers: 2, ..AttentionConfig::default() }, backbone, seed, size),
        "dflash" => of_kind(&DflashConfig { causal: true, ..DflashConfig::default() }, backbone, seed, size),
        _ => {
            let context = AttentionContext::Features(vec![Feature::Layer(1), Feature::Last]);
            let rows = RowOrder::Parallel;
            of_kind(&AttentionConfig { rows, context, ..AttentionConfig::default() }, backbone, seed, size)
        }
    }
}

const KINDS: [&str; 5] = ["ffn", "speculator", "attention", "attention, parallel", "dflash"];

fn of_kind(kind: &impl HeadKind, backbone: &Backbone, seed: u64, size: f32) -> FrozenHeads {
    let heads = kind.network(HeadShape::new(5, &backbone.model), &mut Init::seeded(seed, &Device::flex()));
    FrozenHeads::new(heads.map(&mut Randomise(seed, size)), &backbone.model, None)
}

fn decode(
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    verification: Verification,
    prompt: &[u32],
    max_new: usize,
) -> (Vec<u32>, usize) {
    let options = Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification };
    decode_as(options, backbone, heads, drafter, prompt, max_new)
}

/// The text and its number of blocks.
fn decode_as(
    options: Decoding,
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    prompt: &[u32],
    max_new: usize,
) -> (Vec<u32>, usize) {
    let blocks = blocks_of(options, backbone, heads, drafter, &[(prompt, max_new)], 1).remove(0);
    (blocks.iter().flat_map(|block| block.tokens.iter().copied()).collect(), blocks.len())
}

/// The blocks of every document, `batch` of them decoded side by side.
fn blocks_of(
    options: Decoding,
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    documents: &[(&[u32], usize)],
    batch: usize,
) -> Vec<Vec<Block>> {
    sized_blocks(options, backbone, heads, drafter, documents, batch, None)
}

/// The same where trees are as large as pays, if a step takes these seconds.
fn sized_blocks(
    options: Decoding,
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    documents: &[(&[u32], usize)],
    batch: usize,
    seconds: Option<BlockSeconds>,
) -> Vec<Vec<Block>> {
    let mut decoder = Decoder::new(backbone, heads, drafter, options, documents, batch).unwrap();
    if let Some(seconds) = seconds {
        decoder = decoder.sized_by(seconds);
    }
    let mut blocks = vec![Vec::new(); documents.len()];
    while !decoder.finished() {
        let round = decoder.step().unwrap();
        assert!(round.blocks.len() <= batch);
        // What only reads prompts is prefill, and what only verifies is none.
        let Spent { prefill, backbone, .. } = round.spent;
        assert!(!round.blocks.is_empty() || (!prefill.is_zero() && backbone.is_zero()), "{prefill:?} {backbone:?}");
        assert!(round.blocks.len() < batch || prefill.is_zero(), "{prefill:?}");
        round.blocks.into_iter().for_each(|(document, block)| blocks[document].push(block));
    }
    assert_eq!(decoder.step().unwrap(), Round::default(), "nothing is left to do");
    for (document, blocks) in blocks.iter().enumerate() {
        let tokens: Vec<u32> = blocks.iter().flat_map(|block| block.tokens.iter().copied()).collect();
        assert_eq!(decoder.decoded(document), tokens);
    }
    blocks
}

fn rescoring<'a>(rescorer: &'a dyn Rescorer, selection: SizedSelection, scale: f64) -> Rescoring<'a> {
    let mut settings = Settings::new(4, vec![], 0.7);
    (settings.weighting.scale, settings.shares) = (scale, vec![1.0]);
    Rescoring { rescorers: vec![rescorer], selection, include_top1: true, settings }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_drafted_the_text_is_the_greedy_one(
        seed: u64,
        size in prop::sample::select(vec![0.1f32, 1.0, 30.0, f32::NAN, f32::INFINITY]),
        kind in prop::sample::select(&KINDS[..]),
        prompt in prop::collection::vec(1u32..300, 1..40),
        max_new in prop::sample::select(vec![1usize, 7, 30, 200]),
        stop in prop::sample::select(vec![
            StopRule::Never,
            StopRule::Below(StopMeasure::MaxProbability, 0.3),
            StopRule::Below(StopMeasure::MaxProbability, 1.0),
            StopRule::Below(StopMeasure::EntropyBound, 0.1),
        ]),
    ) {
        let backbone = backbone();
        let heads = heads(&backbone, seed, size, kind);
        let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
        let expected = generate(&backbone, &[&prompt], max_new).unwrap().remove(0);
        let settings = Settings { shares: vec![1.0], ..Settings::new(4, vec![], 0.7) };
        let limits = GrowthLimits { nodes: 12, frontier: 4 };
        let drafters: [Box<dyn Drafter>; 6] = [
            Box::new(Bpd),
            Box::new(rescoring(&counts, SizedSelection::Paths(1), 0.6)),
            Box::new(rescoring(&counts, SizedSelection::Paths(7), 1.0)),
            Box::new(rescoring(&counts, SizedSelection::ExpectedPath, 0.3)),
            Box::new(rescoring(&counts, SizedSelection::ExpectedTree(12), 0.5)),
            Box::new(Grown { rescorers: vec![&counts], policy: GrowthPolicy::MostProbable, limits, settings }),
        ];
        let options =
            Decoding { top_k: 4, dtype: StorageType::Float32, stop, verification: Verification::GREEDY };
        for drafter in &drafters {
            for seconds in [None, Some(seconds(0.05)), Some(seconds(1.0))] {
                let blocks = sized_blocks(options, &backbone, &heads, &**drafter, &[(&prompt, max_new)], 1, seconds);
                let text: Vec<u32> = blocks[0].iter().flat_map(|block| block.tokens.iter().copied()).collect();
                prop_assert_eq!(&text, &expected);
                prop_assert!(blocks[0].len() <= text.len());
            }
        }
    }
}

/// The n-gram model scores a path behind any token that was read, as it scores the whole prefix anew.
#[test]
fn a_reader_scores_paths_as_the_model_does() {
    let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone()).unwrap();
    let mut reader = counts.reader().unwrap();
    // Text that was counted.
    let known = backbone().tokenizer.encode("Tell of the fox.").unwrap();
    let (candidates, [a, b, c]) = (known.clone(), [known[0], known[1], known[2]]);
    let expected = |prefix: &[u32]| -> Vec<f64> {
        candidates.iter().map(|&token| counts.0.extend(counts.0.state_of(prefix, true), token).0).collect()
    };
    assert!(expected(&[a, b]) != expected(&[b]) && expected(&[a, b]) != expected(&[a, a]), "what comes before counts");
    for text in [&known[..4], &[a, b, a, c], &[]] {
        reader.read(text, 4).unwrap();
        let last = text.len().checked_sub(1);
        let scores = vec![0.0; candidates.len()];
        let behind = |token, after| PrefixToken { token, after, slot: 1, candidates: &candidates, scores: &scores };
        let first = reader.extend(&[behind(a, last), behind(b, last)], true).unwrap();
        assert_eq!(first, [a, b].map(|token| expected(&[text, &[token]].concat())));
        let (then, fork) = (behind(b, Some(text.len())), behind(b, Some(text.len() + 1)));
        let second = reader.extend(&[then, fork], true).unwrap();
        assert_eq!(second, [[a, b], [b, b]].map(|path| expected(&[text, &path].concat())));
    }
}

/// Seconds of steps in which every further row of a forward takes `each` times as long as the first. Some levels pay, and others do
/// not.
fn seconds(each: f64) -> BlockSeconds {
    let slower = |count: usize, first: f64, each: f64| (0..count).map(|n| first + each * n as f64).collect();
    BlockSeconds {
        forward: slower(48, 1.0, each),
        drafting: vec![0.05],
        level: slower(16, 0.1, 0.05),
        reading: Vec::new(),
    }
}

/// How each of some rules is decoded, and whether its text is the greedy one.
fn ways<'a>(counts: &'a dyn Rescorer, seed: u64) -> Vec<(Box<dyn Drafter + 'a>, Verification, bool)> {
    let rule = |rule| Verification { rule, temperature: 0.7, seed };
    let mut grown = Settings::new(4, vec![], 0.7);
    (grown.weighting.scale, grown.shares) = (0.5, vec![1.0]);
    let drawn = |replacement| {
        Box::new(DrawnDrafter {
            branching: vec![3, 2],
            temperature: 1.0,
            replacement,
            stop: StopRule::Never,
            seed: seed ^ 9,
        })
    };
    vec![
        (Box::new(Bpd), Verification::GREEDY, true),
        (Box::new(PromptLookup), Verification::GREEDY, true),
        (Box::new(rescoring(counts, SizedSelection::Paths(5), 0.6)), Verification::GREEDY, true),
        (Box::new(rescoring(counts, SizedSelection::ExpectedTree(9), 0.5)), Verification::GREEDY, true),
        (Box::new(rescoring(counts, SizedSelection::ExpectedTree(9), 0.5)), rule(Rule::Deterministic), false),
        (
            Box::new(Grown {
                rescorers: vec![counts],
                policy: GrowthPolicy::MostProbable,
                limits: GrowthLimits { nodes: 9, frontier: 3 },
                settings: grown,
            }),
            Verification::GREEDY,
            true,
        ),
        (drawn(true), rule(Rule::Rejection), false),
        (drawn(true), rule(Rule::KSeq), false),
        (drawn(false), rule(Rule::RejectionWithoutReplacement), false),
        // Keeps every draft, so that ends of text come up inside of blocks.
        (Box::new(Bpd), rule(Rule::TopK(300)), false),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn side_by_side_every_document_is_decoded_as_it_is_alone(
        seed: u64,
        size in prop::sample::select(vec![0.1f32, 1.0, 30.0, f32::NAN]),
        kind in prop::sample::select(&KINDS[..]),
        documents in prop::collection::vec(
            (
                prop_oneof![
                    prop::collection::vec(1u32..300, 1..30),
                    prop::collection::vec(1u32..300, CONTEXT - 9..CONTEXT),
                ],
                prop::sample::select(vec![0usize, 1, 7, 20, 200]),
            ),
            1..7,
        ),
        batch in 1usize..5,
        stop in prop::sample::select(vec![
            StopRule::Never,
            StopRule::Below(StopMeasure::MaxProbability, 0.3),
            StopRule::Below(StopMeasure::EntropyBound, 0.1),
        ]),
        end in any::<prop::sample::Index>(),
    ) {
        let mut backbone = backbone();
        let heads = heads(&backbone, seed, size, kind);
        let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
        let documents: Vec<(&[u32], usize)> = documents.iter().map(|(prompt, most)| (&prompt[..], *most)).collect();
        let ends = backbone.end_of_text.clone();
        for (drafter, verification, greedy) in ways(&counts, seed) {
            let options = Decoding { top_k: 4, dtype: StorageType::Float32, stop, verification };
            // Some token of the first document ends all texts.
            backbone.end_of_text = ends.clone();
            let first = decode_as(options, &backbone, &heads, &*drafter, documents[0].0, documents[0].1).0;
            if !first.is_empty() {
                backbone.end_of_text.push(first[end.index(first.len())]);
            }
            let together = blocks_of(options, &backbone, &heads, &*drafter, &documents, batch);
            // Where trees are sized by time, blocks depend on the documents beside them, and texts do not.
            for seconds in [seconds(0.05), seconds(1.0)].into_iter().filter(|_| greedy) {
                let sized =
                    sized_blocks(options, &backbone, &heads, &*drafter, &documents, batch, Some(seconds.clone()));
                let again = sized_blocks(options, &backbone, &heads, &*drafter, &documents, batch, Some(seconds));
                prop_assert_eq!(&sized, &again);
                for (sized, blocks) in sized.iter().zip(&together) {
                    let text = |blocks: &[Block]| blocks.iter().flat_map(|block| block.tokens.clone()).collect::<Vec<u32>>();
                    prop_assert_eq!(text(sized), text(blocks));
                }
            }
            for (document, found) in documents.iter().zip(&together) {
                let alone = blocks_of(options, &backbone, &heads, &*drafter, &[*document], 1).remove(0);
                prop_assert_eq!(found, &alone, "{:?}", verification.rule);
                if greedy {
                    let text: Vec<u32> = found.iter().flat_map(|block| block.tokens.iter().copied()).collect();
                    prop_assert_eq!(text, generate(&backbone, &[document.0], document.1).unwrap().remove(0));
                }
            }
        }
    }
}

/// The mean number of nodes of a block and the share of blocks of one node, when so many documents of the same text are decoded side
/// by side with trees of at most twelve nodes, where a forward of n rows takes this long.
fn nodes_by(documents: usize, forward: impl Fn(usize) -> f64) -> (f64, f64) {
    let backbone = backbone();
    let heads = heads(&backbone, 3, 0.3, "ffn");
    let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
    let drafter = rescoring(&counts, SizedSelection::ExpectedTree(12), 0.5);
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    let forward = (1..=12 * documents).map(forward).collect();
    let seconds = BlockSeconds { forward, drafting: vec![0.0; documents], level: Vec::new(), reading: Vec::new() };
    let prompt = backbone.tokenizer.encode("Tell of the fox.").unwrap();
    let all = vec![(&prompt[..], 100); documents];
    let blocks = sized_blocks(options, &backbone, &heads, &drafter, &all, documents, Some(seconds));
    let nodes: Vec<usize> = blocks.iter().flatten().map(|block| block.nodes).collect();
    let count = nodes.len() as f64;
    (nodes.iter().sum::<usize>() as f64 / count, nodes.iter().filter(|nodes| **nodes == 1).count() as f64 / count)
}

#[test]
fn trees_are_as_large_as_pays() {
    for documents in [1, 4] {
        let (nodes, _) = nodes_by(documents, |_| 1.0);
        assert!(nodes > 6.0, "where rows cost nothing, blocks have {nodes} nodes");
        let (nodes, plain) = nodes_by(documents, |rows| rows as f64);
        assert!(
            plain == 1.0,
            "where every row costs as much, {plain} of all blocks are plain, and they have {nodes} nodes"
        );
    }
    let [alone, beside] = [1, 4].map(|documents| nodes_by(documents, |rows| (rows as f64 / 8.0).max(1.0)).0);
    assert!(beside < alone, "{beside} nodes side by side, {alone} alone");
}

/// Heads that attend read what they missed while nothing was drafted. What they draft then is what they draft anyway.
#[test]
fn after_plain_decoding_heads_draft_as_if_they_always_had() {
    let backbone = backbone();
    let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
    let mut drafter = rescoring(&counts, SizedSelection::ExpectedTree(12), 0.5);
    drafter.include_top1 = false;
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    let prompts: [&[u32]; 6] = [&[9, 120, 33, 70], &[5, 80, 41], &[17; 20], &[44, 3], &[200, 7, 61], &[33; 5]];
    let documents = prompts.map(|prompt| (prompt, 100));
    for kind in KINDS {
        let heads = heads(&backbone, 3, 0.3, kind);
        // Forwards take as long whatever their size, so that trees are whole, and the heads as long again.
        let seconds =
            BlockSeconds { forward: vec![1.0; 12], drafting: vec![1.0], level: Vec::new(), reading: Vec::new() };
        let always = blocks_of(options, &backbone, &heads, &drafter, &documents, 1);
        let sized = sized_blocks(options, &backbone, &heads, &drafter, &documents, 1, Some(seconds));
        let mut compared = 0;
        for (always, sized) in always.iter().zip(&sized) {
            let mut end = 0;
            let by_start: HashMap<usize, &Block> = always
                .iter()
                .map(|block| {
                    end += block.tokens.len();
                    (end - block.tokens.len(), block)
                })
                .collect();
            let mut start = 0;
            for pair in sized.windows(2) {
                start += pair[0].tokens.len();
                let resumed = pair[0].nodes == 1 && pair[1].nodes > 1;
                if let Some(block) = by_start.get(&start).filter(|_| resumed) {
                    assert_eq!(&pair[1], *block, "{kind}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 0, "{kind}: nothing was drafted after a step without drafts, so nothing was tested");
    }
}

/// Every number of rows and documents that a step can have has its seconds, and more never take less.
#[test]
fn seconds_are_measured_for_every_size_of_a_step() {
    let backbone = backbone();
    let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
    let drafter = rescoring(&counts, SizedSelection::ExpectedTree(5), 0.5);
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    for kind in KINDS {
        let heads = heads(&backbone, 3, 0.3, kind);
        for (frontier, levels) in [(None, 0), (Some(3), 9)] {
            let batch = TimedBatch { prompts: &[(&[9, 120, 33, 70], 20)], documents: 3, nodes: 5, frontier };
            let found = block_seconds(&backbone, &heads, &drafter, options, batch).unwrap();
            let BlockSeconds { forward, drafting, level, reading } = found;
            let attends = heads.cache(1, 1).is_some();
            let read = if attends { 3 * (heads.count() + 1) } else { 0 };
            assert_eq!((forward.len(), drafting.len(), level.len(), reading.len()), (15, 3, levels, read), "{kind}");
            for curve in [&forward, &drafting, &level, &reading] {
                assert!(curve.is_sorted() && curve.iter().all(|&seconds| seconds > 0.0), "{kind}: {curve:?}");
            }
        }
    }
}

/// A token that ends the text and is known needs no forward; beside other documents it needs no drafts.
#[test]
fn a_last_token_that_is_known_costs_nothing() {
    let backbone = backbone();
    let heads = heads(&backbone, 3, 0.3, "ffn");
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    let mut decoder = Decoder::new(&backbone, &heads, &Bpd, options, &[(&[9, 120, 33], 1)], 1).unwrap();
    assert!(decoder.step().unwrap().blocks.is_empty(), "the prompt is read first");
    let Round { blocks, spent } = decoder.step().unwrap();
    assert_eq!((blocks.len(), blocks[0].1.nodes, spent.backbone, spent.heads), (1, 1, Duration::ZERO, Duration::ZERO));
    assert_eq!(decoder.decoded(0), generate(&backbone, &[&[9, 120, 33]], 1).unwrap()[0]);
    assert!(decoder.finished());
}

/// How a comparison goes on after a near-tie: from other tokens than were decoded, beside documents that go on as they were.
#[test]
fn a_text_that_is_replaced_is_gone_on_from() {
    let backbone = backbone();
    KINDS.iter().for_each(|kind| gone_on_from(&backbone, &heads(&backbone, 3, 0.3, kind)));
}

fn gone_on_from(backbone: &Backbone, heads: &FrozenHeads) {
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    let documents: [(&[u32], usize); 3] = [(&[9, 120, 33, 70], 30), (&[5, 80, 41], 30), (&[17; 20], 30)];
    let mut decoder = Decoder::new(backbone, heads, &Bpd, options, &documents, 2).unwrap();
    let replaced = [7u32, 8, 90];
    let mut left = 2;
    while !decoder.finished() {
        let round = decoder.step().unwrap();
        if left > 0 && round.blocks.iter().any(|(document, _)| *document == 1) {
            left -= 1;
            if left == 0 {
                decoder.replace(1, 1, &replaced);
            }
        }
    }
    assert_eq!(decoder.decoded(0), generate(backbone, &[documents[0].0], 30).unwrap()[0]);
    assert_eq!(decoder.decoded(2), generate(backbone, &[documents[2].0], 30).unwrap()[0]);
    let kept = [&decoder.decoded(1)[..1], &replaced].concat();
    assert_eq!(kept[0], generate(backbone, &[documents[1].0], 30).unwrap()[0][0]);
    let after = generate(backbone, &[&[documents[1].0, &kept].concat()], 30 - kept.len()).unwrap().remove(0);
    assert_eq!(decoder.decoded(1), [kept, after].concat());
}

/// Where the heads of one document overflow, the others are drafted for all the same.
#[test]
fn heads_that_overflow_for_one_document_take_nothing_from_another() {
    let backbone = backbone();
    let options =
        Decoding { top_k: 4, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    let documents: [(&[u32], usize); 2] = [(&[9, 120, 33, 70], 6), (&[5, 80, 41], 6)];
    let nodes = |blocks: &[Block]| blocks.iter().map(|block| block.nodes).collect::<Vec<_>>();
    let differ = (0..400).any(|step| {
        let heads = heads(&backbone, 3, 1e18 * 1.01f32.powi(step), "ffn");
        let alone = documents.map(|document| blocks_of(options, &backbone, &heads, &Bpd, &[document], 1).remove(0));
        let together = blocks_of(options, &backbone, &heads, &Bpd, &documents, 2);
        assert_eq!(together, alone);
        // The first block has a draft in one document only.
        (nodes(&alone[0])[0] == 1) != (nodes(&alone[1])[0] == 1)
    });
    assert!(differ, "no size of heads made only one of the documents overflow, so nothing was tested");
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// What a decoder holds goes with it: after the first documents, ten thousand tokens more take no more memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_documents() {
    if !alone("decoding::memory_does_not_grow_with_the_documents") {
        return;
    }
    let backbone = backbone();
    let heads = heads(&backbone, 1, 0.3, "ffn");
    let counts = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
    let drafter = rescoring(&counts, SizedSelection::ExpectedTree(12), 0.5);
    let decode_tokens = |most: usize| {
        let (mut tokens, mut prompt) = (0, 0);
        while tokens < most {
            prompt = (prompt + 1) % 200;
            let text = decode(&backbone, &heads, &drafter, Verification::GREEDY, &[prompt + 1, 7, 9], 90);
            tokens += text.0.len();
        }
    };
    decode_tokens(2_000);
    let before = resident();
    decode_tokens(10_000);
    let grown = resident().saturating_sub(before);
    // A leaked cache alone would be over a hundred megabytes.
    assert!(grown < 48 << 20, "{grown} bytes more after ten thousand tokens");
}

/// Twice the log-likelihood ratio and its degrees of freedom would do as well; this is Pearson's, bins of fewer than five
/// expected taken together.
fn chi_square(counts: &HashMap<(u32, u32), u32>, expected: &HashMap<(u32, u32), f64>, draws: f64) -> (f64, usize) {
    let (mut sum, mut bins, mut rest) = (0.0, 0, (0.0, draws));
    for (pair, probability) in expected.iter().filter(|(_, probability)| **probability * draws >= 5.0) {
        let (count, mean) = (f64::from(counts.get(pair).copied().unwrap_or(0)), probability * draws);
        sum += (count - mean).powi(2) / mean;
        bins += 1;
        rest = (rest.0 + count, rest.1 - mean);
    }
    if rest.1 >= 5.0 {
        sum += (draws - rest.0 - rest.1).powi(2) / rest.1;
        bins += 1;
    }
    (sum, bins - 1)
}

#[test]
fn sampled_text_has_the_backbones_distribution_under_every_lossless_rule() {
    let (backbone, temperature) = (backbone(), 0.6);
    // Behind another token they propose other tokens.
    let heads = heads(&backbone, 3, 0.5, "speculator");
    let prompt = [5u32, 80, 41];
    let probabilities = |text: &[u32]| -> Vec<f64> {
        let hidden = backbone.model.hidden(&[Span::chain(text)], None).narrow(0, text.len() - 1, 1);
        let logits = backbone.model.logits(hidden);
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f64> = logits.iter().map(|x| (f64::from(x - most) / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    };
    let mut expected = HashMap::new();
    for (first, p) in probabilities(&prompt).into_iter().enumerate().filter(|(_, p)| *p > 1e-3) {
        let first = first as u32;
        if backbone.end_of_text.contains(&first) {
            expected.insert((first, u32::MAX), p);
            continue;
        }
        for (second, q) in probabilities(&[&prompt[..], &[first]].concat()).into_iter().enumerate() {
            expected.insert((first, second as u32), p * q);
        }
    }
    let counts_model = NgramRescorer::open(&world().join("runs/tiny/rescorers/counts"), &backbone).unwrap();
    let draws = 3000;
    let rules = [Rule::Deterministic, Rule::Rejection, Rule::KSeq, Rule::RejectionWithoutReplacement];
    for rule in rules {
        let mut counts = HashMap::new();
        let mut accepted = 0;
        for seed in 0..draws {
            let drawn = |branching, replacement| {
                let (stop, seed) = (StopRule::Never, seed ^ 0xabc);
                DrawnDrafter { branching, temperature: 1.0, replacement, stop, seed }
            };
            let drafter: Box<dyn Drafter> = match rule {
                Rule::Deterministic => Box::new(rescoring(&counts_model, SizedSelection::Paths(5), 1.0)),
                Rule::RejectionWithoutReplacement => Box::new(drawn(vec![3, 2], false)),
                _ => Box::new(drawn(vec![3, 2], true)),
            };
            let verification = Verification { rule, temperature, seed };
            let (text, blocks) = decode(&backbone, &heads, &*drafter, verification, &prompt, 2);
            accepted += text.len() - blocks;
            *counts.entry((text[0], text.get(1).copied().unwrap_or(u32::MAX))).or_default() += 1;
        }
        let (square, freedom) = chi_square(&counts, &expected, draws as f64);
        // The 99.99 % quantile by Wilson and Hilferty's approximation.
        let spread = 2.0 / (9.0 * freedom as f64);
        let bound = freedom as f64 * (1.0 - spread + 3.719 * spread.sqrt()).powi(3);
        assert!(square < bound, "{rule:?}: chi-square {square} with {freedom} degrees of freedom, bound {bound}");
        assert!(accepted > 0, "{rule:?}: no draft was ever accepted, so nothing was tested");
    }
}

#[test]
fn a_rule_is_refused_for_drafts_it_is_not_valid_for() {
    let backbone = backbone();
    let heads = heads(&backbone, 1, 1.0, "ffn");
    let options = |rule| Decoding {
        top_k: 4,
        dtype: StorageType::Float32,
        stop: StopRule::Never,
        verification: Verification { rule, ..Verification::GREEDY },
    };
    let error = Decoder::new(&backbone, &heads, &Bpd, options(Rule::KSeq), &[(&[5], 3)], 1).err().unwrap().to_string();
    assert!(error.contains("drawn independently") && error.contains("chosen by a search"), "{error}");
    assert!(Decoder::new(&backbone, &heads, &Bpd, options(Rule::Deterministic), &[(&[5], 3)], 1).is_ok());
}

#[test]
fn lossy_rules_keep_longer_drafts() {
    let backbone = backbone();
    let heads = heads(&backbone, 3, 0.3, "ffn");
    let prompt = [9u32, 120, 33, 70];
    let blocks = |rule| {
        let verification = Verification { rule, ..Verification::GREEDY };
        decode(&backbone, &heads, &Bpd, verification, &prompt, 60)
    };
    let greedy = blocks(Rule::Greedy);
    assert_eq!(blocks(Rule::TopK(1)).0, greedy.0, "the first alone is greedy decoding");
    let everything = blocks(Rule::TopK(backbone.model.config().vocab_size));
    assert_eq!(everything.1, everything.0.len().div_ceil(6), "every draft is kept whole");
    let typical = blocks(Rule::Typical { epsilon: 1.0, delta: 1e-6 });
    assert!(typical.1 <= everything.1 + greedy.1);
}

/// More tokens than a forward pass takes are read in several, which changes nothing.
#[test]
fn many_long_prompts_together_are_continued_as_alone() {
    let backbone = backbone();
    let prompts: Vec<Vec<u32>> =
        (0..40u32).map(|text| (0..50 + text % 37).map(|place| (7 * text + 13 * place) % 290 + 1).collect()).collect();
    assert!(prompts.iter().map(Vec::len).sum::<usize>() > TOKENS_A_FORWARD);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let together = generate(&backbone, &prompts, 8).unwrap();
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(generate(&backbone, &[prompt], 8).unwrap()[0], *together);
    }
}
