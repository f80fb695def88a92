//! `traces.from`: greedy text of a serving engine in place of decoding, checked against the backbone's own choices.

use std::fs;
use std::path::Path;

use crate::common::{copy_folder, inputs, read_json, run, succeed, world};
use burn::tensor::Device;
use draftsmith::backbone::{Backbone, Precision, generate};
use draftsmith::text::Tokenizer;
use draftsmith::traces::Trace;
use serde_json::{Value, json};
use tempfile::TempDir;

const SPLITS: [&str; 3] = ["train", "dev", "test"];

/// The continuations that the backbone decoded by itself, by split: the id of each document and its tokens.
fn own(folder: &Path, split: &str) -> Vec<(String, Vec<u32>)> {
    let trace = folder.join(format!("runs/tiny/traces/fables-{split}"));
    let tokens = fs::read(trace.join("tokens.bin")).unwrap();
    let tokens: Vec<u32> = tokens.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let index = read_json(&trace.join("trace.json"));
    let document = |document: &Value| {
        let [first, prompt, continuation] =
            ["first", "prompt", "continuation"].map(|name| document[name].as_u64().unwrap() as usize);
        let begin = first + prompt;
        (document["id"].as_str().unwrap().to_owned(), tokens[begin..begin + continuation].to_vec())
    };
    index["documents"].as_array().unwrap().iter().map(document).collect()
}

fn line(id: &str, tokens: &[u32]) -> Value {
    json!({"id": id, "tokens": tokens})
}

fn write(folder: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("responses.jsonl"), text).unwrap();
}

const TRACE: [&str; 4] = ["trace", "run.toml", "--set", "traces.from=responses.jsonl"];

/// Panics unless a split's texts are those that the backbone decodes.
fn assert_own(folder: &Path, split: &str) {
    for file in ["tokens.bin", "trace.json"] {
        let read =
            |folder: &Path| fs::read(folder.join(format!("runs/tiny/traces/fables-{split}")).join(file)).unwrap();
        assert!(read(folder) == read(world()), "{split}: {file}");
    }
}

#[test]
fn the_backbones_own_text_is_taken_as_it_is() {
    let folder = inputs();
    let prompts = ["trace", "run.toml", "--prompts", "prompts.jsonl", "--set", "traces.from=responses.jsonl"];
    succeed(folder.path(), &prompts);
    assert!(!folder.path().join("runs").exists(), "prompts alone make no run");
    let prompts = fs::read_to_string(folder.path().join("prompts.jsonl")).unwrap();
    let prompts: Vec<Value> = prompts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<(String, Vec<u32>)> = SPLITS.iter().flat_map(|split| own(world(), split)).collect();
    assert_eq!(prompts.len(), texts.len());
    // An engine that is asked for more than there is room for, and goes on behind the end.
    let tokenizer = Tokenizer::load(&folder.path().join("model")).unwrap();
    let lines: Vec<Value> = prompts
        .iter()
        .zip(&texts)
        .map(|(prompt, (id, text))| {
            assert_eq!((&prompt["id"], &prompt["corpus"]), (&json!(id), &json!("fables")));
            assert!(text.len() <= prompt["max_tokens"].as_u64().unwrap() as usize);
            let ids: Vec<u32> = serde_json::from_value(prompt["prompt_tokens"].clone()).unwrap();
            assert!(!tokenizer.decode(&ids).unwrap().is_empty());
            let mut line = line(id, &[&text[..], &[7; 30]].concat());
            line["corpus"] = json!("fables");
            line
        })
        .collect();
    write(folder.path(), &lines);
    let said = succeed(folder.path(), &TRACE).stderr;
    assert!(said.contains("0 are not the backbone's own choice"), "{said}");
    SPLITS.iter().for_each(|split| assert_own(folder.path(), split));
    // Other responses are another trace, and its words say why.
    write(folder.path(), &lines[1..]);
    let said = succeed(folder.path(), &[&TRACE[..], &["--verbose"]].concat()).stderr;
    assert!(said.contains("differs from what is finished in traces.from = "), "{said}");
    assert!(said.contains("1 decoded for want of one"), "{said}");
    SPLITS.iter().for_each(|split| assert_own(folder.path(), split));
}

/// The first two tokens of a document's continuation, another one, and what the backbone writes behind these.
fn behind_a_near_tie(folder: &Path, split: &str, number: usize, other: impl Fn(u32) -> u32) -> Vec<u32> {
    let trace = folder.join(format!("runs/tiny/traces/fables-{split}"));
    let backbone = Backbone::load(&folder.join("model"), Precision::AS_STORED, &Device::flex()).unwrap();
    let opened = Trace::open(&trace, &backbone.identity()).unwrap();
    let document = &opened.documents()[number];
    let mut tokens = opened.tokens(document)[..document.prompt + 3].to_vec();
    tokens[document.prompt + 2] = other(tokens[document.prompt + 2]);
    let rest = generate(&backbone, &[&tokens], document.limit - 3).unwrap().remove(0);
    [&tokens[document.prompt..], &rest].concat()
}

