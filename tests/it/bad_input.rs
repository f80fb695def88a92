//! Every mistake ends with exit code 2 and one paragraph that names the file, and leaves nothing half-written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::common::{
    Outcome, PROGRAM, copy_traces, everything_below, finished, inputs, mark_anew, place, read_json, report, run,
    skipped, succeed, traced,
};
use draftsmith::nn::{parameters_from_safetensors, parameters_to_safetensors};
use draftsmith::storage_type::StorageType;
use serde_json::{Value, json};

/// Runs a command that must be refused in one paragraph with all of `words`.
fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    assert_refused(folder, &run(folder, arguments), words);
}

fn assert_refused(folder: &Path, outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("error:")).count(), 1, "{}", outcome.stderr);
    let paragraph = *lines.last().unwrap();
    assert!(paragraph.starts_with("error: "), "{}", outcome.stderr);
    for panic in ["panicked", "RUST_BACKTRACE", "this is a bug"] {
        assert!(!outcome.stderr.contains(panic), "{}", outcome.stderr);
    }
    for word in words {
        assert!(paragraph.contains(word), "`{word}` is not in: {paragraph}");
    }
    assert_nothing_aside(folder);
}

fn assert_nothing_aside(folder: &Path) {
    let aside = |path: &&std::path::PathBuf| path.to_string_lossy().contains(".aside-");
    let left: Vec<_> = everything_below(folder);
    assert_eq!(left.iter().find(aside), None);
}

/// Changes a file in place.
fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    fs::write(path, change(fs::read_to_string(path).unwrap())).unwrap();
}

