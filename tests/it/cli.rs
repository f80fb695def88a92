//! The program from outside: what a run leaves behind, and what every command prints.

use std::fs;

use crate::common::{
    self, finished, has_packages, inputs, only_row, place, python_succeeds, read_json, report, row, rows, run, succeed,
    world,
};
use draftsmith::text::Tokenizer;
use serde_json::Value;

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("{name} is no list: {value}"))
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {value}"))
}

fn assert_numbers(value: &Value, names: &[&str]) {
    for name in names {
        number(value, name);
    }
}

const VARIANTS: [&str; 34] = [
    "bpd",
    "prompt-lookup",
    "counts",
    "path-counts",
    "path-counts+lookup",
    "look",
    "path-look",
    "path-look+lookup",
    "mixed",
    "path-mixed",
    "path-mixed+lookup",
    "small",
    "turns",
    "path-turns",
    "path-turns+lookup",
    "whole",
    "pbest-0gram",
    "tree-0gram",
    "tree-0gram+lookup",
    "pbest-counts",
    "tree-counts",
    "tree-counts+lookup",
    "pbest-look",
    "tree-look",
    "tree-look+lookup",
    "pbest-mixed",
    "tree-mixed",
    "tree-mixed+lookup",
    "beam-small",
    "pbest-turns",
    "tree-turns",
    "tree-turns+lookup",
    "beam-whole",
    "oracle",
];

#[test]
fn the_report_holds_every_table_with_its_numbers() {
    let report = report(world());
    assert_eq!(report["schema_version"], 1);
    for name in ["version", "argv", "seed", "device", "backbone", "tokenizer", "data"] {
        assert!(!report["provenance"][name].is_null(), "{name}");
    }
    let set = &list(&report, "datasets")[0];
    assert_eq!((&set["name"], &set["split"]), (&"fables".into(), &"test".into()));
    assert_numbers(&set["facts"], &["documents", "decoded_tokens", "block_size", "top_k"]);
    let variants = rows(set, "block-efficiency");
    let names: Vec<_> = variants.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, VARIANTS);
    for variant in &variants {
        assert_numbers(
            variant,
            &[
                "block_efficiency",
                "block_efficiency_document_mean",
                "backbone_calls",
                "prefill_calls",
                "verified_tokens_per_call",
                "verified_tokens_per_call_max",
                "drafts",
            ],
        );
        assert_eq!(list(variant, "ci95").iter().filter(|x| x.is_number()).count(), 2, "{variant}");
        assert_eq!(variant["lossless"], true);
        let name = variant["name"].as_str().unwrap();
        assert_eq!(variant["relative_gain"].is_number(), name != "bpd", "{variant}");
        let rescored =
            !["bpd", "prompt-lookup", "pbest-0gram", "tree-0gram", "tree-0gram+lookup", "oracle"].contains(&name);
        assert_eq!(variant["lm_scale"].is_number(), rescored, "{variant}");
        if name.ends_with("lookup") {
            assert!(number(variant, "headroom_closed") <= 1.0, "its oracle copies too: {variant}");
        }
        if name != "oracle" {
            assert_numbers(variant, &["dev_block_efficiency"]);
            assert_eq!(variant["choice_share"].is_number(), name != "prompt-lookup", "{name} reads no heads");
            let fields = ["wins", "ties", "losses", "repairs", "repetition", "longest_run"];
            assert_numbers(&row(set, "same-starts", name), &fields);
        }
    }
    let oracle = rows(set, "oracle");
    assert_eq!(oracle.len(), 4);
    oracle.iter().for_each(|point| assert_numbers(point, &["block_efficiency", "block_efficiency_dp"]));
    let trials = rows(set, "trials");
    for single in ["counts", "look", "mixed", "small", "turns", "whole"] {
        let scales = |p: &&Value| p["name"] == single && p["parameter"] == "lm_scale";
        assert_eq!(trials.iter().filter(scales).count(), 3, "scales 0, 0.3 and 0.7 of {single}");
    }
    trials.iter().for_each(|point| assert_numbers(point, &["block_efficiency"]));
    assert_numbers(&only_row(set, "loops"), &["looping_documents", "share"]);
    assert_numbers(&only_row(set, "live-totals"), &["documents", "mismatches", "near_ties"]);
    let live = rows(set, "live");
    assert_eq!(live.len(), VARIANTS.len() - 1);
    live.iter().for_each(|v| assert_numbers(v, &["mismatches", "near_ties"]));
    let speeds = ["tokens_per_s", "prefill_tokens_per_s", "decode_tokens_per_s"];
    let alone = speeds.map(|speed| format!("autoregressive_{speed}"));
    let totals = ["candidates_seconds", "lattices_seconds"].into_iter().chain(speeds);
    let totals: Vec<&str> = totals.chain(alone.iter().map(String::as_str)).collect();
    assert_numbers(&only_row(set, "timing-totals"), &totals);
    let timing = rows(set, "timing");
    assert_eq!(timing.len(), VARIANTS.len() - 1);
    for (variant, of_table) in timing.iter().zip(&variants) {
        let ratio = number(variant, "replay_tokens_per_s") / number(variant, "tokens_per_s");
        assert!((number(variant, "replay_over_live") / ratio - 1.0).abs() < 1e-9, "{variant}");
        assert_numbers(variant, &["prefill_tokens_per_s", "decode_over_autoregressive"]);
        assert!(number(variant, "decode_tokens_per_s") > number(variant, "tokens_per_s"), "{variant}");
        let tokens = number(variant, "replay_tokens_per_s") * number(variant, "replay_seconds");
        assert!((tokens / number(&set["facts"], "decoded_tokens") - 1.0).abs() < 1e-9, "{variant}");
        let name = variant["name"].as_str().unwrap();
        assert!(variant["neural"] == false || (name.ends_with("small") || name.ends_with("whole")), "{name}");
        assert!(variant["neural"] == false || of_table["lm_scale"] != 0.0, "{name} is switched off");
    }
}

