//! What a configuration says of the heads' loss is what is trained.

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use draftsmith::backbone::{Backbone, Precision};
use draftsmith::heads::{
    BlockStarts, Feed, FrozenHeads, HeadKind, HeadShape, HeadTraining, HeadsConfig, ReadDocuments, SpeculatorConfig,
    SpeculatorHeads, TrainingText, Wanted,
};
use draftsmith::nn::Init;
use draftsmith::traces::Trace;
use draftsmith::training::Task;

use crate::common::{finished, inputs, read_json, report, row, succeed, traced, world};
use serde_json::Value;

/// Trains heads with `sets`; gives the lines of `metrics.jsonl` and what was said.
fn trained(folder: &Path, sets: &[&str]) -> (Vec<Value>, String) {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let outcome = succeed(folder, &["train-heads", "run.toml"].into_iter().chain(sets).collect::<Vec<_>>());
    let metrics = fs::read_to_string(folder.join("runs/tiny/heads/metrics.jsonl")).unwrap();
    (metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), outcome.stderr)
}

/// The lines about dev.
fn on_dev(metrics: Vec<Value>) -> Vec<Value> {
    metrics.into_iter().filter(|line| line["split"] == "dev").collect()
}

fn numbers(metrics: &[Value], name: &str) -> Vec<f64> {
    metrics.iter().filter_map(|line| line[name].as_f64()).collect()
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("runs/tiny/heads/heads.safetensors")).unwrap()
}

/// The loss is linear in the weights, once they are scaled to a sum of 1: three lists that favour one head each have the
/// constant weights' loss as their mean, for all heads as for one drawn head.
#[test]
fn weights_say_how_much_each_head_counts() {
    let folder = traced();
    for loss in ["all", "one-random"] {
        // On the first batch, before any update.
        let first_loss = |weights: &str| {
            let sets = [format!("heads.loss={loss}"), format!("heads.loss_weights={weights}")];
            let (metrics, _) = trained(folder.path(), &[&sets[0], &sets[1], "heads.training.steps=1"]);
            numbers(&metrics, "loss")[0]
        };
        let constant = first_loss("constant");
        let favoured = ["[2, 1, 1]", "[1, 2, 1]", "[1, 1, 2]"].map(first_loss);
        assert!(favoured.iter().all(|found| (found - constant).abs() > 1e-6), "{loss}: {favoured:?}, {constant}");
        let mean = favoured.iter().sum::<f64>() / 3.0;
        assert!((mean - constant).abs() < 1e-9, "{loss}: {favoured:?}, {constant}");
        assert!((first_loss("[10, 20, 10]") - favoured[1]).abs() < 1e-12, "only ratios count");
        assert!((first_loss("{decay=0.5}") - first_loss("[4, 2, 1]")).abs() < 1e-12);
        // e^(-1 / 1.4427) is a half.
        let half = format!("{{exp={}}}", 1.0 / std::f64::consts::LN_2);
        assert!((first_loss(&half) - first_loss("[4, 2, 1]")).abs() < 1e-12);
    }
}

/// Noise changes what heads read, and is the same in every training; the loss on states comes on top of the other.
#[test]
fn states_with_noise_and_losses_on_states() {
    let folder = traced();
    let first = |sets: &[&str]| {
        let (metrics, _) = trained(folder.path(), &[sets, &["heads.training.steps=2"]].concat());
        (numbers(&metrics, "loss"), weights(folder.path()))
    };
    for kind in ["{kind=\"ffn\",hidden=8}", "{kind=\"eagle3\",input=[\"layer-1\"]}"] {
        let heads = format!("heads.architecture={kind}");
        let noise = [&*heads, "heads.feature_noise=0.5"];
        let (plain, noisy) = (first(&[&heads]), first(&noise));
        assert!((plain.0[0] - noisy.0[0]).abs() > 1e-6, "{kind}: {:?} {:?}", plain.0, noisy.0);
        fs::remove_dir_all(crate::common::place(folder.path(), "heads")).unwrap();
        assert!(first(&noise) == noisy, "{kind}");
        let with = |weight: &str| first(&[&heads, &format!("heads.feature_loss={weight}")]).0[0] - plain.0[0];
        let (one, two) = (with("1.0"), with("2.0"));
        assert!(one > 1e-3 && (two - 2.0 * one).abs() < 1e-6 * two, "{kind}: {one} {two}");
    }
}

