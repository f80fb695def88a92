//! `draftsmith doctor` finds the mistakes that otherwise show after hours.

use std::fs;

use crate::common::{inputs, read_json, run, succeed};
use serde_json::{Value, json};

fn check<'a>(said: &'a Value, name: &str) -> &'a Value {
    let checks = said["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name}: {said}"))
}

#[test]
fn a_sound_configuration_passes_whatever_its_heads() {
    let folder = inputs();
    let path = folder.path();
    for heads in [
        "{kind=\"ffn\",hidden=8}",
        "{kind=\"attention\",layers=2}",
        "{kind=\"dflash\",context=[\"layer-1\",\"last\"]}",
        "{kind=\"eagle3\",input=[\"layer-1\",\"layer-2\"]}",
        "{kind=\"hidden-transfer\",layer=1}",
    ] {
        let set = format!("heads.architecture={heads}");
        let said = succeed(path, &["doctor", "run.toml", "--format", "json", "--set", &set]).json();
        for name in ["tokenizer", "end of text", "prompts", "states", "batches", "heads", "leak", "disk"] {
            assert_eq!(check(&said, name)["passed"], true, "{heads} {name}: {said}");
        }
        let shown = said["shown"].as_array().unwrap();
        // What head 2 predicts is the token behind the pinned one.
        for (here, next) in shown.iter().zip(&shown[1..]) {
            assert_eq!((&here["pinned"], &here["target"]), (&next["token"], &next["pinned"]));
        }
    }
    let table = succeed(path, &["doctor", "run.toml"]).stdout;
    assert!(table.contains("ok     leak") && table.contains("head 2 predicts"), "{table}");
    assert!(!path.join("runs").exists(), "nothing is written");
}

#[test]
fn a_model_whose_files_disagree_fails() {
    let folder = inputs();
    let file = folder.path().join("model/config.json");
    let mut config = read_json(&file);
    config["eos_token_id"] = json!(5);
    fs::write(&file, config.to_string()).unwrap();
    let outcome = run(folder.path(), &["doctor", "run.toml"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("FAILED end of text") && outcome.stdout.contains("Make them agree"), "{outcome:?}");
    assert!(outcome.stderr.contains("failed: end of text."), "{outcome:?}");
}
