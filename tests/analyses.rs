//! The analyses in the report are those of their definitions, recomputed here from the run's files in another way.
#![cfg(feature = "cpu")]

mod common;

use burn::tensor::Device;
use common::{report, world};
use draftsmith::backbone::{Backbone, Precision};
use draftsmith::heads::{FrozenHeads, load_heads};
use draftsmith::nn::from_host;
use draftsmith::traces::Trace;
use serde_json::Value;

/// What the tiny run was evaluated with.
struct Run {
    backbone: Backbone,
    heads: FrozenHeads,
    trace: Trace,
    set: Value,
}

impl Run {
    fn open() -> Self {
        let folder = world().join("runs/tiny");
        let backbone = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
        let heads = load_heads(&folder.join("heads"), &backbone.model, &backbone.hash).unwrap();
        let trace = Trace::open(&folder.join("traces/fables-test"), &backbone.identity()).unwrap();
        Self { backbone, heads, trace, set: report(world())["datasets"][0].clone() }
    }

    /// By head from 1 on: for every position that has a token for it, that token and the logits of the whole vocabulary.
    fn logits(&self) -> Vec<Vec<(u32, Vec<f64>)>> {
        let (model, heads) = (&self.backbone.model, &self.heads);
        let vocabulary = model.config().vocab_size;
        let mut all = vec![Vec::new(); heads.count() + 1];
        for document in self.trace.documents() {
            let target = self.trace.continuation(document);
            for t in 0..target.len() {
                let row = document.prompt - 1 + t;
                let hidden =
                    from_host(self.trace.hidden(document, row..row + 1), [1, self.trace.width()], model.device());
                let first = model.logits(hidden.clone());
                all[0].push((target[t], first.into_iter().map(f64::from).collect()));
                let found = heads.candidates(model, hidden, &target[t..=t], vocabulary).unwrap();
                for slot in (1..=heads.count()).take_while(|slot| t + slot < target.len()) {
                    let mut logits = vec![f64::NAN; vocabulary];
                    let cells = (slot - 1) * vocabulary..slot * vocabulary;
                    for (&id, &score) in found.ids[cells.clone()].iter().zip(&found.scores[cells]) {
                        logits[id as usize] = f64::from(score);
                    }
                    all[slot].push((target[t + slot], logits));
                }
            }
        }
        all
    }
}

fn near(found: &Value, expected: f64, what: &str) {
    assert!((found.as_f64().unwrap() - expected).abs() < 1e-4, "{what}: {found} {expected}");
}

#[test]
fn heads_have_the_entropy_accuracy_and_calibration_of_their_whole_softmax() {
    let run = Run::open();
    let heads = run.set["heads"].as_array().unwrap();
    let mut means = Vec::new();
    let all = run.logits();
    assert_eq!(heads.len(), all.len());
    for (number, (found, positions)) in heads.iter().zip(&all).enumerate() {
        assert_eq!(found["positions"], positions.len());
        let (mut entropy, mut histogram, mut right, mut among) = (0.0, vec![0.0; 20], 0.0, 0.0);
        let mut predictions = Vec::new();
        for (token, logits) in positions {
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            let one: f64 = logits.iter().map(|x| -x.exp() / sum * (x - sum.ln())).sum();
            entropy += one;
            histogram[(one / 0.5) as usize] += 1.0 / positions.len() as f64;
            let better = logits.iter().filter(|x| **x > logits[*token as usize]).count();
            right += f64::from(better == 0);
            among += f64::from(better < 6);
            let most = logits.iter().copied().fold(f64::MIN, f64::max);
            predictions.push((most.exp() / sum, better == 0));
        }
        let n = positions.len() as f64;
        near(&found["entropy"], entropy / n, "entropy");
        means.push(entropy / n);
        for (bin, share) in found["entropy_histogram"].as_array().unwrap().iter().enumerate() {
            // One position may lie on an edge of a bin.
            assert!((share.as_f64().unwrap() - histogram[bin]).abs() < 1.5 / n, "{bin}: {share} {}", histogram[bin]);
        }
        if number == 0 {
            assert!(found["accuracy"].is_null() && found["calibration"].is_null());
            continue;
        }
        near(&found["accuracy"], right / n, "accuracy");
        near(&found["accuracy_top_k"], among / n, "accuracy in the top k");
        predictions.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut start, mut error) = (0, 0.0);
        let bins = found["calibration"]["bins"].as_array().unwrap();
        assert_eq!(bins.len(), 10);
        for bin in bins {
            let size = bin["bin_positions"].as_u64().unwrap() as usize;
            let these = &predictions[start..start + size];
            start += size;
            assert!(size == predictions.len() / 10 || size == predictions.len().div_ceil(10));
            let predicted: f64 = these.iter().map(|(probability, _)| probability).sum();
            near(&bin["predicted"], predicted / size as f64, "predicted");
            error += (predicted - these.iter().filter(|(_, right)| *right).count() as f64).abs() / n;
        }
        assert_eq!(start, predictions.len());
        // Probabilities next to an edge may be in the other bin.
        assert!((found["calibration"]["ece"].as_f64().unwrap() - error).abs() < 0.02, "{found} {error}");
    }
    let rises = 1 + means.windows(2).take_while(|pair| pair[1] > pair[0]).count();
    assert_eq!(run.set["h_max"], rises, "{means:?}");
}