/// Untrained, `lava` heads predict their neighbours as the heads there do, so what is added is known from the losses of these.
#[test]
fn a_loss_on_neighbours_comes_on_top() {
    let folder = traced();
    let first = |sets: &[&str]| {
        let heads = ["heads.architecture={kind=\"lava\",hidden=8}", "heads.training.steps=1"];
        numbers(&trained(folder.path(), &[&heads, sets].concat()).0, "loss")[0]
    };
    let weighted = |weights: &str| first(&["heads.block_size=5", &format!("heads.loss_weights={weights}")]);
    let equal = weighted("[1, 1, 1, 1]");
    let of_heads = ["[2, 1, 1, 1]", "[1, 2, 1, 1]", "[1, 1, 2, 1]", "[1, 1, 1, 2]"];
    let [two, three, four, five] = of_heads.map(|weights| 5.0 * weighted(weights) - 4.0 * equal);
    let plain = first(&["heads.block_size=4"]);
    assert!((plain - (two + three + four) / 3.0).abs() < 1e-6);
    let beside = (three + f64::midpoint(two, four) + f64::midpoint(three, five)) / 3.0;
    for weight in [0.5, 2.0] {
        let found = first(&["heads.block_size=4", &format!("heads.neighbour_loss={weight}")]);
        assert!((found - plain - weight * beside).abs() < 1e-6, "{weight}: {found} {plain} {beside}");
    }
}

struct Waves;

impl ModuleMapper for Waves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let numbers = (0..tensor.dims().iter().product::<usize>()).map(|i| (i as f32 * i as f32 * 0.37).sin());
            Tensor::from_data(TensorData::new(numbers.collect::<Vec<f32>>(), tensor.dims()), &tensor.device())
        })
    }
}

