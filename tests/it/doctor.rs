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
        for name in [
            "device",
            "tokenizer",
            "end of text",
            "prompts",
            "states",
            "batches",
            "heads",
            "leak",
            "disk",
            "training",
            "rescorers",
            "evaluation",
            "memory",
        ] {
            assert_eq!(check(&said, name)["passed"], true, "{heads} {name}: {said}");
        }
        let training = check(&said, "training")["words"].as_str().unwrap();
        assert!(training.contains("a step of training the heads takes") && training.contains(" steps "), "{training}");
        let rescorers = check(&said, "rescorers")["words"].as_str().unwrap();
        assert!(rescorers.contains("the heads' candidates ") && rescorers.contains(", counts "), "{rescorers}");
        let evaluation = check(&said, "evaluation")["words"].as_str().unwrap();
        assert!(evaluation.contains(" to decode ") && evaluation.contains(" of every set live"), "{evaluation}");
        let shown = said["shown"].as_array().unwrap();
        // What head 2 predicts is the token behind the pinned one.
        for (here, next) in shown.iter().zip(&shown[1..]) {
            assert_eq!((&here["pinned"], &here["target"]), (&next["token"], &next["pinned"]));
        }
    }
    for (size, enough) in [(20, false), (250, true)] {
        let set = format!("heads.vocabulary={{size={size},drafting=true}}");
        let said = run(path, &["doctor", "run.toml", "--format", "json", "--set", &set]).json();
        let vocabulary = check(&said, "vocabulary");
        assert_eq!(vocabulary["passed"], enough, "{vocabulary}");
        let words = format!("the {size} most frequent tokens of every second document are ");
        assert!(vocabulary["words"].as_str().unwrap().starts_with(&words), "{vocabulary}");
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

#[test]
fn a_run_warns_before_it_begins() {
    let folder = inputs();
    let file = folder.path().join("model/config.json");
    let mut config = read_json(&file);
    config["eos_token_id"] = json!(5);
    fs::write(&file, config.to_string()).unwrap();
    fs::write(folder.path().join("t.jinja"), "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}")
        .unwrap();
    let small = ["traces.max_new=4", "traces.train_documents=8", "traces.dev_documents=4", "traces.test_documents=4"];
    let fast =
        ["rescorer={}", "heads.training.steps=2", "evaluation.live_documents=0", "backbone.chat_template=t.jinja"];
    let sets: Vec<&str> = small.iter().chain(&fast).flat_map(|set| ["--set", set]).collect();
    let said = succeed(folder.path(), &[&["run", "run.toml"], &sets[..]].concat()).stderr;
    let warning = said
        .find("warning: end of text: generation_config.json ends texts with {0}")
        .unwrap_or_else(|| panic!("{said}"));
    assert!(warning < said.find("trace fables train: ").unwrap(), "{said}");
    assert_eq!(said.matches("warning: ").count(), 1, "the template agrees: {said}");
    let again = succeed(folder.path(), &[&["run", "run.toml"], &sets[..]].concat()).stderr;
    assert!(!again.contains("warning: "), "a finished run is not looked at again: {again}");
    // A template that ends answers otherwise than the model.
    let generation = folder.path().join("model/generation_config.json");
    fs::write(&generation, json!({"eos_token_id": 5}).to_string()).unwrap();
    let said = run(folder.path(), &[&["doctor", "run.toml", "--format", "json"], &sets[..]].concat());
    let template = check(&said.json(), "template").clone();
    assert!(
        template["passed"] == false && template["words"].as_str().unwrap().contains("0 \"<|endoftext|>\""),
        "{template}"
    );
}