/// Changes a value in a file of JSON, and its hash in the mark of the artefact, as if the program had written it so.
fn set(path: &Path, key: &str, value: Value) {
    edit(path, |text| {
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json[key] = value;
        json.to_string()
    });
    mark_anew(path.parent().unwrap());
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn rewrite_weights(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model/model.safetensors");
    let mut tensors = parameters_from_safetensors(&path).unwrap();
    change(&mut tensors);
    parameters_to_safetensors(&path, &tensors, StorageType::Float32).unwrap();
}

#[test]
fn configurations() {
    let folder = inputs();
    let path = folder.path();
    refused(path, &["run", "absent.toml"], &["absent.toml"]);
    refused(path, &["run", "."], &["."]);
    fs::write(path.join("typo.toml"), "name = \"x\"\n[heads]\nblock_sise = 3\n").unwrap();
    refused(path, &["run", "typo.toml"], &["typo.toml: line 3", "`block_sise`", "did you mean `block_size`"]);
    fs::write(path.join("syntax.toml"), "name = \"x\"\n[heads\n").unwrap();
    refused(path, &["run", "syntax.toml"], &["syntax.toml: line 2"]);
    refused(
        path,
        &["run", "run.toml", "--set", "heads.block_size=1"],
        &["--set heads.block_size=1: `heads.block_size` is 1", "at least 2"],
    );
    refused(path, &["run", "run.toml", "--set", "heads.sizes=1"], &["--set", "unknown key `sizes`"]);
    for (set, words) in [
        (
            "heads.architecture.kind=seer",
            &["`heads.architecture.kind` is \"seer\"", "\"ffn\", \"medusa\", \"linear\""][..],
        ),
        ("heads.architecture.hiden=8", &["unknown key `hiden`", "did you mean `hidden`"]),
        ("heads.architecture.first_layer=none", &["is \"none\"", "\"separate\" or \"shared\""]),
        ("heads.architecture={kind=\"medusa\",blocks=0}", &["heads.architecture.blocks", "at least 1"]),
        ("heads.loss_weights=[1, 2]", &["--set", "heads.loss_weights", "2 numbers", "3 heads", "heads 2 to 4"]),
        ("heads.loss_weights=[1, 0, 1]", &["`heads.loss_weights[1]` is 0", "above 0"]),
        ("heads.architecture={kind=\"speculator\",inner=0}", &["heads.architecture.inner", "at least 1"]),
        ("heads.architecture={kind=\"attention\",layers=0}", &["heads.architecture.layers", "from 1 to 1024"]),
        ("heads.architecture={kind=\"attention\",rows=\"tree\"}", &["is \"tree\"", "\"sequential\" or \"parallel\""]),
        (
            "heads.architecture={kind=\"attention\",layers=3}",
            &["`heads.architecture.layers` is 3", "it has 2. Take fewer"],
        ),
        (
            "heads.architecture={kind=\"attention\",input=[\"layer-7\"]}",
            &["heads.architecture", "there is no `layer-7`: the backbone has 2 layers"],
        ),
        ("heads.positions_per_document=7", &["`heads.positions_per_step`", "`heads.positions_per_document` = 7"]),
        ("heads.loss_weights={exp=0}", &["heads.loss_weights.exp", "above 0"]),
        ("heads.feed=drafted", &["`heads.feed` is \"drafted\"", "read no drafted tokens"]),
        ("heads.neighbour_loss=1", &["`heads.neighbour_loss` is 1", "kind \"lava\" with `look_around`"]),
        ("heads.feed=own", &["`heads.feed` is \"own\"", "\"text\" or \"drafted\""]),
        ("heads.soft_targets=2", &["soft_targets", "from 0 to 1"]),
        ("heads.text={sampled=1}", &["`heads.text` names \"sampled\"", "traces.train_text"]),
        ("heads.text={greedy=0}", &["text.greedy", "above 0"]),
        ("heads.loss={annealled=3}", &["--set", "annealed"]),
        ("heads.vocabulary={size=1,drafting=true}", &["heads.vocabulary.size", "at least 2"]),
        ("heads.vocabulary={size=8}", &["--set", "`heads.vocabulary.drafting` is missing", "true or false"]),
        ("heads.phase=[{steps=3}]", &["heads.training.steps", "20", "3 together"]),
        ("heads.phase=[{steps=20,data=[\"x\"]}]", &["`heads.phase[0].data`", "[data.x]"]),
        ("heads.phase=[{steps=20,rate=1}]", &["--set", "unknown key `rate`", "learning_rate"]),
        ("traces.keep=everything", &["`traces.keep` is \"everything\"", "\"tokens\" or \"features\""]),
        ("data.fables.dev=0", &["`data.fables`", "no `dev` share"]),
        ("rescorer.whole.of=[\"small\", \"none\"]", &["rescorer.whole.of", "`none`", "[rescorer.none]"]),
        ("rescorer.whole.of=[\"small\", \"mixed\"]", &["`mixed`", "a sum itself"]),
        ("rescorer.whole.of=[\"small\"]", &["rescorer.whole", "at least 2"]),
        ("rescorer.turns.rank=0", &["rescorer.turns.rank", "at least 1"]),
        ("rescorer.turns.ranks=3", &["unknown key `ranks`", "did you mean `rank`"]),
        ("rescorer.x={kind=\"bilinear\"}", &["`rescorer.x.kind` is \"bilinear\"", "\"transition\""]),
        ("rescorer.look.loss=\"crf\"", &["--set", "unknown key `loss`"]),
        ("rescorer.tree-x={kind=\"lava\"}", &["rescorer.tree-x", "built-in variant"]),
        ("rescorer.prompt-lookup={kind=\"lava\"}", &["rescorer.prompt-lookup", "built-in variant"]),
        ("tuning.decays=[1.5]", &["tuning.decays", "above 0 and at most 1"]),
        ("tuning.temperatures=[]", &["tuning.temperatures", "one or more"]),
        ("tuning.lookup=[1.5]", &["tuning.lookup", "from 0 to 1"]),
        ("tuning.slot_tempering=[2.0]", &["tuning.slot_tempering", "from 0 to 1"]),
        ("tuning.gates=[-1.0]", &["tuning.gates", "above 0"]),
        ("evaluation.curve_paths=[2, 0]", &["evaluation.curve_paths", "at least 1"]),
        ("drafting.nodes=0", &["drafting.nodes", "at least 1"]),
        ("heads.loss_weights=even", &["--set", "loss_weights", "\"constant\", { decay = a number"]),
    ] {
        refused(path, &["run", "run.toml", "--set", set], words);
    }
    let own = ["heads.architecture={kind=\"medusa\",unembedding=\"own\"}", "heads.vocabulary={size=8,drafting=true}"];
    refused(path, &["run", "run.toml", "--set", own[0], "--set", own[1]], &["heads.vocabulary", "\"own\""]);
    refused(path, &["run", "run.toml", "--device", "tpu"], &["`tpu` is no device"]);
    refused(path, &["pretrain", "run.toml"], &["no [pretrain] section"]);
    refused(
        path,
        &["train-rescorer", "run.toml", "--only", "x"],
        &["[rescorer.x]", "counts, look, mixed, small, turns, whole"],
    );
    refused(path, &["report", "runs/absent"], &["runs/absent", "report.json"]);
    refused(path, &["inspect", "absent"], &["absent"]);
}

#[test]
fn given_heads_that_do_not_know_what_the_configuration_asks_for() {
    let folder = crate::common::traced();
    let path = folder.path();
    succeed(path, &["train-heads", "run.toml"]);
    let sets = ["--set", "heads.bias={rank=4,confidence=true}", "--set", "drafting.stop=confidence=0.5"];
    let arguments = [&["evaluate", "run.toml", "--heads", "runs/tiny/heads"], &sets[..]].concat();
    refused(path, &arguments, &["confidence, which these do not know"]);
}

#[test]
fn what_cannot_be_had() {
    let folder = inputs();
    let path = folder.path();
    let threads = crate::common::run_with(path, &["run", "run.toml"], &[("RAYON_NUM_THREADS", "99999")]);
    assert_refused(path, &threads, &["RAYON_NUM_THREADS is 99999"]);
    fs::write(path.join("lines.toml"), "extends = \"run.toml\"\nname = \"two\\nlines\"\n").unwrap();
    refused(path, &["run", "lines.toml"], &["`name` is named \"two\\nlines\"", "line ends"]);
    // Nobody writes into the pipe, so reading it would wait for ever.
    assert!(Command::new("mkfifo").arg(path.join("pipe")).status().unwrap().success());
    refused(path, &["run", "run.toml", "--set", "data.fables.path=pipe"], &["pipe", "no ordinary file"]);
}

/// The library that reads it stumbles over these.
#[test]
fn tokenizers_that_cannot_be_used() {
    let folder = inputs();
    let path = folder.path();
    let file = path.join("model/tokenizer.json");
    let before = fs::read_to_string(&file).unwrap();
    for (key, value) in [
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        ("truncation", json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 2})),
    ] {
        set(&file, key, value);
        let outcome = run(path, &["run", "run.toml", "--quiet"]);
        assert!(!outcome.stderr.contains("bug in draftsmith"), "{key}: {}", outcome.stderr);
        assert!(outcome.code == Some(0) || outcome.stderr.contains("tokenizer.json"), "{key}: {}", outcome.stderr);
        fs::write(&file, &before).unwrap();
    }
}

