//! `ngram`: from text to counts to models and back, interrupted and in parts.

use std::fs;
use std::path::Path;

use crate::common::{PROGRAM, read_json, run, shared, succeed, world};
use serde_json::Value;

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("{name} is no list in {value}"))
}

fn log10(folder: &Path, arpa: &str, ids: &str) -> Vec<f64> {
    let scores = succeed(folder, &["ngram", "score", "--arpa", arpa, "--token-ids", ids, "--format", "json"]).json();
    for name in ["perplexity", "perplexity_without_oov", "tokens", "oov"] {
        assert!(scores[name].is_number(), "{name}");
    }
    list(&scores, "log10").iter().filter_map(Value::as_f64).collect()
}

#[test]
fn ngram_estimates_and_scores_a_file_of_token_ids() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.ids"), "1 2 3\n1 2 4\n\n2 3 1 2\n").unwrap();
    fs::write(folder.path().join("test.ids"), "1 2 3\n9\n").unwrap();
    let estimate = ["ngram", "estimate", "--token-ids", "train.ids", "--order", "2", "--discount-fallback"];
    for arpa in ["plain.arpa", "zipped.arpa.gz"] {
        let made = succeed(folder.path(), &[&estimate[..], &["--arpa", arpa, "--format", "json"]].concat()).json();
        assert_eq!(list(&made, "ngrams").len(), 2);
        assert!(list(&made, "discounts").iter().all(|d| d.as_array().is_some_and(|d| d.len() == 3)));
    }
    let plain = log10(folder.path(), "plain.arpa", "test.ids");
    assert!(plain.len() == 2 && plain.iter().all(|score| *score < 0.0), "{plain:?}");
    assert_eq!(plain, log10(folder.path(), "zipped.arpa.gz", "test.ids"));
}

#[test]
fn ngram_agrees_with_kenlm() {
    let Some(shared) = shared() else { return };
    let vectors = fs::canonicalize(shared.join("vectors/kenlm")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| vectors.join(name).display().to_string();
    let (ids, theirs) = (file("shakespeare700.ids.gz"), file("shakespeare700.o4.arpa.gz"));
    let estimate = ["ngram", "estimate", "--order", "4", "--discount-fallback", "--arpa", "ours.arpa", "--token-ids"];
    let made = succeed(folder.path(), &[&estimate[..], &[&ids, "--format", "json"]].concat()).json();
    // Lines such as "1 3616 D1=0.65331 D2=1.15092 D3+=1.60558".
    let log = fs::read_to_string(vectors.join("shakespeare700.discounts.txt")).unwrap();
    for (order, line) in log.lines().filter(|line| line.contains(" D1=")).enumerate() {
        let fields: Vec<f64> =
            line.split(' ').map(|f| f.rsplit('=').next().unwrap()).filter_map(|f| f.parse().ok()).collect();
        assert_eq!(made["ngrams"][order].as_f64(), Some(fields[1]));
        for (i, expected) in fields[2..].iter().enumerate() {
            assert!((made["discounts"][order][i].as_f64().unwrap() - expected).abs() < 1e-3, "{line}");
        }
    }
    let expected = read_json(&vectors.join("shakespeare700.scores.json"));
    let held_out = list(&expected, "held_out");
    let line = |case: &Value| list(case, "ids").iter().map(Value::to_string).collect::<Vec<_>>().join(" ") + "\n";
    fs::write(folder.path().join("held_out.ids"), held_out.iter().map(line).collect::<String>()).unwrap();
    for arpa in ["ours.arpa", &theirs] {
        let trained = log10(folder.path(), arpa, &ids);
        let unseen = log10(folder.path(), arpa, "held_out.ids");
        assert_eq!((trained.len(), unseen.len()), (700, held_out.len()));
        let wanted = list(&expected, "train_log10").iter().map(|x| x.as_f64().unwrap());
        let pairs = trained
            .into_iter()
            .zip(wanted)
            .chain(unseen.into_iter().zip(held_out.iter().map(|c| c["log10"].as_f64().unwrap())));
        for (found, wanted) in pairs {
            assert!((found - wanted).abs() < 1e-3, "{arpa}: {found} {wanted}");
        }
    }
}

/// Skewed ids with some order, as lines.
fn corpus(seed: u32, documents: u32, length: u32) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 12
    };
    let mut lines = String::new();
    for _ in 0..documents {
        let mut id = next() % 50;
        for _ in 0..next() % length {
            id = if next() % 3 == 0 { next() % 2_000 } else { (id * 7 + next() % 5) % 300 };
            lines += &format!("{id} ");
        }
        lines += "\n";
    }
    lines
}

