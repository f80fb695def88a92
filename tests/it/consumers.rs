//! Exported heads in the hands of others: vLLM decodes with them and accepts what the replay accepts, and the package speculators
//! reads and writes them. Needs `DRAFTSMITH_CONSUMER`, a Python with these packages (CONTRIBUTING.md).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{run, skipped, succeed};
use serde_json::{Value, json};

/// Names the Python.
const CONSUMER: &str = "DRAFTSMITH_CONSUMER";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/consumers")
}

/// Runs one of the scripts and returns the last line that it prints.
fn ask(python: &str, folder: &Path, script: &str, arguments: &[&str]) -> Value {
    let script = scripts().join(script);
    let output = Command::new(python).current_dir(folder).arg(script).args(arguments).output().unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}\n{failed}");
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{said}\n{failed}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The embedded model.
fn tales() -> PathBuf {
    root().join("checkpoints/tales")
}

/// A configuration on a model, with heads that are trained for a moment on `train` documents.
fn configuration(folder: &Path, model: &Path, train: usize) {
    let root = root();
    let text = format!(
        "extends = \"{}\"\nname = \"served\"\n[backbone]\npath = \"{}\"\nweights = \"float32\"\n[data.tales]\npath = \"{}\"\n\
         [traces]\ntrain_documents = {train}\ndev_documents = 10\ntest_documents = 20\nmax_new = 64\n\
         [heads]\nblock_size = 5\npositions_per_document = 16\n[heads.architecture]\nkind = \"ffn\"\n[heads.training]\nsteps = 60\n\
         [drafting]\nvariants = [\"bpd\"]\n[evaluation]\nlive_documents = 0\n",
        root.join("configs/quickstart.toml").display(),
        model.display(),
        root.join("data/tales.jsonl").display()
    );
    std::fs::write(folder.join("served.toml"), text).unwrap();
}

/// Trains heads, and exports them as `to`.
fn exported(folder: &Path, architecture: &str, sets: &[&str], to: &str) -> (String, String) {
    let kind = format!("heads.architecture={architecture}");
    let sets = [&kind].into_iter().map(String::as_str).chain(sets.iter().copied()).flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["run", "served.toml", "--set", "rescorer={}"].into_iter().chain(sets).collect();
    succeed(folder, &arguments);
    let out = format!("out-{}", folder.read_dir().unwrap().count());
    succeed(folder, &["export", "runs/served", "--to", to, "--output", &out, "--dtype", "f32"]);
    ("runs/served".to_owned(), out)
}

const EAGLE3: &str = "{kind=\"eagle3\",input=[\"layer-1\",\"layer-3\",\"layer-4\"]}";
const DFLASH: &str = "{kind=\"dflash\",mask_token=2047}";
const PART: &str = "heads.vocabulary={size=512,drafting=true}";

/// Lets the engine decode 20 prompts. All texts must be the backbone's own.
fn served(python: &str, folder: &Path, model: &Path, (draft, run, method): (&str, &str, &str)) -> Value {
    let arguments = [model.to_str().unwrap(), draft, run, "tales", method];
    let said = ask(python, folder, "vllm_requests.py", &arguments);
    assert_eq!((&said["requests"], &said["greedy"]), (&json!(20), &json!(20)), "{draft}: {said}");
    said
}

/// The drafted tokens that the engine, or the replay, accepted.
fn accepted(said: &Value, who: &str) -> u64 {
    said[who].as_array().unwrap()[1..].iter().filter_map(Value::as_u64).sum()
}

#[test]
fn so_above_a_real_model() {
    let (Ok(python), Ok(model)) = (std::env::var(CONSUMER), std::env::var("DRAFTSMITH_SMOLLM2")) else {
        return skipped(
            "DRAFTSMITH_CONSUMER and DRAFTSMITH_SMOLLM2, the folder of SmolLM2-135M-Instruct, are not both set",
        );
    };
    let folder = tempfile::tempdir().unwrap();
    configuration(folder.path(), Path::new(&model), 24);
    let part = "heads.vocabulary={size=8192,drafting=true}";
    let few = ["heads.positions_per_step=128", "heads.training.steps=20"];
    let eagle3 = "{kind=\"eagle3\",warm_start=true,layers_learning_rate=0.25}";
    let medusa = "{kind=\"medusa\"}";
    for (architecture, sets, to, method) in
        [(eagle3, &[part, few[0], few[1]][..], "speculators", "eagle3"), (medusa, &few[..], "medusa", "medusa")]
    {
        let (run, out) = exported(folder.path(), architecture, sets, to);
        let said = served(&python, folder.path(), Path::new(&model), (&out, &run, method));
        println!("{architecture} {to}: {said}");
        assert!(accepted(&said, "engine") > 0, "{said}");
        assert_eq!(said["engine"], said["replay"], "{architecture} {to}: {said}");
    }
}