#[test]
fn model_folders() {
    let folder = inputs();
    let path = folder.path();
    refused(path, &["run", "run.toml", "--set", "backbone.path=absent"], &["there is no folder `absent`", "org/name"]);
    for name in ["config.json", "generation_config.json", "tokenizer.json"] {
        let file = path.join("model").join(name);
        let before = fs::read(&file).unwrap();
        fs::write(&file, "{").unwrap();
        refused(path, &["run", "run.toml"], &[&format!("model/{name}")]);
        fs::write(&file, before).unwrap();
    }
    let config = path.join("model/config.json");
    let before = fs::read(&config).unwrap();
    set(&config, "model_type", json!("mamba"));
    refused(path, &["run", "run.toml"], &["model/config.json", "`mamba`", "supports llama, mistral"]);
    fs::write(&config, &before).unwrap();
    set(&config, "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}));
    refused(path, &["run", "run.toml"], &["model/config.json", "rope_scaling"]);
    fs::write(&config, &before).unwrap();
    fs::remove_file(path.join("model/tokenizer.json")).unwrap();
    refused(path, &["run", "run.toml"], &["model/tokenizer.json"]);
    assert!(!path.join("runs/tiny/run.toml").exists());
}

#[test]
fn weight_files() {
    let folder = inputs();
    let path = folder.path();
    let weights = path.join("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 7, 100, whole.len() as u64 - 1] {
        cut(&weights, length);
        refused(path, &["run", "run.toml"], &["model/model.safetensors", "truncated", &format!("{length} bytes")]);
        fs::write(&weights, &whole).unwrap();
    }
    let name = "model.layers.1.self_attn.q_proj.weight";
    rewrite_weights(path, |tensors| drop(tensors.remove(name)));
    refused(path, &["run", "run.toml"], &["model/model.safetensors", name, "missing"]);
    fs::write(&weights, &whole).unwrap();
    rewrite_weights(path, |tensors| drop(tensors.insert("model.extra.weight".into(), (vec![1], vec![1.0]))));
    refused(path, &["run", "run.toml"], &["model/model.safetensors", "`model.extra.weight`", "no place"]);
    fs::write(&weights, &whole).unwrap();
    rewrite_weights(path, |tensors| tensors.get_mut(name).unwrap().0 = vec![16, 64]);
    refused(path, &["run", "run.toml"], &["model/model.safetensors", name, "[16, 64]", "[32, 32]"]);
    fs::write(&weights, &whole).unwrap();
    rewrite_weights(path, |tensors| {
        let (shape, numbers) = tensors.get_mut("model.embed_tokens.weight").unwrap();
        shape[0] -= 10;
        numbers.truncate(shape[0] * shape[1]);
    });
    set(&path.join("model/config.json"), "vocab_size", json!(290));
    refused(path, &["run", "run.toml"], &["model", "ids up to 299", "290 entries"]);
    fs::remove_file(&weights).unwrap();
    refused(path, &["run", "run.toml"], &["model/model.safetensors"]);
}

#[test]
fn a_weight_of_an_unknown_type() {
    let folder = inputs();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1], &[0; 8]).unwrap();
    let bytes = safetensors::serialize([("model.embed_tokens.weight", view)], None).unwrap();
    fs::write(folder.path().join("model/model.safetensors"), bytes).unwrap();
    let generate = ["generate", "--model", "model", "--prompt", "x"];
    refused(folder.path(), &generate, &["model/model.safetensors", "`model.embed_tokens.weight`", "I64"]);
}