#[test]
fn shards_counted_apart_and_merged_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (a, b) = (corpus(1, 300, 40), corpus(2, 200, 60));
    fs::write(path.join("a.ids"), &a).unwrap();
    fs::write(path.join("b.ids"), &b).unwrap();
    fs::write(path.join("whole.ids"), format!("{a}{b}")).unwrap();
    for name in ["a", "b", "whole"] {
        succeed(path, &["ngram", "count", "--token-ids", &format!("{name}.ids"), "--out", &format!("{name}.counts")]);
    }
    succeed(path, &["ngram", "count", "--token-ids", "a.ids", "b.ids", "--out", "both.counts"]);
    succeed(path, &["ngram", "merge", "b.counts", "a.counts", "--out", "merged.counts"]);
    let bytes = |name: &str| fs::read(path.join(name)).unwrap();
    assert_eq!(bytes("merged.counts"), bytes("whole.counts"));
    assert_eq!(bytes("both.counts"), bytes("whole.counts"));

    let estimate = ["ngram", "estimate", "--discount-fallback", "--format", "json"];
    // The text, its counts, those of its shards and their table give one model.
    succeed(path, &["ngram", "count", "--token-ids", "whole.ids", "--out", "again.counts", "--parquet", "table"]);
    for (source, model) in [
        (&["--token-ids", "whole.ids"][..], "text.ngram"),
        (&["--counts", "merged.counts"], "merged.ngram"),
        (&["--counts", "a.counts", "b.counts"], "shards.ngram"),
        (&["--counts", "table"], "table.ngram"),
    ] {
        let made = succeed(path, &[&estimate[..], &["--model", model], source].concat()).json();
        assert!(made["peak_memory_bytes"].is_number() || !cfg!(target_os = "linux"));
        assert_eq!(bytes(model), bytes("text.ngram"), "{model}");
    }
    let refused = run(path, &["ngram", "estimate", "--model", "x", "--counts", "a.counts", "whole.ids"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("whole.ids: this is not a whole file of counts"));
}

#[cfg(unix)]
#[test]
fn a_killed_count_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("text.ids"), corpus(3, 20_000, 200)).unwrap();
    let count = |out: &'static str| ["ngram", "count", "--memory", "16M", "--token-ids", "text.ids", "--out", out];
    succeed(path, &count("whole.counts"));
    let progress = path.join("killed.counts.parts/progress.json");
    let parts = || if progress.exists() { read_json(&progress)["parts"].as_u64() } else { None };
    for delay in [0, 3, 10] {
        let before = parts();
        let mut command = std::process::Command::new(PROGRAM);
        let command = command.current_dir(path).args(count("killed.counts")).stderr(std::process::Stdio::null());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // One part more, and then at any moment, in the midst of the next one as well.
        while parts() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = succeed(path, &count("killed.counts"));
    assert!(last.stderr.contains("going on after"), "{}", last.stderr);
    assert_eq!(fs::read(path.join("killed.counts")).unwrap(), fs::read(path.join("whole.counts")).unwrap());
    assert!(!path.join("killed.counts.parts").exists(), "no parts are left");
}