/// No section, table or number without a written definition: one paragraph that ends as a sentence does.
#[test]
fn every_number_of_the_report_has_a_definition() {
    let report = report(world());
    let sections = list(&list(&report, "datasets")[0], "sections");
    let (mut columns, mut ids) = (0, Vec::new());
    let check = |value: &Value| {
        let definition = value["definition"].as_str().unwrap();
        assert!(definition.ends_with('.') && !definition.contains("  "), "{}: {definition}", value["id"]);
    };
    for section in sections {
        check(section);
        for table in list(section, "tables") {
            check(table);
            ids.push(table["id"].as_str().unwrap());
            list(table, "columns").iter().for_each(check);
            columns += list(table, "columns").len();
        }
    }
    assert!(sections.len() > 10 && columns > 60, "{} {columns}", sections.len());
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "two tables of one id");
}

#[test]
fn the_numbers_of_the_report_agree_with_each_other() {
    let report = report(world());
    let set = &report["datasets"][0];
    let facts = &set["facts"];
    let (tokens, block_size) = (number(facts, "decoded_tokens"), number(facts, "block_size"));
    assert_eq!(number(&only_row(set, "live-totals"), "mismatches"), 0.0);
    let (variants, trials) = (rows(set, "block-efficiency"), rows(set, "trials"));
    let plain = &variants[0];
    for variant in &variants {
        let efficiency = number(variant, "block_efficiency");
        assert!((1.0..=block_size).contains(&efficiency), "{variant}");
        assert!((efficiency * number(variant, "backbone_calls") - tokens).abs() < 1e-6, "{variant}");
        assert!(number(variant, "verified_tokens_per_call") <= number(variant, "verified_tokens_per_call_max"));
        assert_eq!(variant["prefill_calls"], facts["documents"]);
        let ends: Vec<f64> = list(variant, "ci95").iter().filter_map(Value::as_f64).collect();
        assert!(ends[0] <= efficiency && efficiency <= ends[1], "{variant}");
        let name = variant["name"].as_str().unwrap();
        let rates = row(set, "acceptance", name)["accept_rate_by_position"].clone();
        let rates: Vec<f64> = (1..=4).map(|position| number(&rates, &position.to_string())).collect();
        assert!(rates[0] == 1.0 && rates.iter().all(|r| (0.0..=1.0).contains(r)), "{variant}");
        if name == "oracle" {
            continue;
        }
        // No variant but the control that stays is worse on dev than plain decoding, and none's trials are better than what
        // was chosen.
        let dev = number(variant, "dev_block_efficiency");
        assert!(dev >= number(plain, "dev_block_efficiency") || name == "prompt-lookup", "{variant}");
        let tried = trials.iter().filter(|point| point["name"] == name);
        let highest = tried.map(|point| number(point, "block_efficiency")).fold(0.0, f64::max);
        assert!(highest <= dev, "{variant}: {highest}");
        // Both visit the first start of every text, and no start more than once.
        let same = row(set, "same-starts", name);
        let blocks = number(&same, "wins") + number(&same, "ties") + number(&same, "losses");
        let calls = number(plain, "backbone_calls").min(number(variant, "backbone_calls"));
        assert!(number(facts, "documents") <= blocks && blocks <= calls, "{variant}");
        assert!(name != "bpd" || (blocks, number(&same, "ties")) == (calls, calls), "{variant}");
        assert!(number(&same, "repairs") <= number(&same, "wins"), "{variant}");
        assert_eq!(same["repetition"], variant["repetition"], "{variant}");
        if name.starts_with("tree-") {
            assert!(number(variant, "verified_tokens_per_call_max") <= 8.0, "{variant}");
            assert_eq!(number(&same, "losses"), 0.0, "plain decoding's draft is in the tree");
        }
    }
    let oracle = rows(set, "oracle");
    assert_eq!(oracle[0]["name"], "1");
    assert_eq!(oracle[0]["block_efficiency"], plain["block_efficiency"]);
    for (smaller, larger) in oracle.iter().zip(&oracle[1..]) {
        assert!(number(smaller, "block_efficiency_dp") <= number(larger, "block_efficiency_dp"), "{oracle:?}");
    }
    assert!(oracle.iter().all(|p| number(p, "block_efficiency") <= number(p, "block_efficiency_dp")), "{oracle:?}");
}