#[test]
fn corpora() {
    let folder = inputs();
    let path = folder.path();
    let corpus = path.join("fables.jsonl");
    let good = fs::read_to_string(&corpus).unwrap();
    let second = |line: &str| good.replacen('\n', &format!("\n{line}\n"), 1).into_bytes();
    for (content, words) in [
        (Vec::new(), &["empty"][..]),
        (b"\n\n".to_vec(), &["empty"]),
        (second("{\"prompt\": \"a\""), &["line 2", "not a JSON object"]),
        (second("[1]"), &["line 2", "not a JSON object"]),
        (second("{\"prompt\": \"a\"}"), &["line 2", "`completion`"]),
        ([good.as_bytes(), b"\xff\xfe\n"].concat(), &["line 69", "UTF-8"]),
        (b"{\"prompt\": \"a\", \"completion\": \"b\"}\n".to_vec(), &["fables", "no documents"]),
    ] {
        fs::write(&corpus, content).unwrap();
        let mut words = words.to_vec();
        words.push("fables");
        refused(path, &["run", "run.toml"], &words);
    }
    fs::remove_file(&corpus).unwrap();
    refused(path, &["run", "run.toml"], &["fables.jsonl"]);
    refused(path, &["pretrain", "pretrain.toml"], &["fables.jsonl"]);
}

#[test]
fn rescorers_without_text() {
    let folder = inputs();
    let gold = |name: &str| format!("rescorer.{name}.text=[\"gold\"]");
    for name in ["counts", "small"] {
        let (gold, run) = (gold(name), ["train-rescorer", "run.toml", "--only", name]);
        let arguments = [&run[..], &["--set", "data.fables.completion=", "--set", &gold]].concat();
        refused(folder.path(), &arguments, &[&format!("train-rescorer {name}")]);
    }
    let arguments = ["train-rescorer", "run.toml", "--only", "small", "--set", "rescorer.small.model.context=1"];
    refused(folder.path(), &arguments, &["`rescorer.small.model.context` is 1", "at least 2"]);
}

#[test]
fn variants_that_heads_and_rescorers_do_not_allow() {
    let folder = inputs();
    for (variant, reasons) in [
        ("graph-0gram", &["nothing to merge", "drafting.graph.merge"][..]),
        ("fixed-counts", &["the heads' own ranks", "fixed-0gram"]),
        ("fixed-0gram@counts", &["the heads' own ranks"]),
        ("grown-0gram@turns", &["`turns` is no rescorer that knows the probabilities of all tokens"]),
        ("grown-0gram@none", &["`none` is no rescorer that knows"]),
        ("tree-0gram@counts", &["for drafts that grow"]),
        ("bpd+length=0", &["at least 1"]),
    ] {
        let set = format!("drafting.variants=[\"{variant}\"]");
        refused(folder.path(), &["plan", "run.toml", "--set", &set], reasons);
    }
    let zero = "evaluation.sampling.draws=[{rule=\"k-seq\",drafts=[0]}]";
    refused(folder.path(), &["plan", "run.toml", "--set", zero], &["evaluation.sampling.draws", "at least 1"]);
    let none = ["plan", "run.toml", "--set", "drafting.branching=[0]"];
    refused(folder.path(), &none, &["drafting.branching", "at least 1"]);
    for (widths, reason) in [("[]", "at least 1"), ("[4, 0]", "at least 1"), ("4", "list")] {
        let widths = format!("drafting.confidence_widths={widths}");
        refused(folder.path(), &["plan", "run.toml", "--set", &widths], &["drafting.confidence_widths", reason]);
    }
}