#[test]
fn text_and_traces_are_counted_with_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = world().join("model").display().to_string();
    let trace = world().join("runs/tiny/traces/fables-train").display().to_string();
    fs::write(path.join("text.txt"), "The fox went to the mill.\n\nThe crow had the cheese.\n").unwrap();
    let estimate = ["ngram", "estimate", "--discount-fallback", "--order", "3", "--tokenizer", &model, "--model"];
    for (name, source) in [("text.ngram", ["--text", "text.txt"]), ("traces.ngram", ["--traces", &trace])] {
        succeed(path, &[&estimate[..], &[name], &source].concat());
        let told = succeed(path, &["inspect", name, "--format", "json"]).json();
        assert_eq!((&told["order"], &told["vocab_size"]), (&3.into(), &300.into()), "{told}");
        assert!(told["tokenizer_hash"].is_string());
    }
    let refused = run(path, &["ngram", "count", "--text", "text.txt", "--out", "x"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--tokenizer"), "{}", refused.stderr);
    // What `train-rescorer` made of gold text and traces is such a file too.
    let rescorer = world().join("runs/tiny/rescorers/counts/model.ngram").display().to_string();
    let told = succeed(path, &["inspect", &rescorer, "--format", "json"]).json();
    assert_eq!((&told["order"], &told["vocab_size"]), (&3.into(), &300.into()), "{told}");
}

#[test]
fn models_are_converted_pruned_and_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("train.ids"), corpus(4, 900, 60)).unwrap();
    fs::write(path.join("dev.ids"), corpus(5, 100, 60)).unwrap();
    let estimate = ["ngram", "estimate", "--token-ids", "train.ids", "--discount-fallback", "--format", "json"];
    succeed(path, &[&estimate[..], &["--arpa", "one.arpa", "--model", "one.ngram"]].concat());
    succeed(path, &["ngram", "convert", "one.ngram", "two.arpa"]);
    succeed(path, &["ngram", "convert", "two.arpa", "two.ngram"]);
    let bytes = |name: &str| fs::read(path.join(name)).unwrap();
    assert_eq!(bytes("one.arpa"), bytes("two.arpa"));
    assert_eq!(bytes("one.ngram"), bytes("two.ngram"));

    let cost =
        succeed(path, &["ngram", "convert", "one.ngram", "small.ngram", "--quantise", "--format", "json"]).json();
    assert!(cost["probabilities"]["rms_error"].as_f64().unwrap() < 0.05, "{cost}");
    assert!(bytes("small.ngram").len() < bytes("one.ngram").len() * 3 / 4);
    let perplexity = |arguments: &[&str]| {
        let score = ["ngram", "score", "--token-ids", "dev.ids", "--format", "json"];
        succeed(path, &[&score[..], arguments].concat()).json()["perplexity"].as_f64().unwrap()
    };
    let whole = perplexity(&["--model", "one.ngram"]);
    let small = perplexity(&["--model", "small.ngram"]);
    assert!((whole / small - 1.0).abs() < 0.01, "{whole} {small}");
    assert_eq!(whole, perplexity(&["--arpa", "one.arpa"]));

    let prune =
        ["ngram", "prune", "one.ngram", "--threshold", "1e-5", "--held-out", "dev.ids", "--out", "less.arpa.gz"];
    let told = succeed(path, &[&prune[..], &["--format", "json"]].concat()).json();
    assert_eq!(told["perplexity_before"]["perplexity"].as_f64(), Some(whole));
    assert_eq!(told["perplexity_after"]["perplexity"].as_f64(), Some(perplexity(&["--arpa", "less.arpa.gz"])));
    let count = |name: &str| list(&told, name).iter().filter_map(Value::as_u64).sum::<u64>();
    assert!(count("ngrams") < count("ngrams_before") && count("ngrams") > 100, "{told}");

    let by_count = ["--prune", "0", "0", "1", "--held-out", "dev.ids", "--model", "cut.ngram"];
    let told = succeed(path, &[&estimate[..], &by_count].concat()).json();
    assert_eq!(told["perplexity_without_pruning"]["perplexity"].as_f64(), Some(whole));
    assert_eq!(told["perplexity_held_out"]["perplexity"].as_f64(), Some(perplexity(&["--model", "cut.ngram"])));
    succeed(path, &[&estimate[..], &["--smoothing", "katz", "--model", "katz.ngram"]].concat());
    let katz = perplexity(&["--model", "katz.ngram"]);
    assert!(katz > whole && katz < whole * 2.0, "{katz} {whole}");
}
