//! However a text reaches the backbone (in pieces, padded, rolled back, as a draft tree), its logits are those of one
//! plain forward.
#![cfg(feature = "cpu")]

use burn::tensor::{Device, Tensor};
use draftsmith::backbone::{Inputs, KvCache, Llama, ModelConfig, Visible};
use draftsmith::nn::{Init, to_host};
use proptest::prelude::*;
use proptest::sample::Index;

const TOLERANCE: f32 = 1e-4;
const VOCABULARY: usize = 50;

/// Random shapes: multi-head, grouped-query and multi-query attention, tied and untied, heads wider or narrower in sum
/// than the hidden state.
fn models() -> impl Strategy<Value = Llama> {
    let heads = prop::sample::select(vec![(4, 4), (4, 2), (4, 1), (6, 3), (1, 1)]);
    (heads, 1..=3usize, prop::sample::select(vec![4, 8]), any::<bool>(), any::<u64>()).prop_map(
        |((heads, kv_heads), layers, width, tied, seed)| {
            let config = ModelConfig {
                vocab_size: VOCABULARY,
                hidden_size: 24,
                intermediate_size: 40,
                num_hidden_layers: layers,
                num_attention_heads: heads,
                num_key_value_heads: kv_heads,
                head_dim: width,
                max_position_embeddings: 64,
                rms_norm_eps: 1e-5,
                rope_theta: 100.0,
                tie_word_embeddings: tied,
            };
            Llama::new(&config, &mut Init::seeded(seed, &Device::flex()))
        },
    )
}

fn texts(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCABULARY as u32, lengths)
}

fn logits(model: &Llama, hidden: Tensor<2>) -> Vec<Vec<f32>> {
    to_host(model.logits(hidden)).chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

/// The reference: one forward over the whole text, no cache.
fn plain(model: &Llama, tokens: &[u32]) -> Vec<Vec<f32>> {
    let positions: Vec<u32> = (0..tokens.len() as u32).collect();
    logits(model, model.hidden(&Inputs { tokens, rows: 1, positions: &positions, visible: Visible::Causal }, None))
}

/// Appends a piece of text to the cache.
fn feed(model: &Llama, cache: &mut KvCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    let positions: Vec<u32> = (cache.len() as u32..).take(tokens.len()).collect();
    let inputs = Inputs { tokens, rows: 1, positions: &positions, visible: Visible::Causal };
    logits(model, model.hidden(&inputs, Some(cache)))
}

fn cache(model: &Llama) -> KvCache {
    KvCache::new(model.config(), 1, 64, &Device::flex())
}

fn assert_near(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < TOLERANCE, "token {row}: {a} {b}");
        }
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

    /// One forward of every node behind what the cache holds.
    fn verify(&self, model: &Llama, cache: &mut KvCache) -> Vec<Vec<f32>> {
        let (past, nodes) = (cache.len(), self.tokens.len());
        let mut visible = vec![false; nodes * (past + nodes)];
        let mut positions = Vec::new();
        for (node, row) in visible.chunks_mut(past + nodes).enumerate() {
            let path = self.path(node);
            row[..past].fill(true);
            path.iter().for_each(|&ancestor| row[past + ancestor] = true);
            positions.push((past + path.len() - 1) as u32);
        }
        let inputs = Inputs { tokens: &self.tokens, rows: 1, positions: &positions, visible: Visible::Given(&visible) };
        logits(model, model.hidden(&inputs, Some(cache)))
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
    fn any_cut_into_cached_pieces(model in models(), text in texts(1..24), cuts in texts(0..5)) {
        let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut as usize % text.len()).chain([0, text.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut cache = cache(&model);
        let pieces = ends.windows(2).flat_map(|w| feed(&model, &mut cache, &text[w[0]..w[1]])).collect::<Vec<_>>();
        assert_near(&pieces, &plain(&model, &text));
        assert_eq!(cache.len(), text.len());
    }

    #[test]
    fn left_padded_batches(model in models(), rows in prop::collection::vec(texts(2..16), 1..5)) {
        let longest = rows.iter().map(Vec::len).max().unwrap();
        let padding: Vec<usize> = rows.iter().map(|row| longest - row.len()).collect();
        let mut cache = KvCache::new(model.config(), rows.len(), longest, &Device::flex());
        let mut found = vec![Vec::new(); rows.len()];
        // All but the last column together, then the last one behind the cache, as decoding does.
        for columns in [0..longest - 1, longest - 1..longest] {
            let (mut tokens, mut positions) = (Vec::new(), Vec::new());
            for (row, &pad) in rows.iter().zip(&padding) {
                tokens.extend(columns.clone().map(|c| if c < pad { 0 } else { row[c - pad] }));
                positions.extend(columns.clone().map(|c| c.saturating_sub(pad) as u32));
            }
            let visible = Visible::LeftPadded(&padding);
            let inputs = Inputs { tokens: &tokens, rows: rows.len(), positions: &positions, visible };
            let all = logits(&model, model.hidden(&inputs, Some(&mut cache)));
            for (row, part) in all.chunks(columns.len()).enumerate() {
                found[row].extend_from_slice(part);
            }
        }
        for ((found, &pad), row) in found.iter().zip(&padding).zip(&rows) {
            assert_near(&found[pad..], &plain(&model, row));
        }
    }

    #[test]
    fn random_roll_backs(model in models(), rounds in prop::collection::vec((texts(1..8), any::<Index>()), 1..6)) {
        let (mut cache, mut text) = (cache(&model), Vec::new());
        for (piece, keep) in rounds {
            let found = feed(&model, &mut cache, &piece);
            text.extend_from_slice(&piece);
            assert_near(&found, &plain(&model, &text)[text.len() - piece.len()..]);
            text.truncate(keep.index(text.len() + 1));
            cache.truncate(text.len());
        }
        let found = feed(&model, &mut cache, &[7, 8]);
        text.extend([7, 8]);
        assert_near(&found, &plain(&model, &text)[text.len() - 2..]);
    }

    #[test]
    fn draft_trees_and_the_path_kept(
        model in models(),
        prompt in texts(1..10),
        blocks in prop::collection::vec((trees(), any::<Index>()), 1..4),
    ) {
        let (mut cache, mut text) = (cache(&model), prompt);
        feed(&model, &mut cache, &text);
        for (tree, kept) in blocks {
            let found = tree.verify(&model, &mut cache);
            for (node, found) in found.iter().enumerate() {
                let own = [text.clone(), tree.tokens_of(&tree.path(node))].concat();
                assert_near(std::slice::from_ref(found), &plain(&model, &own)[own.len() - 1..]);
            }
            let path = tree.path(kept.index(tree.tokens.len()));
            cache.keep(text.len(), &path);
            text.extend(tree.tokens_of(&path));
            assert_eq!(cache.len(), text.len());
        }
        let found = feed(&model, &mut cache, &[3, 4]);
        text.extend([3, 4]);
        assert_near(&found, &plain(&model, &text)[text.len() - 2..]);
    }
}

/// The reference itself depends on order and on every earlier token, and on nothing later.
#[test]
fn a_plain_forward_is_causal_and_sees_the_whole_past() {
    let size = draftsmith::config::LanguageModelConfig { hidden: 32, layers: 2, ..Default::default() };
    let model = Llama::new(&ModelConfig::from_scratch(&size, VOCABULARY), &mut Init::seeded(1, &Device::flex()));
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
