//! Heads leave in the formats of other projects and come in again: what was trained drafts the same afterwards.

use std::fs;
use std::path::Path;

use crate::common::{has_packages, inputs, python_succeeds, read_json, run, succeed};
use serde_json::{Value, json};

/// Trains heads in the tiny world.
fn train(folder: &Path, sets: &[&str]) {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["train-heads", "run.toml"].into_iter().chain(sets).collect();
    succeed(folder, &arguments);
}

/// Every row of the block efficiency of these heads.
fn measured(folder: &Path, heads: &str) -> Vec<Value> {
    let sets = ["--set", "drafting.variants=[\"tree-0gram\"]", "--set", "rescorer={}"];
    let arguments = [&["evaluate", "run.toml", "--format", "json", "--heads", heads], &sets[..]].concat();
    let set = succeed(folder, &arguments).json()["datasets"][0].clone();
    let sections = set["sections"].as_array().unwrap();
    let section = sections.iter().find(|section| section["id"] == "block-efficiency").unwrap();
    section["tables"][0]["rows"].as_array().unwrap().clone()
}

/// Exports the heads of the run, checks the checkpoint, and expects of it what the heads themselves do.
fn exported(folder: &Path, to: &str) {
    let out = format!("out-{to}");
    let _ = fs::remove_dir_all(folder.join(&out));
    succeed(folder, &["export", "runs/tiny", "--to", to, "--output", &out, "--dtype", "f32"]);
    let said = succeed(folder, &["export", "--check", &out, "--format", "json"]).json();
    assert_eq!(said["format"], to, "{said}");
    let card = fs::read_to_string(folder.join(&out).join("README.md")).unwrap();
    for words in ["## Serving", &out, "| reads | l", "base_model: "] {
        assert!(card.contains(words), "{words}: {card}");
    }
    assert_eq!(measured(folder, &out), measured(folder, "runs/tiny/heads"), "{to}");
}

const PART: &str = "heads.vocabulary={size=40,drafting=true}";