#[test]
fn token_id_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let estimate = ["ngram", "estimate", "--arpa", "x.arpa", "--token-ids"];
    refused(path, &[&estimate[..], &["absent.ids"]].concat(), &["absent.ids"]);
    fs::write(path.join("words.ids"), "1 2\n3 four\n").unwrap();
    refused(path, &[&estimate[..], &["words.ids"]].concat(), &["words.ids: line 2", "`four`"]);
    fs::write(path.join("empty.ids"), "").unwrap();
    refused(path, &[&estimate[..], &["empty.ids"]].concat(), &["empty.ids"]);
    fs::write(path.join("cut.arpa"), "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n").unwrap();
    refused(path, &["ngram", "score", "--arpa", "cut.arpa", "--token-ids", "words.ids"], &["cut.arpa"]);
    assert!(!path.join("x.arpa").exists());
}

#[test]
fn prompts_that_do_not_fit() {
    let folder = inputs();
    let long = "the fox ".repeat(200);
    refused(folder.path(), &["generate", "--model", "model", "--prompt", &long], &["the prompt has", "context's 96"]);
    refused(folder.path(), &["generate", "--model", "model", "--prompt", ""], &["the prompt has 0 tokens"]);
}

#[test]
fn results_of_another_backbone() {
    let folder = finished();
    let path = folder.path();
    let heads = path.join("runs/tiny/heads");
    // Of another hash, they are known by the values of the backbone, unless those are not there or others.
    set(&heads.join("heads.json"), "backbone", json!("0123456789abcdef"));
    succeed(path, &["run", "run.toml"]);
    let above = fs::read(heads.join("backbone.json")).unwrap();
    set(&heads.join("backbone.json"), "config", json!({}));
    refused(path, &["run", "run.toml"], &["heads.json", "another backbone", "0123456789ab", "another shape"]);
    fs::remove_file(heads.join("backbone.json")).unwrap();
    mark_anew(&heads);
    refused(path, &["run", "run.toml"], &["heads.json", "another backbone", "nothing but the hash is known"]);
    fs::write(heads.join("backbone.json"), above).unwrap();
    set(&heads.join("heads.json"), "width", json!(31));
    refused(path, &["run", "run.toml"], &["heads.json", "width 31", "32"]);
}

#[test]
fn rescorers_of_another_backbone() {
    let folder = finished();
    let (path, network) = (folder.path(), folder.path().join("runs/tiny/rescorers/turns/network.json"));
    let whole = fs::read(&network).unwrap();
    set(&network, "backbone", json!("0123456789abcdef"));
    refused(path, &["run", "run.toml"], &["runs/store/rescorers/", "network.json", "another backbone", "0123456789ab"]);
    fs::write(&network, whole).unwrap();
    set(&network, "rank", json!(9));
    refused(path, &["run", "run.toml"], &["network.json", "rank 9", "asks for transition of rank 8"]);
}

#[test]
fn what_cannot_be_decoded() {
    let folder = finished();
    let path = folder.path();
    let generate = |more: &[&str], reasons: &[&str]| {
        refused(path, &[&["generate", "--run", "runs/tiny", "--prompt", "the fox"], more].concat(), reasons);
    };
    generate(&["--variant", "best"], &["no variant `best`", "tree-counts"]);
    generate(&["--data", "news"], &["not evaluated on `news`", "fables"]);
    generate(&["--temperature", "0.5"], &["--temperature", "--rule sample"]);
    generate(&["--rule", "k-seq", "--variant", "counts"], &["drawn from the heads", "--drafts"]);
    generate(&["--rule", "k-seq", "--drafts", "3,0"], &["--drafts", "at least one token"]);
    refused(path, &["generate", "--run", "runs/none", "--prompt", "the fox"], &["runs/none: no run", "draftsmith run"]);
    fs::remove_dir_all(path.join("runs/tiny/tuned")).unwrap();
    generate(&[], &["not evaluated", "draftsmith evaluate"]);
    // What the paragraph asks for brings them back.
    succeed(path, &["evaluate", "run.toml"]);
    assert!(path.join("runs/tiny/tuned/fables.json").exists());
    // A run that reports on nothing ends well, and has no settings to decode with, those of an earlier evaluation neither.
    succeed(path, &["run", "run.toml", "--set", "data.fables.test=0"]);
    generate(&[], &["no data set", "`test` share"]);
}

