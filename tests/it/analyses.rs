//! The analyses in the report are those of their definitions, recomputed here from the run's files in another way.

use std::collections::BTreeMap;

use crate::common::{only_row, report, row, rows, world};
use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Feature, Precision};
use draftsmith::heads::{Binding, BlockStarts, FrozenHeads, Wanted, load_heads};
use draftsmith::traces::Trace;
use safetensors::SafeTensors;
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
        let heads = load_heads(&folder.join("heads"), &backbone, Binding::Same).unwrap();
        let trace = Trace::open(&folder.join("traces/fables-test"), &backbone.identity()).unwrap();
        let trace = trace.with_column(&folder.join("columns/fables-test/last")).unwrap();
        Self { backbone, heads, trace, set: report(world())["datasets"][0].clone() }
    }

    /// By head from 1 on: for every position that has a token for it, that token and the logits of the whole vocabulary.
    fn logits(&self) -> Vec<Vec<(u32, Vec<f64>)>> {
        let (model, heads) = (&self.backbone.model, &self.heads);
        let vocabulary = model.config().vocab_size;
        let mut all = vec![Vec::new(); heads.count() + 1];
        for (number, document) in self.trace.documents().iter().enumerate() {
            let target = self.trace.continuation(document);
            for t in 0..target.len() {
                let row = document.prompt - 1 + t;
                let read = self.trace.states(number, row..row + 1, &[Feature::Last]).unwrap().to_device(model.device());
                let first = model.logits(read.get(Feature::Last));
                all[0].push((target[t], first.into_iter().map(f64::from).collect()));
                let starts = BlockStarts { states: &read, pinned: &target[t..=t], context: None };
                let found = heads.candidates(model, starts, vocabulary, Wanted::default()).unwrap();
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
    let (heads, histograms, bins) =
        (rows(&run.set, "heads"), rows(&run.set, "entropy-histogram"), rows(&run.set, "reliability"));
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
        for (nats, share) in histograms[number]["share"].as_object().unwrap() {
            // One position may lie on an edge of a bin; what no position reaches is not there.
            let expected = histogram[(nats.parse::<f64>().unwrap() / 0.5) as usize];
            assert!((share.as_f64().unwrap_or(0.0) - expected).abs() < 1.5 / n, "{nats}: {share} {expected}");
        }
        if number == 0 {
            assert!(found["accuracy"].is_null() && found["ece"].is_null());
            continue;
        }
        near(&found["accuracy"], right / n, "accuracy");
        near(&found["accuracy_top_k"], among / n, "accuracy in the top k");
        predictions.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut start, mut error) = (0, 0.0);
        let bins: Vec<&Value> = bins.iter().filter(|bin| bin["head"] == number + 1).collect();
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
        assert!((found["ece"].as_f64().unwrap() - error).abs() < 0.02, "{found} {error}");
    }
    let rises = 2 + means[1..].windows(2).take_while(|pair| pair[1] > pair[0]).count();
    assert_eq!(only_row(&run.set, "h-max")["h_max"], rises, "{means:?}");
}

