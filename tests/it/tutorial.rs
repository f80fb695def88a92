//! The commands of docs/tutorial.md, run one after the other in a folder of the tiny world.

use std::fs;
use std::path::Path;

use crate::common::{inputs, read_json, row, run, succeed};

/// What cuts the work down to the size of the tiny model.
const SMALLER: [&str; 6] = [
    "traces.max_new=24",
    "heads.block_size=4",
    "heads.positions_per_step=64",
    "heads.training.steps=20",
    "heads.training.dev_every=10",
    "evaluation.live_documents=2",
];

#[test]
fn every_command_of_the_tutorial_runs() {
    let folder = inputs();
    let path = folder.path();
    fs::rename(path.join("fables.jsonl"), path.join("tales.jsonl")).unwrap();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut commands = 0;
    for line in blocks.flat_map(str::lines) {
        let Some(arguments) = line.strip_prefix("draftsmith ") else {
            assert!(line.starts_with("cp "), "{line}");
            continue;
        };
        let mut arguments = words(arguments);
        if arguments.contains(&"mine.toml".to_owned()) && arguments[0] != "init" {
            arguments.extend(SMALLER.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
        }
        succeed(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        commands += 1;
    }
    assert!(commands >= 10, "{commands}");
    let report = read_json(&path.join("runs/mine/report/report.json"));
    let value = row(&report["datasets"][0], "block-efficiency", "grown-ngram")["block_efficiency"].as_f64().unwrap();
    assert!(value >= 1.0, "{value}");
    assert!(path.join("drafter/config.json").exists() && path.join("runs/mine/other-heads").exists());
}

/// The words of a command line, of which some may stand in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[test]
fn a_first_configuration_fits_its_text() {
    let folder = inputs();
    let path = folder.path();
    fs::write(path.join("chat.csv"), "question,reply\na,b\n").unwrap();
    fs::write(path.join("plain.txt"), "One.\n\nTwo.\n").unwrap();
    fs::write(path.join("odd.jsonl"), "{\"left\": \"a\", \"right\": \"b\"}\n").unwrap();
    let init = |text: &str, output: &str| {
        let outcome = succeed(path, &["init", "--model", "model", "--text", text, "--output", output]);
        (fs::read_to_string(path.join(output)).unwrap(), outcome.stderr)
    };
    let (written, _) = init("fables.jsonl", "fables.toml");
    assert!(written.contains("prompt = \"prompt\"") && written.contains("completion = \"completion\""), "{written}");
    assert!(init("chat.csv", "chat.toml").0.contains("prompt = \"question\""));
    assert!(init("plain.txt", "plain.toml").0.contains("paragraphs = 8"));
    fs::write(path.join("talk.jsonl"), "{\"messages\": []}\n").unwrap();
    let (talk, _) = init("talk.jsonl", "talk.toml");
    assert!(talk.contains("chat = \"messages\"") && talk.contains("chat_template = \"model\""), "{talk}");
    let (_, said) = init("odd.jsonl", "odd.toml");
    assert!(said.contains("not plain") && said.contains("left, right"), "{said}");
    let again = run(path, &["init", "--model", "model", "--text", "fables.jsonl", "--output", "fables.toml"]);
    assert!(again.code == Some(2) && again.stderr.contains("not written over"), "{}", again.stderr);
    let none = run(path, &["init", "--model", "model", "--text", "none.jsonl", "--output", "none.toml"]);
    assert!(none.code == Some(2) && none.stderr.contains("none.jsonl") && !path.join("none.toml").exists());
}