#[test]
fn heads_of_another_layout() {
    let folder = finished();
    let (path, description) = (folder.path(), folder.path().join("runs/tiny/heads/heads.json"));
    set(&description, "schema_version", json!(99));
    // Other scales, so that the heads are read again.
    let evaluate = ["run", "run.toml", "--set", "tuning.lm_scales=[0.4]"];
    refused(path, &evaluate, &["heads.json", "layout 99, this program reads 1", "train-heads"]);
    set(&description, "schema_version", json!(1));
    let before = read_json(&description)["block_size"].clone();
    set(&description, "block_size", json!(1u64 << 63));
    refused(path, &evaluate, &["heads.json", "`block_size` is 9223372036854775808", "2 to 4096"]);
    set(&description, "block_size", before);
    let before = read_json(&description)["architecture"].clone();
    set(&description, "architecture", json!({"kind": "ffn", "hidden": 16, "features": ["layer-99", "last"]}));
    refused(path, &evaluate, &["heads.json", "no `layer-99`", "has 2 layers"]);
    set(&description, "architecture", json!({"kind": "medusa", "blocks": u64::MAX}));
    refused(path, &evaluate, &["heads.json", "`heads.architecture.blocks` is 18446744073709551615", "1024 at most"]);
    set(&description, "architecture", before);
    set(&description, "schema_version", json!(99));
}

#[test]
fn damaged_results() {
    for (file, damage) in [
        ("columns/fables-train/last/rows.bin", Some(100)),
        ("traces/fables-test/tokens.bin", Some(101)),
        ("traces/fables-dev/trace.json", Some(50)),
        ("columns/fables-dev/last/rows.bin", None),
        ("columns/fables-test/last/column.json", Some(60)),
        ("heads/heads.safetensors", Some(200)),
        ("heads/heads.json", Some(3)),
        ("rescorers/counts/model.ngram", Some(400)),
        ("rescorers/small/model.safetensors", None),
        ("report/report.json", Some(1000)),
    ] {
        let folder = finished();
        let target = folder.path().join("runs/tiny").join(file);
        match damage {
            Some(length) => cut(&target, length),
            None => fs::remove_file(&target).unwrap(),
        }
        refused(folder.path(), &["run", "run.toml"], &["runs/store/", file.rsplit('/').next().unwrap()]);
    }
}

/// A bit that changed on disk is never read in silence, whatever it means.
#[test]
fn a_bit_that_flipped_in_finished_work() {
    for file in [
        "columns/fables-test/last/rows.bin",
        "candidates/fables-test/candidates.bin",
        "traces/fables-test/tokens.bin",
        "rescorers/small/config.json",
        "heads/heads.safetensors",
    ] {
        let folder = finished();
        let path = folder.path();
        let target = path.join("runs/tiny").join(file);
        let mut bytes = fs::read(&target).unwrap();
        let place = bytes.len() - 3;
        bytes[place] ^= 1;
        fs::write(&target, bytes).unwrap();
        let name = file.rsplit('/').next().unwrap();
        // Other scales, so that there is something to do.
        let other = ["run", "run.toml", "--set", "tuning.lm_scales=[0.4]"];
        refused(path, &other, &[name, "has changed since it was made", "Remove the folder", "--no-verify"]);
    }
    // Whoever means it is told what it means.
    let folder = finished();
    let tokens = folder.path().join("runs/tiny/traces/fables-test/tokens.bin");
    let mut bytes = fs::read(&tokens).unwrap();
    bytes[7] ^= 0x40;
    fs::write(&tokens, bytes).unwrap();
    let unverified = ["run", "run.toml", "--set", "tuning.lm_scales=[0.4]", "--no-verify"];
    refused(folder.path(), &unverified, &["tokens.bin", "not among the model's 300"]);
    let folder = finished();
    let rows = folder.path().join("runs/tiny/columns/fables-test/last/rows.bin");
    let mut bytes = fs::read(&rows).unwrap();
    bytes[10] ^= 1;
    fs::write(&rows, bytes).unwrap();
    succeed(folder.path(), &unverified);
    assert_eq!(report(folder.path())["provenance"]["verified"], false);
}

#[test]
fn a_stage_whose_mark_is_damaged_is_done_again() {
    let folder = finished();
    let run = folder.path().join("runs/tiny");
    let heads = fs::read(run.join("heads/heads.safetensors")).unwrap();
    cut(&run.join("heads/stage.json"), 0);
    let outcome = succeed(folder.path(), &["run", "run.toml"]);
    assert!(!outcome.stderr.contains("train-heads: finished earlier"), "{}", outcome.stderr);
    assert_eq!(fs::read(run.join("heads/heads.safetensors")).unwrap(), heads);
}