/// What was accepted so far can only speak for what follows.
#[test]
fn conditional_rates_begin_as_the_marginal_ones_and_are_never_below_them() {
    let run = Run::open();
    for variant in rows(&run.set, "acceptance") {
        let rates = |name: &str| -> Vec<f64> {
            (1..=4).map(|position| variant[name][position.to_string()].as_f64().unwrap()).collect()
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
    let curves = rows(&set, "p-best-curve");
    for curve in &curves {
        let name = curve["name"].as_str().unwrap();
        assert!(name.starts_with("pbest-"), "{name}");
        let row = row(&set, "block-efficiency", name);
        for number in ["block_efficiency", "verified_tokens_per_call"] {
            assert!(curve[number].as_object().unwrap().keys().eq(["1", "40", "5"]), "{curve}");
            assert_eq!(curve[number]["5"], row[number], "{row}");
        }
        let nodes = &curve["verified_tokens_per_call"];
        assert!(nodes["1"].as_f64().unwrap() <= 4.0 && nodes["40"].as_f64() > nodes["5"].as_f64(), "{nodes}");
    }
    assert!(curves.len() >= 2, "{curves:?}");
}

/// Prompt lookup needs nothing but the traced tokens, so its calls can be counted from them, by the plainest search.
#[test]
fn prompt_lookup_makes_the_calls_that_the_text_alone_tells() {
    let run = Run::open();
    let (mut calls, mut nodes, mut along) = (0, 0, BTreeMap::new());
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
            let accepted = 1 + draft.iter().zip(&tokens[start + 1..]).take_while(|(a, b)| a == b).count();
            let range = ["0-15", "16-31", "32-63", "64-127"]
                [((start - document.prompt) / 16).checked_ilog2().map_or(0, |n| n + 1) as usize];
            let (kept, blocks) = along.entry(range).or_insert((0, 0));
            (*kept, *blocks) = (*kept + accepted, *blocks + 1);
            start += accepted;
        }
    }
    let row = row(&run.set, "block-efficiency", "prompt-lookup");
    assert_eq!(row["backbone_calls"], calls);
    near(&row["verified_tokens_per_call"], nodes as f64 / f64::from(calls), "nodes");
    assert!(row["block_efficiency"].as_f64().unwrap() > 1.0, "{row}");
    assert!(row["choice_share"].is_null() && row["drafts"] == 1);
    assert!(along.len() > 1, "{along:?}");
    let found = &crate::common::row(&run.set, "along-the-text", "prompt-lookup")["block_efficiency"];
    assert!(found.as_object().unwrap().keys().eq(along.keys()), "{found}");
    along.iter().for_each(|(range, (kept, blocks))| near(&found[range], *kept as f64 / f64::from(*blocks), range));
}

#[test]
fn the_best_and_worst_documents_are_written_out_whole() {
    let run = Run::open();
    let variants = rows(&run.set, "block-efficiency");
    let row = variants.iter().find(|row| row["best"] == true).unwrap();
    // Dev chooses it, and test has no part in that.
    let most = variants.iter().filter_map(|v| v["dev_block_efficiency"].as_f64()).fold(0.0, f64::max);
    assert_eq!(row["dev_block_efficiency"], most);
    let sections = run.set["sections"].as_array().unwrap();
    let section = sections.iter().find(|section| section["id"] == "examples").unwrap();
    let note = section["notes"][0].as_str().unwrap();
    assert!(note.starts_with(&format!("With {}.", row["name"].as_str().unwrap())), "{note}");
    let (examples, figures) = (rows(&run.set, "examples"), section["figures"].as_array().unwrap());
    assert_eq!(examples.len(), figures.len());
    let rates = |among: &str| -> Vec<f64> {
        let among = examples.iter().filter(|example| example["among"] == among);
        among.map(|example| example["block_efficiency"].as_f64().unwrap()).collect()
    };
    let (best_rates, worst_rates) = (rates("best"), rates("worst"));
    assert_eq!([best_rates.len(), worst_rates.len()], [3, 3]);
    assert!(best_rates.is_sorted_by(|a, b| a >= b) && worst_rates.is_sorted() && worst_rates[2] <= best_rates[2]);
    let mut rejected = false;
    for (example, figure) in examples.iter().zip(figures) {
        let document = run.trace.documents().iter().find(|d| example["name"] == d.id.as_str()).unwrap();
        assert_eq!(example["tokens"], document.continuation);
        let passage = &figure["drawing"]["passage"];
        let blocks = passage["pieces"].as_array().unwrap();
        assert_eq!(example["calls"], blocks.len());
        let tokens = run.trace.tokens(document);
        let decode = |tokens: &[u32]| run.backbone.tokenizer.decode(tokens).unwrap();
        let (prompt, whole) = (decode(&tokens[..document.prompt]), decode(tokens));
        // An end-of-text alone has no text.
        let written: String = blocks.iter().map(|block| block["kept"].as_str().unwrap().replace('␄', "")).collect();
        assert_eq!(format!("{prompt}{written}"), whole);
        assert!(prompt.ends_with(passage["before"].as_str().unwrap().trim_start_matches('…')));
        rejected |= blocks.iter().any(|block| block["struck"] != "");
    }
    assert!(rejected);
}