#[test]
fn heads_that_are_fed_their_own_choices_read_what_they_read_when_they_draft() {
    let folder = world().join("runs/tiny");
    let backbone = Backbone::load(&world().join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
    let open = |split: &str| {
        let trace = Trace::open(&folder.join(format!("traces/fables-{split}")), &backbone.identity()).unwrap();
        trace.with_column(&folder.join(format!("columns/fables-{split}/last"))).unwrap()
    };
    let (train, dev) = (open("train"), open("dev"));
    let [train_text, dev_text] = [&train, &dev].map(|trace| [TrainingText { corpus: "fables", trace }]);
    let model = &backbone.model;
    let kind = SpeculatorConfig { inner: 12, ..SpeculatorConfig::default() };
    let network = kind.network(HeadShape::new(3, model), &mut Init::seeded(1, &Device::flex().autodiff()));
    let network = network.map(&mut Waves);
    let heads = FrozenHeads::new(network.valid(), model, None);
    let [fed, told] = [Feed::Drafted, Feed::Text].map(|feed| {
        let options = HeadsConfig { block_size: 4, feed, positions_per_step: 200, ..HeadsConfig::default() };
        let task = HeadTraining::new(&train_text, &dev_text, model, &network, &options, 1).unwrap();
        let by_head = task.batch(&network, 0).unwrap().metrics["accuracy_by_head"].clone();
        (
            [0, 1, 2].map(|head| by_head[head].as_f64().unwrap()),
            Task::<SpeculatorHeads>::describe(&task, 0)["positions"].clone(),
        )
    });
    let (mut right, mut counted) = ([0.0; 3], [0.0; 3]);
    for position in fed.1.as_array().unwrap() {
        let number = train.documents().iter().position(|document| document.id == position["document"]).unwrap();
        let token = position["token"].as_u64().unwrap() as usize;
        let text: Vec<u32> = position["slots"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
        let mut read = ReadDocuments::new(&heads, model, &train, 1);
        read.read(0, number).unwrap();
        let (states, context) = read.behind(&[(0, token)]);
        let starts = BlockStarts { states: &states, pinned: &text[..1], context };
        let drafted = heads.candidates(model, starts, 1, Wanted::default()).unwrap();
        for head in (0..3).filter(|head| token + 2 + head < train.documents()[number].len()) {
            counted[head] += 1.0;
            right[head] += f64::from(u8::from(drafted.at(0).ids[head] == text[head + 1]));
        }
    }
    assert_eq!(fed.0, [0, 1, 2].map(|head| right[head] / counted[head]));
    assert!(fed.0[0] == told.0[0] && fed.0[1..] != told.0[1..], "{fed:?} {told:?}");
}

/// Dev block efficiency is what `evaluate` finds with the same heads on the same documents.
#[test]
fn dev_block_efficiency_is_that_of_the_evaluation() {
    let metrics = fs::read_to_string(world().join("runs/tiny/heads/metrics.jsonl")).unwrap();
    let best = read_json(&world().join("runs/tiny/heads/checkpoints/best.json"))["step"].clone();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let dev = lines.into_iter().find(|line| line["step"] == best && line["split"] == "dev").unwrap();
    let report = report(world());
    let plain = row(&report["datasets"][0], "block-efficiency", "bpd");
    assert_eq!(dev["block_efficiency"], plain["dev_block_efficiency"]);
    assert!(dev["block_efficiency"].as_f64().unwrap() > 1.0, "{dev}");
}

/// The loss is linear in the targets.
#[test]
fn soft_targets_are_mixed_by_their_share() {
    let folder = traced();
    let first_loss = |soft: &str, kept: &str| {
        let sets = [format!("heads.soft_targets={soft}"), format!("traces.probabilities={kept}")];
        numbers(&trained(folder.path(), &[&sets[0], &sets[1], "heads.training.steps=1"]).0, "loss")[0]
    };
    let [text, half, soft] = ["0", "0.5", "1"].map(|share| first_loss(share, "5"));
    assert!((text - soft).abs() > 1e-3 && (half - (text + soft) / 2.0).abs() < 1e-5, "{text} {half} {soft}");
    // The backbone's text is its likeliest token, so one token of the distribution is the text itself. Of a single token, the
    // logarithm of the overlap is the cross-entropy.
    assert!((first_loss("1", "1") - text).abs() < 1e-6);
    let lk = ["heads.criterion=lk", "heads.soft_targets=1", "traces.probabilities=1", "heads.training.steps=1"];
    assert!((numbers(&trained(folder.path(), &lk).0, "loss")[0] - text).abs() < 1e-4);
}

/// With all tokens kept, the distributions that the trace has are those that training computes anew.
#[test]
fn distributions_computed_anew_are_those_that_a_trace_keeps() {
    let folder = traced();
    for heads in [
        "heads.architecture={kind=\"ffn\"}",
        "heads.architecture={kind=\"medusa\",unembedding=\"own\"}",
        "heads.vocabulary={size=40,drafting=true}",
    ] {
        for (share, criterion) in
            [("1", "cross-entropy"), ("0.25", "cross-entropy"), ("1", "tv"), ("1", "lk"), ("1", "lk-hybrid")]
        {
            // A part of the vocabulary is given what the rest had: the teacher alone here, the text's token as well there.
            if heads.contains("vocabulary") && share != "1" {
                continue;
            }
            let losses = ["0", "300"].map(|kept| {
                let sets = [
                    format!("heads.soft_targets={share}"),
                    format!("heads.criterion={criterion}"),
                    format!("traces.probabilities={kept}"),
                ];
                let short = ["heads.training.steps=2", "heads.training.warmup_steps=0"];
                let sets: Vec<&str> = [heads].into_iter().chain(sets.iter().map(String::as_str)).chain(short).collect();
                numbers(&trained(folder.path(), &sets).0, "loss")
            });
            let ([anew, kept], case) = (&losses, (heads, share, criterion));
            assert!(anew.iter().zip(kept).all(|(a, b)| (a - b).abs() < 1e-4), "{case:?}: {losses:?}");
            assert!((anew[0] - anew[1]).abs() > if criterion == "tv" { 1e-4 } else { 1e-3 }, "{case:?}: {losses:?}");
        }
    }
}

#[test]
fn phases_follow_one_another_with_rates_and_targets_of_their_own() {
    let folder = traced();
    let (whole, _) = trained(folder.path(), &[]);
    let alone = weights(folder.path());
    trained(folder.path(), &["heads.phase=[{steps=20}]"]);
    assert_eq!(weights(folder.path()), alone, "one phase of all steps is no phase");
    let phases =
        "heads.phase=[{steps=8,warmup_steps=0,learning_rate=0.02},{steps=12,text={greedy=1},data=[\"fables\"]}]";
    let (parts, _) = trained(folder.path(), &[phases]);
    let (rates, whole) = (numbers(&parts, "learning_rate"), numbers(&whole, "learning_rate"));
    assert_eq!((rates[0], rates[8], rates[9]), (0.02, whole[0], whole[1]));
    assert_ne!(weights(folder.path()), alone);
}

#[test]
fn a_part_of_the_vocabulary_is_counted_and_says_what_it_covers() {
    let folder = traced();
    let (whole, _) = trained(folder.path(), &[]);
    let (part, said) = trained(folder.path(), &["heads.vocabulary={size=40,drafting=false}"]);
    assert!(
        said.contains("the 40 most frequent tokens are ") && said.contains(" % of the dev continuations"),
        "{said}"
    );
    // Before the first update, a softmax over fewer tokens is less of a choice; dev is over all of them.
    assert!(numbers(&part, "loss")[0] < numbers(&whole, "loss")[0] - 0.01);
    assert!(read_json(&folder.path().join("runs/tiny/heads/heads.json"))["vocabulary"].is_null());
}

#[test]
fn the_best_checkpoint_is_chosen_by_what_the_configuration_says() {
    let folder = traced();
    let sets = ["heads.training.dev_every=1", "heads.training.learning_rate=0.05"];
    for (choice, name, sign) in [("dev-loss", "loss", 1.0), ("dev-block-efficiency", "block_efficiency", -1.0)] {
        let choose = format!("heads.choose_by={choice}");
        let (metrics, _) = trained(folder.path(), &[sets[0], sets[1], &choose]);
        let scores: Vec<f64> = numbers(&on_dev(metrics), name).iter().map(|score| sign * score).collect();
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let first = 1 + scores.iter().position(|&score| score == least).unwrap();
        assert_eq!(read_json(&folder.path().join("runs/tiny/heads/checkpoints/best.json"))["step"], first, "{choice}");
    }
}

#[test]
fn heads_start_where_others_ended() {
    let folder = finished();
    let last = |folder: &Path| {
        let metrics = fs::read_to_string(folder.join("heads/metrics.jsonl")).unwrap();
        let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        numbers(&on_dev(lines), "loss").into_iter().fold(f64::INFINITY, f64::min)
    };
    let tiny = last(&folder.path().join("runs/tiny"));
    let arguments = ["train-heads", "run.toml", "--init-from", "runs/tiny/heads", "--set", "name=second"];
    let still = ["--set", "heads.training.steps=1", "--set", "heads.training.learning_rate=1e-12"];
    succeed(folder.path(), &[&arguments[..], &still].concat());
    assert!((last(&folder.path().join("runs/second")) - tiny).abs() < 1e-6);
    assert!(folder.path().join("runs/second/heads/report.html").exists());
}

/// Corpora in other splits than the training's: one to train on, one to report on.
#[test]
fn a_corpus_can_be_reported_on_and_not_trained_on() {
    let folder = inputs();
    let text = fs::read_to_string(folder.path().join("fables.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (own, other) = lines.split_at(lines.len() / 2);
    fs::write(folder.path().join("fables.jsonl"), own.join("\n")).unwrap();
    fs::write(folder.path().join("others.jsonl"), other.join("\n")).unwrap();
    let sets = ["data.fables.test=0", "data.others.path=others.jsonl", "data.others.dev=0.4", "data.others.test=0.6"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    succeed(folder.path(), &[&["run", "run.toml"], &sets[..]].concat());
    let traces = folder.path().join("runs/tiny/traces");
    let made: Vec<bool> = ["fables-train", "fables-dev", "fables-test", "others-train", "others-dev", "others-test"]
        .map(|name| traces.join(name).exists())
        .into();
    assert_eq!(made, [true, true, false, false, true, true]);
    let report = report(folder.path());
    assert_eq!(
        report["datasets"].as_array().unwrap().iter().map(|d| d["name"].clone()).collect::<Vec<_>>(),
        ["others"]
    );
}