#[test]
fn heads_draft_the_same_after_they_left_and_came_in() {
    let folder = inputs();
    let path = folder.path();
    let eagle3 = "heads.architecture={kind=\"eagle3\",input=[\"layer-1\",\"layer-2\"]}";
    let p_eagle = "heads.architecture={kind=\"eagle3\",input=[\"layer-1\"],parallel=true,mask_token=3}";
    let own = "heads.architecture={kind=\"eagle3\",input=[\"layer-2\"],unembedding=\"own\"}";
    let dflash = "heads.architecture={kind=\"dflash\",context=[\"layer-1\",\"layer-2\"],mask_token=3}";
    let window = "heads.architecture={kind=\"dflash\",context=[\"layer-1\"],mask_token=3,causal=true,sliding_window=6}";
    let dflash2 =
        "heads.architecture={kind=\"dflash\",context=[\"layer-1\"],mask_token=3,convolution={kernel=2,group=8}}";
    let spark = "heads.architecture={kind=\"dflash\",context=[\"layer-1\"],mask_token=3,anchor_predicts=true}";
    let plain = "heads.bias={rank=4,tokens=\"codebooks\",confidence=true}";
    let gated = "heads.bias={rank=4,tokens=\"codebooks\",form=\"gated\"}";
    let recurrent = "heads.bias={rank=4,tokens=\"codebooks\",form=\"recurrent\"}";
    let speculator = "heads.architecture={kind=\"speculator\",inner=12,weights=\"own\"}";
    let tied = "heads.architecture={kind=\"speculator\",inner=12,weights=\"own\",tie_weights=true,scale_input=true}";
    let cases: &[(&[&str], &[&str])] = &[
        (&[eagle3, PART], &["speculators", "eagle3", "hf"]),
        (&[own], &["speculators", "eagle3", "hf"]),
        (&[p_eagle], &["speculators"]),
        (&["heads.architecture={kind=\"eagle1\"}"], &["eagle1", "hf"]),
        (&[dflash], &["dflash", "speculators", "hf"]),
        (&[dflash, PART], &["speculators"]),
        (&[window], &["dflash", "speculators"]),
        (&[dflash2], &["speculators"]),
        (&[spark, plain], &["speculators", "hf"]),
        (&[spark, gated, PART], &["speculators"]),
        (&[spark, recurrent], &["speculators"]),
        (&["heads.architecture={kind=\"medusa\",blocks=2}"], &["medusa", "medusa-tgi", "hf"]),
        (&["heads.architecture={kind=\"medusa\",unembedding=\"own\"}"], &["medusa", "medusa-tgi"]),
        (&[speculator], &["mlp-speculator", "hf"]),
        (&[tied], &["mlp-speculator"]),
        (&["heads.architecture={kind=\"ffn\",hidden=8}", PART], &["hf"]),
    ];
    for (sets, formats) in cases {
        train(path, sets);
        formats.iter().for_each(|to| exported(path, to));
    }
    // As heads for further training, and as those of a configuration.
    succeed(path, &["import", "out-hf", "--backbone", "model", "--output", "came-in"]);
    let sets = ["--set", cases[15].0[0], "--set", cases[15].0[1], "--set", "heads.training.steps=2"];
    succeed(path, &[&["train-heads", "run.toml", "--init-from", "came-in"], &sets[..]].concat());
    succeed(path, &["evaluate", "run.toml", "--set", "heads.from=out-hf"]);
    // The lines of Python in the documentation read it.
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).unwrap();
    let code = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    if has_packages(path, "struct") {
        let said = python_succeeds(path, &["-c", code, "out-hf"]);
        assert!(said.starts_with("ffn 3 heads\n") && said.contains("drafted: ["), "{said}");
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let folder = inputs();
    let path = folder.path();
    train(path, &["heads.architecture={kind=\"ffn\",hidden=8}"]);
    let refused = |arguments: &[&str], words: &[&str]| {
        let outcome = run(path, arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        words.iter().for_each(|word| assert!(outcome.stderr.contains(word), "`{word}` is not in {}", outcome.stderr));
    };
    let to = |format: &str, words: &[&str]| {
        refused(&["export", "runs/tiny", "--to", format, "--output", "out"], words);
        assert!(!path.join("out").exists());
    };
    to("medusa", &["--to medusa", "kind \"ffn\"", "two matrices"]);
    for format in ["speculators", "eagle3", "eagle1", "dflash", "medusa-tgi", "mlp-speculator"] {
        to(format, &[&format!("--to {format}"), "kind \"ffn\""]);
    }
    to("onnx", &["no such format", "speculators", "hf"]);
    refused(&["export", "runs/tiny", "--to", "hf"], &["--output"]);
    refused(&["export", "runs/tiny", "--to", "hf", "--output", "model"], &["model", "exists already"]);
    refused(&["export", "runs/tiny", "--to", "hf", "--output", "out", "--dtype", "f8"], &["--dtype f8"]);
    refused(&["export", "runs/tiny/heads", "--to", "hf", "--output", "out"], &["--backbone"]);
    train(path, &["heads.architecture={kind=\"medusa\"}", PART]);
    to("medusa", &["whole vocabulary", "`heads.vocabulary`"]);
    train(path, &["heads.architecture={kind=\"dflash\",context=[\"layer-1\"]}"]);
    to("dflash", &["mask_token", "learnt a vector"]);
    train(path, &["heads.architecture={kind=\"eagle1\",bias=true}"]);
    to("eagle1", &["`heads.architecture.bias` = false"]);

    train(path, &["heads.architecture={kind=\"eagle3\",input=[\"layer-1\"]}", PART]);
    succeed(path, &["export", "runs/tiny", "--to", "eagle3", "--output", "good"]);
    let damage = |what: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(path.join("bad"));
        crate::common::copy_folder(&path.join("good"), &path.join("bad"));
        what(&path.join("bad"));
    };
    let config = |folder: &Path, key: &str, value: Value| {
        let mut config = read_json(&folder.join("config.json"));
        config[key] = value;
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    // A misnamed tensor, which engines pass over in silence.
    damage(&|folder| {
        let file = folder.join("model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let place = bytes.windows(9).position(|bytes| bytes == b"fc.weight").unwrap();
        let renamed = [&bytes[..place], b"fd.weight", &bytes[place + 9..]].concat();
        fs::write(&file, renamed).unwrap();
    });
    refused(&["export", "--check", "bad"], &["bad", "`fc.weight` is missing"]);
    damage(&|folder| config(folder, "hidden_size", json!(16)));
    refused(&["export", "--check", "bad"], &["bad", "[40, 16]"]);
    damage(&|folder| config(folder, "architectures", json!(["Something"])));
    refused(&["evaluate", "run.toml", "--heads", "bad"], &["no draft checkpoint", "eagle3"]);
    damage(&|folder| config(folder, "eagle_config", json!({"eagle_aux_hidden_state_layer_ids": [9]})));
    refused(&["evaluate", "run.toml", "--heads", "bad"], &["layer-9"]);
    damage(&|folder| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    refused(&["export", "--check", "bad"], &["pytorch_model.bin", "safetensors"]);
    refused(&["import", "good", "--backbone", "model", "--output", "good"], &["exists already"]);
}

#[test]
fn copies_from_the_text_are_flags_of_engines() {
    let said = succeed(inputs().path(), &["export", "absent", "--to", "flags"]).stdout;
    for engine in ["vLLM", "SGLang", "llama.cpp"] {
        assert!(said.contains(engine), "{said}");
    }
}