/// From the files of model and heads, and from the counts beside it in the report.
#[test]
fn costs_follow_from_the_files_and_the_measured_counts() {
    let set = Run::open().set;
    let file = std::fs::read(world().join("model/model.safetensors")).unwrap();
    // The embedding is the unembedding, so every matrix is multiplied for every token.
    let tensors = SafeTensors::deserialize(&file).unwrap();
    // As many bytes as the checkpoint has.
    let bytes = |tensor: &safetensors::tensor::TensorView| {
        (tensor.data().len() / tensor.shape().iter().product::<usize>()) as f64
    };
    let weight = bytes(&tensors.tensor("model.embed_tokens.weight").unwrap());
    assert_eq!(weight, 2.0);
    let matrices: usize = tensors
        .tensors()
        .iter()
        .filter(|(_, t)| t.shape().len() == 2)
        .map(|(_, t)| t.shape().iter().product::<usize>())
        .sum();
    let heads = std::fs::read(world().join("runs/tiny/heads/heads.safetensors")).unwrap();
    let heads = SafeTensors::deserialize(&heads).unwrap();
    let heads: usize = heads.tensors().iter().map(|(_, t)| t.shape().iter().product::<usize>()).sum();
    let (matrices, heads) = (matrices as f64, heads as f64);
    // Two layers of four heads of width 8, two of them with keys and values; rescorer `small`: one layer of 16.
    let (attention, cached) = (|c: f64| 2.0 * 2.0 * 32.0 * c, |c: f64| 2.0 * 2.0 * 16.0 * c * 4.0);
    let vocabulary = 300.0;
    let check = |cost: &Value, name: &str, expected: f64| {
        let found = cost[name].as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-9 || found == expected, "{name}: {found} {expected}");
    };
    let plain = &row(&set, "cost", "token by token");
    check(plain, "parameter_bytes", weight * matrices);
    check(plain, "backbone_flops_per_token", 2.0 * (matrices + attention(512.0)));
    check(plain, "head_flops_per_token", 0.0);
    for context in [128, 512, 1024, 2048] {
        assert_eq!(plain["kv_bytes_per_token"][context.to_string()], cached(f64::from(context)));
    }
    let mut rescored = 0;
    for (name, drafts_from_heads) in
        [("bpd", true), ("prompt-lookup", false), ("small", true), ("turns", true), ("look", true)]
    {
        let (row, cost, tuned) =
            (row(&set, "block-efficiency", name), &row(&set, "cost", name), row(&set, "settings", name));
        let (n, t) = (row["verified_tokens_per_call"].as_f64().unwrap(), row["block_efficiency"].as_f64().unwrap());
        check(cost, "backbone_flops_per_token", 2.0 * n * (matrices + attention(512.0)) / t);
        let of_heads = if drafts_from_heads { 2.0 * (heads + 3.0 * vocabulary * 32.0) / t } else { 0.0 };
        check(cost, "head_flops_per_token", of_heads);
        let scale = tuned["lm_scale"].as_f64().unwrap_or(0.0);
        let k = tuned["top_k"].as_f64().unwrap_or(6.0);
        // H = 4, rank 8.
        let (mut kv, mut flops, mut read) = (cached(1024.0), 0.0, 0.0);
        if scale > 0.0 {
            rescored += 1;
            match name {
                "small" => {
                    let layer = 16.0 * (16.0 + 16.0 + 32.0 + 3.0 * 32.0);
                    let fed = 3.0;
                    flops = 2.0 * ((t + fed) * (layer + 2.0 * 16.0 * 512.0) + fed * k * 16.0);
                    kv += 4.0 * 2.0 * 16.0 * 1024.0 * 4.0;
                    read = 4.0 * 4.0 * layer;
                }
                "turns" => {
                    flops = 2.0 * 8.0 * (32.0 + k + 2.0 * k * k);
                    read = 4.0 * 8.0 * 32.0;
                }
                _ => {
                    flops = 2.0 * 8.0 * (64.0 + 9.0 * k + 12.0 * 8.0);
                    read = 4.0 * 8.0 * (2.0 * 32.0 + 3.0 * 8.0);
                }
            }
        }
        check(cost, "rescorer_flops_per_token", flops / t);
        let found = cost["kv_bytes_per_token"]["1024"].as_f64().unwrap();
        assert!((found * t / kv - 1.0).abs() < 1e-9, "{name}: {found} {kv}");
        let of_heads = if drafts_from_heads { 4.0 * heads } else { 0.0 };
        let found = cost["parameter_bytes_per_token"].as_f64().unwrap() * t;
        assert!((found - weight * matrices - of_heads - read).abs() < 1e-6, "{name}: {found} {read}");
    }
    assert!(rescored >= 2, "rescorers were switched off");
    assert!(rows(&set, "cost").iter().all(|row| row["name"] != "oracle"));
}