/// Responses as an engine of other float types may give them: a near-tie in a train text, whole texts of dev and test wrong.
fn flawed(folder: &Path) -> (TempDir, Vec<(String, Vec<u32>)>) {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    let (mut lines, mut train) = (Vec::new(), Vec::new());
    for split in SPLITS {
        for (n, (id, mut text)) in own(world(), split).into_iter().enumerate() {
            let other = |token: u32| if token == 9 { 10 } else { 9 };
            match (split, n % 5) {
                ("train", _) if n == 3 => text = behind_a_near_tie(world(), split, n, other),
                ("train", _) => {}
                (_, 0) => text[0] = other(text[0]),
                (_, 1) => text.truncate(2),
                (_, 2) => continue,
                (_, 3) => text = vec![0],
                _ => {}
            }
            lines.push(line(&id, &text));
            if split == "train" {
                train.push((id, text));
            }
        }
    }
    write(copy.path(), &lines);
    (copy, train)
}

#[test]
fn dev_and_test_are_the_backbones_own_text_whatever_the_engine_wrote() {
    let (folder, train) = flawed(inputs().path());
    let said = succeed(folder.path(), &TRACE).stderr;
    assert!(said.contains(", 1 are not the backbone's own choice; they stay in text for training"), "{said}");
    assert_own(folder.path(), "dev");
    assert_own(folder.path(), "test");
    assert_eq!(own(folder.path(), "train"), train, "a near-tie stays in text for training");
    // Shards take them as one process does.
    let (sharded, _) = flawed(inputs().path());
    for shard in ["1/2", "2/2"] {
        succeed(sharded.path(), &[&TRACE[..], &["--shard", shard]].concat());
    }
    succeed(sharded.path(), &[&TRACE[..], &["--merge", "2"]].concat());
    SPLITS.iter().for_each(|split| assert_eq!(own(sharded.path(), split), own(folder.path(), split)));
}

#[test]
fn texts_are_tokenised_and_ended() {
    let folder = inputs();
    let tokenizer = Tokenizer::load(&folder.path().join("model")).unwrap();
    let texts = SPLITS.iter().flat_map(|split| own(world(), split));
    let lines = texts.filter_map(|(id, tokens)| {
        let text = tokenizer.decode(&tokens).unwrap();
        // A model may write tokens that its tokenizer would not make of the text.
        let same = tokenizer.encode_continuation(&text).unwrap() == tokens.strip_suffix(&[0]).unwrap_or(&tokens);
        let finish = if tokens.last() == Some(&0) { "stop" } else { "length" };
        same.then(|| json!({"id": id, "text": text, "finish": finish}))
    });
    let lines: Vec<Value> = lines.collect();
    assert!(lines.len() > 10, "{}", lines.len());
    write(folder.path(), &lines);
    succeed(folder.path(), &TRACE);
    SPLITS.iter().for_each(|split| assert_own(folder.path(), split));
}

#[test]
fn what_cannot_be_right_is_refused_with_its_line() {
    let folder = inputs();
    let texts = own(world(), "train");
    let (id, tokens) = &texts[0];
    let good = line(id, tokens);
    let cases: Vec<(Vec<Value>, &str)> = vec![
        (
            vec![good.clone(), line("nobody", &[1])],
            "responses.jsonl: line 2: the corpus `fables` has no document `nobody`",
        ),
        (vec![good.clone(), good.clone()], "line 2: the document"),
        (vec![line(id, &[300_000])], "`tokens` has 300000, which is not the id of one of the model's"),
        (vec![json!({"id": id, "tokens": [-1]})], "`tokens` has -1"),
        (vec![json!({"id": id})], "neither `tokens`, a list of ids, nor a `text`"),
        (vec![json!({"tokens": [1]})], "`id` is missing"),
        (
            vec![json!({"id": id, "corpus": "tales", "tokens": [1]})],
            "`corpus` is \"tales\"; the configuration has `fables`",
        ),
        (vec![json!({"id": id, "text": "It went.<|endoftext|>"})], "`text` is another text after it is tokenised"),
    ];
    for (lines, words) in cases {
        write(folder.path(), &lines);
        let outcome = run(folder.path(), &TRACE);
        assert!(outcome.code == Some(2) && outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
    // Another model's text, or one that answers other prompts.
    let shifted: Vec<Value> =
        texts.iter().zip(texts.iter().skip(7)).map(|((id, _), (_, other))| line(id, other)).collect();
    write(folder.path(), &shifted);
    let outcome = run(folder.path(), &TRACE);
    assert!(outcome.code == Some(2) && outcome.stderr.contains("which is more than 3 %"), "{}", outcome.stderr);
    let absent = run(folder.path(), &["trace", "run.toml", "--set", "traces.from=none.jsonl"]);
    assert!(absent.code == Some(2) && absent.stderr.contains("`traces.from`: cannot read none.jsonl"), "{absent:?}");
}