#[test]
fn what_the_message_on_a_damaged_trace_advises_mends_it() {
    let folder = finished();
    for file in ["traces/fables-test/tokens.bin", "columns/fables-test/last/rows.bin"] {
        let path = folder.path().join("runs/tiny").join(file);
        let whole = fs::read(&path).unwrap();
        cut(&path, 10);
        let (part, name) = file.rsplit_once('/').unwrap();
        let place = place(folder.path(), part);
        let short = place.strip_prefix(fs::canonicalize(folder.path()).unwrap()).unwrap().display();
        let advice = format!("Remove the folder {short} and start the command again");
        refused(folder.path(), &["run", "run.toml"], &[name, "has changed", &advice]);
        fs::remove_dir_all(place).unwrap();
        succeed(folder.path(), &["trace", "run.toml"]);
        assert!(fs::read(&path).unwrap() == whole);
    }
}

#[test]
fn damaged_checkpoints() {
    let unfinished = finished();
    fs::remove_file(unfinished.path().join("runs/tiny/heads/stage.json")).unwrap();
    let checkpoint = "checkpoints/step-000020";
    for file in ["model.safetensors", "state.json"] {
        let file = format!("{checkpoint}/{file}");
        let path = unfinished.path().join("runs/tiny/heads").join(&file);
        let before = fs::read(&path).unwrap();
        cut(&path, before.len() as u64 / 2);
        refused(unfinished.path(), &["train-heads", "run.toml"], &[&file]);
        fs::write(&path, before).unwrap();
    }
    succeed(unfinished.path(), &["train-heads", "run.toml"]);
}

#[test]
fn heads_that_are_not_numbers() {
    let folder = finished();
    let path = place(folder.path(), "heads").join("heads.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    mark_anew(path.parent().unwrap());
    for command in [
        &["generate", "--run", "runs/tiny", "--prompt", "the fox"][..],
        &["evaluate", "run.toml", "--heads", "runs/tiny"],
    ] {
        refused(folder.path(), command, &["heads.safetensors: the tensor", "not finite"]);
    }
}

#[test]
fn a_second_process_on_the_same_run() {
    let folder = finished();
    let held = File::open(folder.path().join("runs/tiny/.lock")).unwrap();
    held.lock().unwrap();
    refused(folder.path(), &["run", "run.toml"], &["another process", "runs/tiny"]);
    drop(held);
    succeed(folder.path(), &["run", "run.toml"]);
}

#[test]
fn what_heads_cannot_be_trained_from() {
    let folder = finished();
    let (path, trained) = (folder.path(), "runs/tiny/heads");
    let from = |sets: &[&str], words: &[&str]| {
        let arguments = ["train-heads", "run.toml", "--init-from", trained, "--set", "name=second"];
        refused(path, &[&arguments[..], sets].concat(), words);
    };
    from(&["--set", "heads.block_size=3"], &["heads.init_from", "runs/tiny/heads holds 3 heads", "asks for 2"]);
    from(&["--set", "heads.architecture={kind=\"linear\"}"], &["heads.init_from", "\"ffn\"", "\"linear\""]);
    refused(path, &["train-heads", "run.toml", "--init-from", "absent"], &["absent/heads.safetensors"]);
    let large = ["train-heads", "run.toml", "--set", "heads.vocabulary={size=1000000,drafting=false}"];
    refused(path, &large, &["heads.vocabulary.size", "1000000"]);
    let many = ["train-heads", "run.toml", "--set", "traces.probabilities=1000000"];
    refused(path, &many, &["traces.probabilities", "1000000"]);
    // Distributions of a trace that were cut.
    let soft = ["train-heads", "run.toml", "--set", "traces.probabilities=3", "--set", "heads.soft_targets=1"];
    succeed(path, &soft);
    cut(&path.join("runs/tiny/likely/fables-train/likely.bin"), 100);
    fs::remove_file(path.join("runs/tiny/heads/stage.json")).unwrap();
    mark_anew(&place(path, "likely/fables-train"));
    refused(path, &soft, &["likely.bin", "100 bytes", "damaged"]);
}

#[test]
fn a_learning_rate_that_diverges() {
    let folder = inputs();
    let heads = ["train-heads", "run.toml", "--set", "heads.training.warmup_steps=0"];
    for steps in ["heads.training.steps=20", "heads.training.steps=1"] {
        let arguments = [&heads[..], &["--set", "heads.training.learning_rate=1e30", "--set", steps]].concat();
        refused(folder.path(), &arguments, &["train-heads", "diverged at learning rate", "runs/store/heads/"]);
        assert!(!folder.path().join("runs/tiny/heads/heads.safetensors").exists());
        let left: Value =
            serde_json::from_slice(&fs::read(folder.path().join("runs/tiny/heads/diverged.json")).unwrap()).unwrap();
        assert!(left["learning_rate"].as_f64().unwrap() > 1e28, "{left}");
    }
    // Mended, the same run goes through.
    succeed(folder.path(), &heads);
}

/// Runs `work` with a file system of so many KiB at `folder`; false where that is not allowed.
fn on_a_small_disk(folder: &Path, kib: usize, work: impl FnOnce()) -> bool {
    fs::create_dir_all(folder).unwrap();
    let size = format!("size={kib}k");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        skipped("the right to mount a small file system is absent");
        return false;
    }
    work();
    assert!(Command::new("umount").arg(folder).status().unwrap().success());
    true
}