#[test]
fn a_second_run_skips_every_stage_and_changes_no_byte() {
    let folder = finished();
    let report = folder.path().join("runs/tiny/report/report.json");
    let before = fs::read(&report).unwrap();
    succeed(folder.path(), &["run", "run.toml"]).assert_all_skipped();
    assert!(fs::read(&report).unwrap() == before);
}

#[test]
fn the_printed_configuration_runs_again_as_it_is() {
    let folder = finished();
    let printed = succeed(folder.path(), &["run", "run.toml", "--print-config"]);
    fs::write(folder.path().join("printed.toml"), &printed.stdout).unwrap();
    succeed(folder.path(), &["run", "printed.toml"]).assert_all_skipped();
    assert_eq!(succeed(folder.path(), &["run", "printed.toml", "--print-config"]).stdout, printed.stdout);
    succeed(folder.path(), &["run", "runs/tiny/run.toml"]).assert_all_skipped();
}

#[test]
fn printing_the_configuration_starts_nothing() {
    let folder = inputs();
    for command in ["run", "trace", "train-heads", "train-rescorer", "evaluate", "pretrain"] {
        succeed(folder.path(), &[command, "run.toml", "--print-config"]);
    }
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn json_is_one_value_and_the_same_as_the_file() {
    let folder = finished();
    let expected = report(folder.path());
    for arguments in [&["run", "run.toml"][..], &["evaluate", "run.toml"], &["report", "runs/tiny"]] {
        let outcome = succeed(folder.path(), &[arguments, &["--format", "json"]].concat());
        assert_eq!(outcome.json(), expected, "{arguments:?}");
        assert_eq!(outcome.stdout.lines().count(), 1, "{arguments:?}");
    }
}

#[test]
fn report_renders_its_files_anew() {
    let folder = finished();
    let file = |name: &str| folder.path().join("runs/tiny/report").join(name);
    let before = ["report.md", "report.html", "report.json"].map(|name| (name, fs::read(file(name)).unwrap()));
    fs::remove_file(file("report.md")).unwrap();
    fs::write(file("report.html"), "stale").unwrap();
    let training = |name: &str| folder.path().join("runs/tiny").join(name).join("report.html");
    fs::write(training("heads"), "stale").unwrap();
    let shown = succeed(folder.path(), &["report", "runs/tiny"]).stdout;
    for (name, bytes) in before {
        assert!(fs::read(file(name)).unwrap() == bytes, "{name}");
    }
    for (name, title) in [("heads", "Training of the heads"), ("rescorers/small", "Training of rescorer small")] {
        assert!(fs::read_to_string(training(name)).unwrap().contains(title), "{name}");
    }
    assert!(!training("rescorers/counts").exists());
    for name in VARIANTS {
        assert!(shown.contains(name), "{shown}");
    }
}

#[test]
fn inspect_tells_models_and_traces_apart() {
    let model = succeed(world(), &["inspect", "model", "--format", "json"]).json();
    let expected = (&"model".into(), &2.into(), &32.into(), &96.into(), &true.into());
    let shape = (&model["kind"], &model["layers"], &model["width"], &model["context"], &model["tied_unembedding"]);
    assert_eq!(shape, expected);
    assert_eq!(model["end_of_text"], serde_json::json!([0]));
    let trace = succeed(world(), &["inspect", "runs/tiny/traces/fables-test", "--format", "json"]).json();
    let set = &report(world())["datasets"][0]["facts"];
    assert_eq!(trace["kind"], "trace");
    let [column] = list(&trace, "columns") else { panic!("{trace}") };
    assert_eq!((&column["column"], &column["dtype"]), (&"last".into(), &"float32".into()));
    assert_eq!((&trace["documents"], &trace["continuation_tokens"]), (&set["documents"], &set["decoded_tokens"]));
    assert_eq!(trace["backbone_hash"], model["hash"]);
    assert!(succeed(world(), &["inspect", "model"]).stdout.contains("parameters"));
    assert!(model["tensors"].is_null());
    let tensors = succeed(world(), &["inspect", "model", "--tensors", "--format", "json"]).json();
    assert!(list(&tensors, "tensors").iter().any(|tensor| tensor["name"] == "model.embed_tokens.weight"), "{tensors}");
    let run = succeed(world(), &["inspect", "runs/tiny", "--format", "json"]).json();
    let variants = run["variants"].as_array().unwrap();
    assert!(variants.len() > 10 && variants.iter().all(|variant| variant["block_efficiency"].is_number()), "{run}");
}

/// Whatever the program has written, it can say what it is.
#[test]
fn inspect_knows_everything_that_runs_are_made_of() {
    let told = |path: &str| succeed(world(), &["inspect", path, "--format", "json"]).json();
    let heads = told("runs/tiny/heads");
    assert_eq!((&heads["kind"], &heads["heads"], &heads["block_size"]), (&"heads".into(), &"ffn".into(), &4.into()));
    assert_eq!(heads["backbone_hash"], told("model")["hash"]);
    let trained = |key: &str| list(&heads, "training").iter().find(|one| one["key"] == key).unwrap()["value"].clone();
    assert_eq!(trained("heads.training.steps"), "20");
    for (part, kind, key) in [
        ("rescorers/counts", "rescorers", "options.order"),
        ("rescorers/small", "rescorers", "options.model.layers"),
        ("columns/fables-test/last", "columns", "feature"),
        ("candidates/fables-test", "candidates", "k"),
    ] {
        let part = told(&format!("runs/tiny/{part}"));
        assert!(part["kind"] == kind && part["bytes"].as_u64() > Some(0) && part["seconds"].is_number(), "{part}");
        assert!(list(&part, "settings").iter().any(|one| one["key"] == key), "{part}");
    }
    assert_eq!(told("runs/tiny/rescorers/counts")["model"]["order"], 3);
    let store = told("runs/store");
    let heads = list(&store, "parts").iter().find(|one| one["parts"] == "heads").unwrap();
    assert!(heads["finished"].as_u64() > Some(0) && store["bytes"].as_u64() > heads["bytes"].as_u64(), "{store}");
    assert!(succeed(world(), &["inspect", "runs/tiny/heads"]).stdout.contains("heads.training.steps  20"));
}

/// What took minutes is not left aside in silence, not even with -q; messages may be JSON.
#[test]
fn messages_are_as_loud_and_as_formal_as_they_are_asked_to_be() {
    let folder = common::traced();
    let train = |more: &[&str]| {
        let stderr = succeed(folder.path(), &[&["train-heads", "run.toml"], more].concat()).stderr;
        stderr.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(train(&["-q"]), [""; 0]);
    let took = place(folder.path(), "heads").join("took.json");
    assert!(read_json(&took)["seconds"].is_number());
    fs::write(&took, "{\"seconds\": 61}").unwrap();
    let aside = "differs from what is finished in heads.training.steps = 3 (there 20)";
    let told = train(&["-q", "--set", "heads.training.steps=3"]);
    assert!(told.len() == 1 && told[0].contains(aside), "{told:?}");
    fs::write(place(folder.path(), "heads").join("took.json"), "{\"seconds\": 61}").unwrap();
    let lines: Vec<Value> = train(&["--log-format", "json", "--set", "heads.training.steps=4"])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |level: &str| lines.iter().filter(|line| line["level"] == level).collect::<Vec<_>>();
    assert!(of("warning").iter().any(|line| line["message"].as_str().unwrap().contains("heads.training.steps = 4")));
    assert!(of("info").iter().any(|line| line["message"].as_str().unwrap().contains("4 steps, best dev at step")));
    assert!(lines.iter().all(|line| line["time"].as_str().unwrap().ends_with('Z')));
    let failed = run(folder.path(), &["train-heads", "absent.toml", "--log-format", "json"]);
    let error: Value = serde_json::from_str(failed.stderr.trim()).unwrap();
    assert!(error["level"] == "error" && error["message"].as_str().unwrap().contains("absent.toml"), "{error}");
}

/// A gate that would look at nothing is refused before anything is made.
#[test]
fn a_gate_with_a_wrong_name_is_refused_before_the_run() {
    let folder = inputs();
    for (gate, words) in [
        ("block_efficiency[tree-none]=1", "no variant `tree-none`"),
        ("block_efficiency[bpd,news]=1", "`news` is no data set"),
        ("speed[bpd]=1", "`speed` is no number of a variant"),
    ] {
        let refused = run(folder.path(), &["evaluate", "run.toml", "--fail-under", gate]);
        assert!(refused.code == Some(2) && refused.stderr.contains(words), "{}", refused.stderr);
        assert!(!folder.path().join("runs").exists());
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), &["man", "--output", "man1"]);
    let page = |name: &str| fs::read_to_string(folder.path().join("man1").join(name)).unwrap();
    assert!(page("draftsmith.1").contains("draftsmith\\-train\\-heads(1)"), "{}", page("draftsmith.1"));
    assert!(page("draftsmith-evaluate.1").contains("fail\\-under"));
}

/// Prompt and continuation, as token ids, of a document of the test trace.
fn traced(id: &str) -> (Vec<u32>, Vec<u32>) {
    let folder = world().join("runs/tiny/traces/fables-test");
    let trace = read_json(&folder.join("trace.json"));
    let entry = list(&trace, "documents").iter().find(|d| d["id"] == id).unwrap();
    let bytes = fs::read(folder.join("tokens.bin")).unwrap();
    let tokens: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let at = |name: &str| number(entry, name) as usize;
    let (prompt, continuation) = tokens[at("first")..][..at("prompt") + at("continuation")].split_at(at("prompt"));
    (prompt.to_vec(), continuation.to_vec())
}

#[test]
fn generate_writes_the_greedy_text_of_the_trace_every_time() {
    let trace = read_json(&world().join("runs/tiny/traces/fables-test/trace.json"));
    let id = trace["documents"][0]["id"].as_str().unwrap();
    let (prompt, continuation) = traced(id);
    let tokenizer = Tokenizer::load(&world().join("model")).unwrap();
    let text = tokenizer.decode(&prompt).unwrap();
    let arguments =
        ["generate", "--model", "model", "--prompt", &text, "--max-new", "24", "--device", "cpu", "--format", "json"];
    let first = succeed(world(), &arguments);
    let generated = first.json();
    let ids: Vec<u32> = list(&generated, "token_ids").iter().map(|id| id.as_u64().unwrap() as u32).collect();
    assert_eq!(ids, continuation);
    assert_eq!(generated["text"], tokenizer.decode(&ids).unwrap());
    assert_eq!(succeed(world(), &arguments).stdout, first.stdout);
}

#[test]
fn overrides_of_the_command_line_are_honoured() {
    let folder = inputs();
    let printed = |arguments: &[&str]| succeed(folder.path(), arguments).stdout;
    let config = printed(&["run", "run.toml", "--print-config", "--set", "heads.architecture.hidden=8", "--seed", "9"]);
    assert!(config.contains("seed = 9") && config.contains("hidden = 8"), "{config}");
    let heads = |arguments: &[&str]| {
        succeed(folder.path(), &[&["train-heads", "run.toml", "--set", "heads.training.steps=3"], arguments].concat());
        fs::read(folder.path().join("runs/tiny/heads/heads.safetensors")).unwrap()
    };
    let first = heads(&[]);
    let metrics = fs::read_to_string(folder.path().join("runs/tiny/heads/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|line| line.contains("\"train\"")).count(), 3);
    assert!(first != heads(&["--seed", "4"]), "another seed gives other heads");
    assert!(first == heads(&["--seed", "3"]), "the first seed gives the first heads");
}

