//! However a text reaches the backbone (in pieces, side by side with others, rolled back, as a draft tree), its logits are
//! those of one plain forward, in both engines; and the two engines agree.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use draftsmith::backbone::{
    Biases, Feature, KvCache, Model, ModelConfig, NormKind, Positions, RopeScaling, Rotary, Span, Transformer,
};
use draftsmith::kernels::Activation;
use draftsmith::nn::{Init, Values, collect_parameters, load_parameters, to_host};
use draftsmith::storage_type::StorageType;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const TOLERANCE: f32 = 1e-4;
/// A smaller lead of the best logit over the second may go either way.
const NEAR_TIE: f32 = 1e-3;
const VOCABULARY: usize = 50;
const CONTEXT: usize = 64;

/// Random shapes of every family: multi-head, grouped-query and multi-query attention, both norms, all positions, windows,
/// biases, tied and untied.
fn configs() -> impl Strategy<Value = ModelConfig> {
    let heads = select(vec![(4, 4), (4, 2), (4, 1), (6, 3), (1, 1)]);
    let positions = select(vec![0, 1, 2, 3, 4]);
    let activation = select(vec![Activation::Silu, Activation::Gelu, Activation::GeluTanh]);
    let windows = select(vec![vec![], vec![Some(3)], vec![None, Some(5)], vec![Some(1), None, Some(1)]]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (heads, 1..=3usize, select(vec![4, 8, 40]), positions, activation, windows, flags).prop_map(
        |((heads, kv_heads), layers, width, positions, activation, mut windows, flags)| {
            let (layer_norm, gated, biased, query_key_norm, parallel, tied) = flags;
            let rotary = |width, scaling| Positions::Rotary(Rotary { theta: 100.0, width, scaling });
            if !windows.is_empty() {
                windows.resize(layers, None);
            }
            ModelConfig {
                vocab_size: VOCABULARY,
                hidden_size: 24,
                intermediate_size: 40,
                num_hidden_layers: layers,
                num_attention_heads: heads,
                num_key_value_heads: kv_heads,
                head_dim: width,
                max_position_embeddings: CONTEXT,
                norm: if layer_norm { NormKind::Layer } else { NormKind::RootMeanSquare },
                norm_epsilon: 1e-5,
                positions: match positions {
                    0 => Positions::Learned,
                    1 => rotary(width, RopeScaling::None),
                    2 => rotary(2, RopeScaling::None),
                    3 => rotary(width, RopeScaling::Linear(3.0)),
                    _ => rotary(
                        width,
                        RopeScaling::Llama3 {
                            factor: 4.0,
                            low_frequency: 1.0,
                            high_frequency: 4.0,
                            original_context: 16.0,
                        },
                    ),
                },
                activation,
                gated,
                biases: Biases { query_key_value: biased, attention_output: biased, mlp: biased },
                query_key_norm,
                parallel_residual: parallel,
                windows,
                tie_word_embeddings: tied,
            }
        },
    )
}

/// Parameters of a model. Norms and biases get numbers that show.
fn parameters(config: &ModelConfig, seed: u64) -> BTreeMap<String, Values> {
    let mut parameters = collect_parameters(&Transformer::new(config, &mut Init::seeded(seed, &Device::flex())));
    let vectors = parameters.values_mut().filter(|(shape, _)| shape.len() == 1);
    vectors.flat_map(|(_, numbers)| numbers.iter_mut()).enumerate().for_each(|(i, x)| *x += 0.3 * (i as f32).sin());
    parameters
}

/// A model with these parameters in both engines.
fn engines(config: &ModelConfig, parameters: BTreeMap<String, Values>) -> [Model; 2] {
    let model = load_parameters(Transformer::new(config, &mut Init::empty(&Device::flex())), parameters).unwrap();
    [Model::freeze(&model, StorageType::Float32).unwrap(), Model::in_tensors(model)]
}

fn models() -> impl Strategy<Value = [Model; 2]> {
    (configs(), any::<u64>()).prop_map(|(config, seed)| engines(&config, parameters(&config, seed)))
}

/// Every feature that a model of so many layers has, not in their order.
fn all_features(layers: usize) -> Vec<Feature> {
    [Feature::Last].into_iter().chain((0..=layers).rev().map(Feature::Layer)).collect()
}

/// The states called `features`, by token.
fn states(model: &Model, span: Span, cache: Option<&mut KvCache>, features: &[Feature]) -> Vec<Vec<Vec<f32>>> {
    let of = |state: Tensor<2>| to_host(state).chunks(model.config().hidden_size).map(<[f32]>::to_vec).collect();
    model.features(&[span], cache, features).into_iter().map(of).collect()
}

/// The final norm, written out.
fn normed(x: &[f32], config: &ModelConfig, parameters: &BTreeMap<String, Values>) -> Vec<f32> {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let count = x.len() as f64;
    let mean = if config.norm == NormKind::Layer { x.iter().sum::<f64>() / count } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let weight = &parameters["model.norm.weight"].1;
    let bias = |i: usize| parameters.get("model.norm.bias").map_or(0.0, |bias| f64::from(bias.1[i]));
    let scale = (variance + config.norm_epsilon).sqrt();
    let one = |(i, x): (usize, &f64)| ((x - mean) / scale * f64::from(weight[i]) + bias(i)) as f32;
    x.iter().enumerate().map(one).collect()
}

fn texts(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCABULARY as u32, lengths)
}