/// What was accepted so far can only speak for what follows.
#[test]
fn conditional_rates_begin_as_the_marginal_ones_and_are_never_below_them() {
    let run = Run::open();
    for variant in run.set["variants"].as_array().unwrap() {
        let rates = |name: &str| -> Vec<f64> {
            variant[name].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect()
        };
        let marginal = rates("accept_rate_by_position");
        let conditional = rates("conditional_accept_rate_by_position");
        assert_eq!(conditional.len(), marginal.len());
        // Slot 1 is always accepted.
        assert_eq!((conditional[0], conditional[1]), (1.0, marginal[1]));
        assert!(conditional.iter().zip(&marginal).all(|(c, m)| (*m..=1.0).contains(c)), "{variant}");
    }
}

/// With the table's number of paths the curve is the table; with one, a call verifies a block and no more.
#[test]
fn the_curve_of_best_paths_goes_through_the_table() {
    let set = Run::open().set;
    let points = set["best_paths"].as_array().unwrap();
    let rows = set["variants"].as_array().unwrap().iter().filter(|v| v["name"].as_str().unwrap().starts_with("pbest-"));
    let mut compared = 0;
    for row in rows.filter(|row| row["name"] == "pbest-0gram" || row["tuned"] != serde_json::json!({})) {
        let of_row: Vec<&Value> = points.iter().filter(|point| point["variant"] == row["name"]).collect();
        assert_eq!(of_row.iter().map(|point| point["paths"].as_u64().unwrap()).collect::<Vec<_>>(), [40, 1, 5]);
        for name in ["block_efficiency", "verified_tokens_per_call"] {
            assert_eq!(of_row[2][name], row[name], "{row}");
        }
        assert!(of_row[1]["verified_tokens_per_call"].as_f64().unwrap() <= 4.0);
        assert!(of_row[0]["verified_tokens_per_call"].as_f64() > row["verified_tokens_per_call"].as_f64());
        compared += 1;
    }
    assert!(compared >= 2, "{points:?}");
}

/// Prompt lookup needs nothing but the traced tokens, so its calls can be counted from them, by the plainest search.
#[test]
fn prompt_lookup_makes_the_calls_that_the_text_alone_tells() {
    let run = Run::open();
    let (mut calls, mut nodes) = (0, 0);
    for document in run.trace.documents() {
        let tokens = run.trace.tokens(document);
        let mut start = document.prompt;
        while start < tokens.len() {
            let known = &tokens[..=start];
            let mut draft: &[u32] = &[];
            for length in 1..=3 {
                for end in length..known.len() {
                    if known.len() >= length && known[end - length..end] == known[known.len() - length..] {
                        draft = &known[end..];
                    }
                }
            }
            let slots = 4.min(document.prompt + document.limit - start);
            let draft = &draft[..draft.len().min(slots - 1)];
            nodes += 1 + draft.len();
            calls += 1;
            start += 1 + draft.iter().zip(&tokens[start + 1..]).take_while(|(a, b)| a == b).count();
        }
    }
    let row = run.set["variants"].as_array().unwrap().iter().find(|v| v["name"] == "prompt-lookup").unwrap();
    assert_eq!(row["backbone_calls"], calls);
    near(&row["verified_tokens_per_call"], nodes as f64 / f64::from(calls), "nodes");
    assert!(row["block_efficiency"].as_f64().unwrap() > 1.0, "{row}");
    assert!(row["choice_share"].is_null() && row["drafts"] == 1);
}