#[test]
fn a_full_disk() {
    let folder = inputs();
    let (path, runs) = (folder.path(), folder.path().join("runs"));
    let mut outcome = None;
    // Tracing looks ahead; what else is written finds out.
    if !on_a_small_disk(&runs, 200, || outcome = Some(run(path, &["run", "run.toml"]))) {
        return;
    }
    assert_refused(path, &outcome.take().unwrap(), &["runs/store/traces", "nearly full", "Free some space"]);
    let mut left = Vec::new();
    on_a_small_disk(&runs, 4000, || {
        copy_traces(&runs);
        let filled = File::create(runs.join("filler")).unwrap().write_all(&vec![1; 4 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        let filler = OpenOptions::new().write(true).open(runs.join("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - 50_000).unwrap();
        outcome = Some(run(path, &["run", "run.toml"]));
        left = everything_below(&runs);
    });
    assert_refused(path, &outcome.unwrap(), &["runs/store", "No space left", "Free some space"]);
    assert!(!left.iter().any(|path| path.to_string_lossy().contains(".aside-")), "{left:?}");
}

/// What has no room in memory is refused with both numbers, before the memory is asked for.
#[test]
fn sizes_that_no_memory_holds() {
    let folder = traced();
    for (command, set, words) in [
        (&["train-heads"][..], "heads.architecture={kind=\"ffn\", hidden=2000000000}", "the heads, their gradients"),
        (&["train-heads"], "heads.architecture={kind=\"speculator\", inner=3000000000}", "the heads, their gradients"),
        (&["train-heads"], "heads.bias={rank=4000000000}", "the heads, their gradients"),
        (&["train-heads"], "heads.positions_per_step=100000000000", "the states of the 100000000000 positions"),
        (&["train-rescorer", "--only", "turns"], "rescorer.turns.rank=5000000000", "the scorer, its gradients"),
        (&["train-rescorer", "--only", "small"], "rescorer.small.model.hidden=1000000000", "the model, its gradients"),
    ] {
        let arguments = [&command[..1], &["run.toml"], &command[1..], &["--set", set]].concat();
        refused(folder.path(), &arguments, &[words, "GiB of memory are free"]);
    }
    for (set, words) in [
        ("evaluation.bootstrap=1000000000000", "1000000"),
        ("traces.batch=1000000000", "65536"),
        ("rescorer.small.model.layers=1000000000", "1024"),
    ] {
        refused(folder.path(), &["run", "run.toml", "--set", set], &[set.split('=').next().unwrap(), words]);
    }
}

/// Whoever may only read a run still reads its report.
#[cfg(unix)]
#[test]
fn a_report_in_a_folder_that_may_not_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let folder = finished();
    let permit = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let written = place(folder.path(), "report");
    permit(folder.path(), 0o755);
    permit(&written, 0o555);
    // Root may write anywhere.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", PROGRAM, "report", "runs/tiny"]);
    let as_root = fs::write(written.join("probe"), "").is_ok();
    let outcome = if as_root {
        fs::remove_file(written.join("probe")).unwrap();
        let Ok(output) = command.current_dir(folder.path()).output() else { return skipped("there is no setpriv") };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    } else {
        let outcome = succeed(folder.path(), &["report", "runs/tiny"]);
        [outcome.stdout, outcome.stderr]
    };
    permit(&written, 0o755);
    assert!(outcome[0].contains("block efficiency") && outcome[1].contains("stays as it was"), "{outcome:?}");
}