fn logits(model: &Model, hidden: Tensor<2>) -> Vec<Vec<f32>> {
    model.logits(hidden).chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

/// The reference: one forward over the whole text, no cache.
fn plain(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    logits(model, model.hidden(&[Span::chain(tokens)], None))
}

/// Appends a piece of text to the only text of the cache.
fn feed(model: &Model, cache: &mut KvCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    logits(model, model.hidden(&[Span::chain(tokens)], Some(cache)))
}

/// The id of the largest logit and its lead over the second.
fn best_two(logits: &[f32]) -> (u32, f32) {
    let (mut ids, mut best) = (Vec::new(), Vec::new());
    draftsmith::kernels::top_k(logits, 2, &mut ids, &mut best);
    (ids[0], best[0] - best[1])
}

fn assert_near(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < TOLERANCE, "token {row}: {a} {b}");
        }
        let ((first, lead), (second, _)) = (best_two(found), best_two(expected));
        assert!(first == second || lead < NEAR_TIE, "token {row}: {first} {second}");
    }
}

/// A draft tree: for every node its token and its parent, none for a child of the committed text.
#[derive(Debug, Clone)]
struct Tree {
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
}

impl Tree {
    /// From the root down to `node`, both included.
    fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(node), |&n| self.parents[n]).collect();
        path.reverse();
        path
    }

    fn tokens_of(&self, path: &[usize]) -> Vec<u32> {
        path.iter().map(|&node| self.tokens[node]).collect()
    }

    /// The columns that its nodes follow behind a text of `past` tokens.
    fn after(&self, past: usize) -> Vec<Option<usize>> {
        self.parents.iter().map(|parent| parent.map_or(past.checked_sub(1), |parent| Some(past + parent))).collect()
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    prop::collection::vec((0..VOCABULARY as u32, any::<Index>()), 1..10).prop_map(|nodes| {
        let parent = |(node, (_, index)): (usize, &(u32, Index))| index.index(node + 1).checked_sub(1);
        let parents = nodes.iter().enumerate().map(parent).collect();
        Tree { tokens: nodes.into_iter().map(|(token, _)| token).collect(), parents }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engines_agree(models in models(), text in texts(1..40)) {
        let [host, tensors] = models;
        assert_near(&plain(&host, &text), &plain(&tensors, &text));
    }

    #[test]
    fn any_cut_into_cached_pieces(models in models(), text in texts(1..40), cuts in texts(0..5)) {
        let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut as usize % text.len()).chain([0, text.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        for model in &models {
            // A cache that has to grow, now and then.
            let mut cache = model.cache(1, text.len() / 2);
            let pieces = ends.windows(2).flat_map(|w| feed(model, &mut cache, &text[w[0]..w[1]])).collect::<Vec<_>>();
            assert_near(&pieces, &plain(model, &text));
            assert_eq!(cache.len(0), text.len());
        }
    }

    #[test]
    fn on_the_cpu_the_bits_are_the_same(models in models(), text in texts(2..40), cut in any::<Index>(), tree in trees()) {
        let model = &models[0];
        let (first, rest) = text.split_at(cut.index(text.len()));
        let whole = plain(model, &text);
        let mut cache = model.cache(1, 0);
        let mut pieces = Vec::new();
        if !first.is_empty() {
            pieces.extend(feed(model, &mut cache, first));
        }
        pieces.extend(rest.iter().flat_map(|&token| feed(model, &mut cache, &[token])));
        assert_eq!(&pieces, &whole);
        let span = Span { tokens: &tree.tokens, after: Some(&tree.after(text.len())) };
        for (node, found) in logits(model, model.hidden(&[span], Some(&mut cache))).into_iter().enumerate() {
            let own = [text.clone(), tree.tokens_of(&tree.path(node))].concat();
            assert_eq!(&found, plain(model, &own).last().unwrap());
        }
    }

    /// With a large epsilon, a norm tells its input's scale: what the norm makes of a layer's states is the last hidden state of
    /// the model without the layers above it.
    #[test]
    fn a_layer_gives_the_residual_stream_of_the_model_cut_behind_it(config in configs(), seed: u64, text in texts(1..12)) {
        let config = ModelConfig { norm_epsilon: 0.5, ..config };
        let parameters = parameters(&config, seed);
        let learned = parameters.get("model.embed_positions.weight");
        let layers = config.num_hidden_layers;
        let width = config.hidden_size;
        for (engine, model) in engines(&config, parameters.clone()).into_iter().enumerate() {
            let found = states(&model, Span::chain(&text), None, &all_features(layers));
            for (position, (&token, state)) in text.iter().zip(&found[layers + 1]).enumerate() {
                let row = |table: &Values, row: usize| table.1[row * width..][..width].to_vec();
                let mut expected = row(&parameters["model.embed_tokens.weight"], token as usize);
                let position = learned.map_or(vec![0.0; width], |table| row(table, position));
                expected.iter_mut().zip(position).for_each(|(x, position)| *x += position);
                assert_eq!(state, &expected);
            }
            for layer in 1..=layers {
                let mut cut = ModelConfig { num_hidden_layers: layer, ..config.clone() };
                cut.windows.truncate(layer);
                let above = |name: &str| (layer..layers).any(|n| name.starts_with(&format!("model.layers.{n}.")));
                let kept = parameters.iter().filter(|(name, _)| !above(name));
                let kept = kept.map(|(name, values)| (name.clone(), values.clone())).collect();
                let [host, tensors] = engines(&cut, kept);
                let cut = [host, tensors].into_iter().nth(1 - engine).expect("the other engine");
                let expected = states(&cut, Span::chain(&text), None, &[Feature::Last]).remove(0);
                for (state, expected) in found[1 + layers - layer].iter().zip(expected) {
                    for (a, b) in normed(state, &config, &parameters).into_iter().zip(expected) {
                        assert!((a - b).abs() < TOLERANCE, "layer {layer}: {a} {b}");
                    }
                }
                // What is asked for alone is the same, and takes no layer above it.
                let alone = states(&model, Span::chain(&text), None, &[Feature::Layer(layer)]);
                assert_eq!(alone[0], found[1 + layers - layer]);
            }
        }
    }

    #[test]
    fn on_the_cpu_every_feature_has_the_same_bits_in_pieces_and_in_trees(
        models in models(), text in texts(2..20), other in texts(1..9), cut in any::<Index>(), tree in trees(),
    ) {
        let (model, width) = (&models[0], models[0].config().hidden_size);
        let features = all_features(model.config().num_hidden_layers);
        let whole = states(model, Span::chain(&text), None, &features);
        let (first, rest) = text.split_at(cut.index(text.len()));
        let mut cache = model.cache(2, 0);
        let mut pieces = vec![Vec::new(); features.len()];
        // Another text beside it, at every step.
        let steps: Vec<&[u32]> = [first].into_iter().chain(rest.chunks(1)).filter(|piece| !piece.is_empty()).collect();
        for piece in steps {
            let beside = &other[..other.len().min(piece.len())];
            let found = model.features(&[Span::chain(piece), Span::chain(beside)], Some(&mut cache), &features);
            for (pieces, state) in pieces.iter_mut().zip(found) {
                pieces.extend(to_host(state).chunks(width).take(piece.len()).map(<[f32]>::to_vec));
            }
            cache.truncate(1, 0);
        }
        assert_eq!(&pieces, &whole);
        let after = tree.after(text.len());
        let span = Span { tokens: &tree.tokens, after: Some(&after) };
        let beside = model.features(&[span, Span::chain(&other)], Some(&mut cache), &features);
        for (number, state) in beside.into_iter().enumerate() {
            for (node, found) in to_host(state).chunks(width).take(tree.tokens.len()).enumerate() {
                let own = [text.clone(), tree.tokens_of(&tree.path(node))].concat();
                let expected = states(model, Span::chain(&own), None, &features[number..=number]).remove(0);
                assert_eq!(found, expected.last().unwrap(), "{}", features[number]);
            }
        }
    }

    #[test]
    fn texts_of_different_lengths_side_by_side(models in models(), texts in prop::collection::vec((texts(1..16), texts(0..6), texts(1..4)), 1..5)) {
        for model in &models {
            let mut cache = model.cache(texts.len(), 4);
            let mut found = vec![Vec::new(); texts.len()];
            // Some texts take no part in the second of three rounds.
            for round in 0..3 {
                let spans: Vec<Span> = texts.iter().map(|t| Span::chain([&t.0, &t.1, &t.2][round])).collect();
                if spans.iter().all(|span| span.tokens.is_empty()) {
                    continue;
                }
                let mut rows = logits(model, model.hidden(&spans, Some(&mut cache))).into_iter();
                spans.iter().zip(&mut found).for_each(|(span, found)| found.extend(rows.by_ref().take(span.tokens.len())));
            }
            for (found, (a, b, c)) in found.iter().zip(&texts) {
                assert_near(found, &plain(model, &[a.as_slice(), b, c].concat()));
            }
            let whole: Vec<Vec<u32>> = texts.iter().map(|(a, b, c)| [a.as_slice(), b, c].concat()).collect();
            let spans: Vec<Span> = whole.iter().map(|text| Span::chain(text)).collect();
            assert_near(&logits(model, model.hidden(&spans, None)), &found.concat());
        }
    }

    #[test]
    fn a_text_that_is_dropped_leaves_the_others_as_they_are(
        models in models(), texts in prop::collection::vec((texts(1..12), texts(1..6)), 2..5), dropped in any::<Index>(),
    ) {
        for model in &models {
            let mut cache = model.cache(texts.len(), 3);
            model.hidden(&texts.iter().map(|text| Span::chain(&text.0)).collect::<Vec<_>>(), Some(&mut cache));
            let mut left = texts.clone();
            left.swap_remove(dropped.index(texts.len()));
            cache.swap_remove(dropped.index(texts.len()));
            let spans: Vec<Span> = left.iter().map(|text| Span::chain(&text.1)).collect();
            let mut found = logits(model, model.hidden(&spans, Some(&mut cache))).into_iter();
            for (first, second) in &left {
                let found: Vec<_> = found.by_ref().take(second.len()).collect();
                assert_near(&found, &plain(model, &[first.as_slice(), second].concat())[first.len()..]);
            }
        }
    }

    #[test]
    fn random_roll_backs(models in models(), rounds in prop::collection::vec((texts(1..8), any::<Index>()), 1..6)) {
        for model in &models {
            let (mut cache, mut text) = (model.cache(1, 5), Vec::new());
            for (piece, keep) in &rounds {
                let found = feed(model, &mut cache, piece);
                text.extend_from_slice(piece);
                assert_near(&found, &plain(model, &text)[text.len() - piece.len()..]);
                text.truncate(keep.index(text.len() + 1));
                cache.truncate(0, text.len());
            }
            let found = feed(model, &mut cache, &[7, 8]);
            text.extend([7, 8]);
            assert_near(&found, &plain(model, &text)[text.len() - 2..]);
        }
    }

    #[test]
    fn draft_trees_of_two_texts_and_the_paths_kept(
        models in models(),
        prompts in (texts(1..10), texts(1..10)),
        blocks in prop::collection::vec((trees(), trees(), any::<Index>(), any::<Index>()), 1..4),
    ) {
        for model in &models {
            let mut texts = [prompts.0.clone(), prompts.1.clone()];
            let mut cache = model.cache(2, 12);
            model.hidden(&texts.each_ref().map(|text| Span::chain(text)), Some(&mut cache));
            for (first, second, kept_first, kept_second) in &blocks {
                let trees = [first, second];
                let after = [0, 1].map(|i| trees[i].after(texts[i].len()));
                let spans = [0, 1].map(|i| Span { tokens: &trees[i].tokens, after: Some(&after[i]) });
                let mut found = logits(model, model.hidden(&spans, Some(&mut cache))).into_iter();
                for (i, kept) in [kept_first, kept_second].into_iter().enumerate() {
                    for (node, found) in found.by_ref().take(trees[i].tokens.len()).enumerate() {
                        let own = [texts[i].clone(), trees[i].tokens_of(&trees[i].path(node))].concat();
                        assert_near(&[found], &plain(model, &own)[own.len() - 1..]);
                    }
                    let path = trees[i].path(kept.index(trees[i].tokens.len()));
                    cache.keep(i, texts[i].len(), &path);
                    texts[i].extend(trees[i].tokens_of(&path));
                    assert_eq!(cache.len(i), texts[i].len());
                }
            }
            let found = logits(model, model.hidden(&[Span::chain(&[3, 4]), Span::chain(&[5])], Some(&mut cache)));
            let [first, second] = [0, 1].map(|i| [texts[i].as_slice(), [&[3, 4][..], &[5]][i]].concat());
            assert_near(&found[..2], &plain(model, &first)[first.len() - 2..]);
            assert_near(&found[2..], &plain(model, &second)[second.len() - 1..]);
        }
    }
}

/// The reference itself depends on order and on every earlier token, and on nothing later.
#[test]
fn a_plain_forward_is_causal_and_sees_the_whole_past() {
    let size = draftsmith::backbone::LanguageModelConfig { hidden: 32, layers: 2, ..Default::default() };
    let model = Transformer::new(&ModelConfig::from_scratch(&size, VOCABULARY), &mut Init::seeded(1, &Device::flex()));
    for model in [Model::freeze(&model, StorageType::Float32).unwrap(), Model::in_tensors(model)] {
        let text: Vec<u32> = (1..9).collect();
        let whole = plain(&model, &text);
        assert_near(&plain(&model, &text[..5]), &whole[..5]);
        for changed in 0..text.len() {
            let mut other = text.clone();
            other[changed] = 40;
            let difference = |row: usize, logits: &[Vec<f32>]| -> f32 {
                logits[row].iter().zip(&whole[row]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            let found = plain(&model, &other);
            assert!((0..changed).all(|row| difference(row, &found) < TOLERANCE));
            assert!((changed..text.len()).all(|row| difference(row, &found) > TOLERANCE));
        }
    }
}