#[test]
fn an_engine_accepts_what_the_replay_accepts() {
    let Ok(python) = std::env::var(CONSUMER) else {
        return skipped("DRAFTSMITH_CONSUMER, a Python with vLLM and speculators, is not set");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = tales();
    configuration(path, &model, 120);
    let cases: [(&str, &[&str], &str, &str); 7] = [
        (EAGLE3, &[], "eagle3", "eagle3"),
        (EAGLE3, &[PART], "speculators", "eagle3"),
        ("{kind=\"eagle1\"}", &[], "eagle1", "eagle"),
        ("{kind=\"medusa\"}", &[], "medusa", "medusa"),
        ("{kind=\"medusa\",unembedding=\"own\"}", &[], "medusa", "medusa"),
        (DFLASH, &[], "dflash", "dflash"),
        (DFLASH, &[PART], "speculators", "dflash"),
    ];
    for (architecture, sets, to, method) in cases {
        let (run, out) = exported(path, architecture, sets, to);
        let said = served(&python, path, &model, (&out, &run, method));
        println!("{architecture} {to}: {said}");
        let accepted = |who: &str| accepted(&said, who);
        let steps = said["replay"][0].as_u64().unwrap();
        assert!(accepted("replay") as f64 > 0.3 * steps as f64, "{architecture} {to}: {said}");
        if architecture == DFLASH {
            // vLLM 0.32 on a CPU drafts some slots otherwise than the network's formulas in PyTorch, which agree with this program
            // (docs/formats.md).
            let [engine, replay] = ["engine", "replay"].map(|who| accepted(who) as f64);
            assert!((engine / replay - 1.0).abs() < 0.05, "{architecture} {to}: {said}");
        } else {
            assert_eq!(said["differing"], 0, "{architecture} {to}: {said}");
            assert_eq!(said["engine"], said["replay"], "{architecture} {to}");
        }
    }
}

#[test]
fn speculators_reads_and_writes_what_is_exported() {
    let Ok(python) = std::env::var(CONSUMER) else {
        return skipped("DRAFTSMITH_CONSUMER, a Python with vLLM and speculators, is not set");
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    configuration(path, &tales(), 120);
    let dflash2 = "{kind=\"dflash\",mask_token=2047,convolution={kernel=4,group=64}}";
    let spark = "{kind=\"dflash\",mask_token=2047,anchor_predicts=true}";
    let model = tales();
    let cases: [(&str, &[&str]); 5] = [
        (EAGLE3, &[PART]),
        (DFLASH, &[PART]),
        (dflash2, &[]),
        (spark, &["heads.bias={rank=16,tokens=\"codebooks\",confidence=true}"]),
        (spark, &["heads.bias={rank=16,tokens=\"codebooks\",form=\"recurrent\"}", PART]),
    ];
    for (architecture, sets) in cases {
        let (_, out) = exported(path, architecture, sets, "speculators");
        let saved = format!("{out}-saved");
        let said = ask(&python, path, "load_speculators.py", &[&out, &saved]);
        let nothing = json!([]);
        assert!(said["tensors"].as_u64() > Some(10), "{said}");
        for what in ["missing", "left", "differing"] {
            assert_eq!(said[what], nothing, "{architecture}: {said}");
        }
        if architecture != EAGLE3 {
            // Its modules give the logits that this program does.
            let arguments = [model.to_str().unwrap(), &out, "runs/served", "tales-test"];
            let said = ask(&python, path, "forward_speculators.py", &arguments);
            println!("{architecture}: {said}");
            assert!(said["places"].as_u64() > Some(100), "{said}");
            assert!(said["largest"].as_f64() < Some(1e-4), "{architecture}: {said}");
        }
        // What the package saved comes in again, and drafts the same.
        let measured = |heads: &str| {
            let outcome =
                run(path, &["evaluate", "served.toml", "--set", "rescorer={}", "--format", "json", "--heads", heads]);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            let set = outcome.json()["datasets"][0].clone();
            crate::common::row(&set, "block-efficiency", "bpd")["block_efficiency"].clone()
        };
        assert_eq!(measured(&saved), measured("runs/served/heads"), "{architecture}");
    }
}
