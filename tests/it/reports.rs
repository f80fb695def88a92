//! What comes out: the steps behind a report, gates, runs side by side, the schema, and the same bytes every time.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use crate::common::{
    finished, has_packages, inputs, python_succeeds, read_json, report, row, rows, run, run_with, succeed,
    untimed_report, world,
};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {value}"))
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The continuations of the test trace, by document.
fn continuations(folder: &Path) -> BTreeMap<String, Vec<u64>> {
    let trace = folder.join("runs/tiny/traces/fables-test");
    let bytes = fs::read(trace.join("tokens.bin")).unwrap();
    let tokens: Vec<u64> = bytes.chunks(4).map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap()))).collect();
    let documents = read_json(&trace.join("trace.json"))["documents"].as_array().unwrap().clone();
    let text = |document: &Value| {
        let at = |name: &str| document[name].as_u64().unwrap() as usize;
        tokens[at("first") + at("prompt")..][..at("continuation")].to_vec()
    };
    documents.iter().map(|document| (document["id"].as_str().unwrap().to_owned(), text(document))).collect()
}

#[test]
fn a_report_follows_from_its_steps() {
    let folder = finished();
    let before = untimed_report(folder.path());
    succeed(folder.path(), &["evaluate", "run.toml", "--keep-steps"]);
    let path = folder.path().join("runs/tiny/report/steps/fables.jsonl.gz");
    let mut text = String::new();
    GzDecoder::new(fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
    let steps: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (after, texts) = (report(folder.path()), continuations(folder.path()));
    let set = &after["datasets"][0];
    let documents = &read_json(&folder.path().join("runs/tiny/report/documents.json"))["sets"]["fables"];
    let block_size = set["facts"]["block_size"].as_u64().unwrap() as usize;
    let (rows, acceptance) = (rows(set, "block-efficiency"), rows(set, "acceptance"));
    let mut variants = 0;
    for (variant, rates) in rows.iter().zip(&acceptance).filter(|(variant, _)| variant["name"] != "oracle") {
        assert_eq!(variant["name"], rates["name"]);
        let of_variant: Vec<&Value> = steps.iter().filter(|step| step["variant"] == variant["name"]).collect();
        let mut of_document: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for &step in &of_variant {
            of_document.entry(step["document"].as_str().unwrap()).or_default().push(step);
            // What a step says of itself follows from its drafts and the text.
            let target = &texts[step["document"].as_str().unwrap()][step["start"].as_u64().unwrap() as usize..];
            let drafts: Vec<Vec<u64>> = step["drafts"].as_array().unwrap().iter().map(ids).collect();
            let prefixes: HashSet<&[u64]> = drafts.iter().flat_map(|d| (1..=d.len()).map(|n| &d[..n])).collect();
            assert_eq!(step["nodes"].as_u64().unwrap() as usize, prefixes.len(), "{step}");
            let equal = |draft: &Vec<u64>| draft.iter().zip(target).take_while(|(a, b)| a == b).count();
            assert_eq!(step["accepted"].as_u64().unwrap() as usize, drafts.iter().map(equal).max().unwrap(), "{step}");
        }
        assert_eq!(of_document.len(), texts.len());
        for (document, steps) in &of_document {
            let mut start = 0.0;
            for step in steps {
                assert_eq!(number(step, "start"), start);
                start += number(step, "accepted");
            }
            assert_eq!(start as usize, texts[*document].len());
        }
        // The report's numbers, from the steps alone.
        let sum = |field: &str| of_variant.iter().map(|step| number(step, field)).sum::<f64>();
        let calls = of_variant.len() as f64;
        let of_one =
            |steps: &Vec<&Value>| steps.iter().map(|s| number(s, "accepted")).sum::<f64>() / steps.len() as f64;
        let close = |field: &str, expected: f64| {
            assert!((number(variant, field) - expected).abs() < 1e-12, "{}: {field}", variant["name"]);
        };
        close("backbone_calls", calls);
        close("prefill_calls", of_document.len() as f64);
        close("block_efficiency", sum("accepted") / calls);
        close(
            "block_efficiency_document_mean",
            of_document.values().map(of_one).sum::<f64>() / of_document.len() as f64,
        );
        close("verified_tokens_per_call", sum("nodes") / calls);
        close("verified_tokens_per_call_max", of_variant.iter().map(|s| number(s, "nodes")).fold(0.0, f64::max));
        if variants > 0 {
            close("relative_gain", sum("accepted") / calls / number(&rows[0], "block_efficiency") - 1.0);
        }
        for j in 0..block_size {
            let at = |field: &str, least: usize| {
                of_variant.iter().filter(|s| number(s, "slots") > j as f64 && number(s, field) >= least as f64).count()
            };
            let (offered, accepted, reached) = (at("slots", 1), at("accepted", j + 1), at("accepted", j));
            for (field, of) in [("accept_rate_by_position", offered), ("conditional_accept_rate_by_position", reached)]
            {
                let rate = if of == 0 { 0.0 } else { accepted as f64 / of as f64 };
                let found = number(&rates[field], &(j + 1).to_string());
                assert!((found - rate).abs() < 1e-12, "{}: {field} {j}", variant["name"]);
            }
        }
        assert_eq!(sum("accepted"), number(&set["facts"], "decoded_tokens"));
        let name = variant["name"].as_str().unwrap();
        for (id, calls) in ids_of(&documents["ids"]).iter().zip(ids(&documents["calls"][name])) {
            assert_eq!(of_document[id.as_str()].len() as u64, calls, "{name}");
        }
        variants += 1;
    }
    assert!(variants > 10);
    // Asking for the steps changes no number, and without the flag they go.
    assert_eq!(before, untimed_report(folder.path()));
    succeed(folder.path(), &["evaluate", "run.toml"]);
    assert!(!path.exists());
}

fn ids_of(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_gate_fails_with_one_after_the_report_is_written() {
    let folder = finished();
    let page = folder.path().join("runs/tiny/report/report.html");
    let found = number(&row(&report(folder.path())["datasets"][0], "block-efficiency", "bpd"), "block_efficiency");
    let under = format!("block_efficiency[bpd,fables]={found}");
    let over = format!("block_efficiency[bpd]={}", found + 1e-9);
    for command in [["evaluate", "run.toml"], ["report", "runs/tiny"]] {
        let gated = |gates: &[&str]| {
            let gates: Vec<&str> = gates.iter().flat_map(|gate| ["--fail-under", *gate]).collect();
            run(folder.path(), &[&command[..], &gates].concat())
        };
        assert_eq!(gated(&[&under]).code, Some(0));
        fs::write(&page, "stale").unwrap();
        let failed = gated(&[&under, &over]);
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        assert!(failed.stderr.contains("block_efficiency[bpd,fables] is ") && failed.stderr.contains(", under "));
        assert!(failed.stdout.contains("pbest-mixed"), "the report is shown first");
        assert!(command[0] == "evaluate" || fs::read_to_string(&page).unwrap() != "stale");
        assert_eq!(gated(&["block_efficiency[none]=1"]).code, Some(2));
        assert_eq!(gated(&["block_efficiency=1"]).code, Some(2));
    }
}

#[test]
fn two_runs_are_compared_on_the_documents_they_share() {
    let folder = finished();
    let path = folder.path();
    let short = ["--set", "name=short", "--set", "heads.training.steps=2", "--set", "traces.test_documents=12"];
    succeed(path, &[&["run", "run.toml"], &short[..]].concat());
    let compared = ["report", "runs/tiny", "runs/short", "--output", "out"];
    let shown = succeed(path, &compared).stdout;
    assert!(shown.contains("run 2: runs/short") && shown.contains("2 against 1"), "{shown}");
    let comparison = read_json(&path.join("out/comparison.json"));
    assert_eq!(succeed(path, &["report", "runs/tiny", "runs/short", "--format", "json"]).json(), comparison);
    for name in ["comparison.md", "comparison.html"] {
        assert!(fs::read_to_string(path.join("out").join(name)).unwrap().contains("12 shared documents"), "{name}");
    }
    // Both runs wrote the page that leads to all runs, and a file for every table.
    let index = fs::read_to_string(path.join("runs/index.html")).unwrap();
    for run in ["tiny", "short"] {
        assert!(index.contains(&format!("<a href=\"{run}/report/report.html\">{run}</a>")), "{index}");
        let table = path.join("runs").join(run).join("report/tables/fables/block-efficiency.csv");
        assert!(fs::read_to_string(table).unwrap().starts_with("variant,block_efficiency,ci95.low,ci95.high,"));
    }
    let set = &comparison["datasets"][0];
    assert_eq!(set["shared_documents"], 12);
    // Again from what is kept of every document.
    let documents = ["tiny", "short"]
        .map(|run| read_json(&path.join("runs").join(run).join("report/documents.json"))["sets"]["fables"].clone());
    let shared = ids_of(&documents[1]["ids"]);
    for (number_of, variant) in set["variants"].as_array().unwrap().iter().enumerate() {
        let name = variant["name"].as_str().unwrap();
        let efficiencies: Vec<f64> = documents
            .iter()
            .map(|documents| {
                let rows = ids_of(&documents["ids"])
                    .into_iter()
                    .zip(ids(&documents["tokens"]))
                    .zip(ids(&documents["calls"][name]));
                let rows: Vec<(u64, u64)> =
                    rows.filter(|((id, _), _)| shared.contains(id)).map(|((_, t), c)| (t, c)).collect();
                assert_eq!(rows.len(), 12);
                rows.iter().map(|row| row.0 as f64).sum::<f64>() / rows.iter().map(|row| row.1 as f64).sum::<f64>()
            })
            .collect();
        assert_eq!(variant["block_efficiency"], json!(efficiencies), "{name}");
        let difference = &variant["differences"][0];
        assert!((number(difference, "difference") - (efficiencies[1] / efficiencies[0] - 1.0)).abs() < 1e-12);
        let interval: Vec<f64> =
            difference["difference_ci95"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert!(interval[0] <= number(difference, "difference") && number(difference, "difference") <= interval[1]);
        assert!(number_of > 0 || interval[0] < interval[1]);
    }
    let refused = |arguments: &[&str], word: &str| {
        let outcome = run(path, arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}");
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    };
    let before = fs::read(path.join("out/comparison.json")).unwrap();
    refused(&compared, "nothing is written over");
    assert!(fs::read(path.join("out/comparison.json")).unwrap() == before);
    refused(&["report", "runs/tiny", "--output", "x"], "at least two runs");
    refused(&["report", "runs/tiny", "runs/none"], "runs/none has no report");
    refused(&["report", "runs/tiny", "runs/short", "--fail-under", "drafts[bpd]=1"], "looks at one run");
    refused(&["report"], "required");
    let other = path.join("runs/short/report/report.json");
    let text = fs::read_to_string(&other).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["provenance"]["data"]["fables"]["hash"] = "another".into();
    fs::write(&other, changed.to_string()).unwrap();
    refused(&["report", "runs/tiny", "runs/short", "--output", "x"], "different files");
    fs::write(&other, text).unwrap();
    fs::remove_file(path.join("runs/short/report/documents.json")).unwrap();
    refused(&["report", "runs/tiny", "runs/short"], "Evaluate it again");
    assert!(!path.join("x").exists());
}

#[test]
fn a_report_follows_the_schema() {
    let schema = succeed(world(), &["report", "--schema"]).stdout;
    let folder = tempfile::tempdir().unwrap();
    if !has_packages(folder.path(), "jsonschema") {
        return;
    }
    fs::write(folder.path().join("schema.json"), &schema).unwrap();
    for name in ["report.json", "documents.json"] {
        fs::copy(world().join("runs/tiny/report").join(name), folder.path().join(name)).unwrap();
    }
    let check = "
import json, jsonschema
load = lambda name: json.load(open(name))
schema, report, documents = load('schema.json'), load('report.json'), load('documents.json')
jsonschema.Draft202012Validator.check_schema(schema)
jsonschema.validate(report, schema)
jsonschema.validate(documents, {'$defs': schema['$defs'], '$ref': '#/$defs/Documents'})
table = lambda r: r['datasets'][0]['sections'][0]['tables'][0]
for change in [lambda r: r.pop('datasets'), lambda r: r['datasets'][0].update(new=1), lambda r: table(r)['columns'][0].pop('definition'), lambda r: table(r)['rows'][0]['cells'].append([1])]:
    wrong = load('report.json'); change(wrong)
    try: jsonschema.validate(wrong, schema)
    except jsonschema.ValidationError: continue
    raise SystemExit('a wrong report passed')
";
    python_succeeds(folder.path(), &["-c", check]);
}

#[test]
fn the_same_bytes_with_one_thread_and_with_two() {
    let made = |threads: &str| {
        let folder = inputs();
        let outcome = run_with(
            folder.path(),
            &["run", "run.toml", "--set", "evaluation.keep_steps=true"],
            &[("RAYON_NUM_THREADS", threads)],
        );
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        folder
    };
    let folders = ["1", "2", "2"].map(made);
    let files =
        |name: &str| folders.each_ref().map(|folder| fs::read(folder.path().join("runs/tiny").join(name)).unwrap());
    for name in [
        "traces/fables-train/tokens.bin",
        "columns/fables-train/last/rows.bin",
        "heads/heads.safetensors",
        "heads/metrics.jsonl",
        "rescorers/small/metrics.jsonl",
        "report/documents.json",
        "report/steps/fables.jsonl.gz",
    ] {
        let [one, two, again] = files(name);
        assert!(two == again, "{name} differs between two runs");
        assert!(one == two, "{name} differs between one thread and two");
    }
    let [one, two, again] = folders.each_ref().map(|folder| untimed_report(folder.path()));
    assert!(two == again, "the report differs between two runs by more than its timings");
    assert!(one == two, "the report differs between one thread and two by more than its timings");
}