#[test]
fn the_schema_takes_the_configurations_and_refuses_wrong_ones() {
    let folder = inputs();
    let path = folder.path();
    if !has_packages(path, "jsonschema, tomllib") {
        return;
    }
    fs::write(path.join("schema.json"), succeed(path, &["schema"]).stdout).unwrap();
    fs::write(path.join("printed.toml"), succeed(path, &["run", "run.toml", "--print-config"]).stdout).unwrap();
    let check = "
import glob, json, sys, tomllib, jsonschema
schema = json.load(open('schema.json'))
jsonschema.Draft202012Validator.check_schema(schema)
for name in ['run.toml', 'printed.toml', *glob.glob(sys.argv[1] + '/configs/*.toml')]:
    jsonschema.validate(tomllib.load(open(name, 'rb')), schema)
for right in ['backbone = \"org/name\"', 'heads.architecture.hidden = 3']:
    jsonschema.validate(tomllib.loads(right), schema)
for wrong in ['seeds = 1', 'seed = \"1\"', 'heads.block_size = 1', 'heads.loss = \"none\"', 'rescorer.x.order = 2',
              'rescorer.x = { kind = \"lava\", loss = \"crf\" }', 'heads.text.gold = 1', 'heads.training.betas = [0.9, 1.0]']:
    try: jsonschema.validate(tomllib.loads(wrong), schema)
    except jsonschema.ValidationError: continue
    raise SystemExit(wrong + ' passed')
";
    python_succeeds(path, &["-c", check, env!("CARGO_MANIFEST_DIR")]);
}

#[test]
fn completions_know_every_command() {
    let script = succeed(world(), &["completions", "bash"]).stdout;
    for command in ["pretrain", "train-heads", "train-rescorer", "evaluate", "report", "generate", "ngram", "inspect"] {
        assert!(script.contains(command), "{command}");
    }
}

#[test]
fn text_by_blocks_is_the_text_by_tokens() {
    let generate = |arguments: &[&str]| succeed(world(), &[&["generate", "--max-new", "30"], arguments].concat());
    let prompt = ["--prompt", "the fox found honey"];
    let plain = generate(&[&["--model", "model", "--format", "json"], &prompt[..]].concat()).json();
    for variant in ["bpd", "prompt-lookup", "small", "turns", "path-counts", "pbest-mixed", "tree-counts", "beam-whole"]
    {
        let arguments = ["--run", "runs/tiny", "--variant", variant, "--format", "json"];
        let found = generate(&[&arguments[..], &prompt].concat()).json();
        assert_eq!(found["token_ids"], plain["token_ids"], "{variant}");
        assert_eq!((&found["variant"], &found["lossless"]), (&variant.into(), &true.into()));
        // Prefill and decode are all of the time, and of the prompt and what follows it.
        let [whole, decode] = ["tokens_per_s", "decode_tokens_per_s"].map(|speed| number(&found, speed));
        let [of_prompt, of_rest] = ["prefill_seconds", "decode_seconds"].map(|seconds| number(&found, seconds));
        assert!((decode * of_rest / (whole * (of_prompt + of_rest)) - 1.0).abs() < 1e-6, "{found}");
        assert!(
            (number(&found, "prefill_tokens_per_s") * of_prompt / number(&found, "prompt_tokens") - 1.0).abs() < 1e-6
        );
        let blocks: u64 = found["blocks"].as_array().unwrap().iter().map(|block| block.as_u64().unwrap()).sum();
        assert_eq!(blocks as usize, plain["token_ids"].as_array().unwrap().len(), "{variant}");
    }
    // Streamed to a pipe: the same characters, without colour; the summary goes to standard error.
    let streamed = generate(&[&["--run", "runs/tiny"], &prompt[..]].concat());
    assert_eq!(streamed.stdout.strip_suffix('\n'), plain["text"].as_str());
    assert!(streamed.stderr.contains("tokens a call") && streamed.stderr.contains("lossless"), "{}", streamed.stderr);
    // A seed repeats, under every rule that samples.
    for rule in ["sample", "rejection", "without-replacement", "k-seq"] {
        let sample = |seed: &str| {
            let arguments = ["--run", "runs/tiny", "--rule", rule, "--temperature", "1.5", "--seed", seed];
            generate(&[&arguments[..], &prompt].concat()).stdout
        };
        assert_eq!(sample("1"), sample("1"), "{rule}");
        assert_ne!(sample("1"), sample("2"), "{rule}");
    }
    // However long a block takes here and now.
    let sampled = ["--run", "runs/tiny", "--variant", "tree-counts", "--rule", "sample", "--seed", "1"];
    let as_evaluated = generate(&[&sampled[..], &["--budget", "run"], &prompt].concat());
    assert_eq!(generate(&[&sampled[..], &prompt].concat()).stdout, as_evaluated.stdout);
    let lossy = generate(&[&["--run", "runs/tiny", "--rule", "top-k=5"], &prompt[..]].concat());
    assert!(lossy.stderr.contains("lossy"), "{}", lossy.stderr);
}
