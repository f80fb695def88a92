//! Corpora as Python's `csv`, `json`, `gzip` and pyarrow write them. `pip install pyarrow`; `DRAFTSMITH_PYTHON` names the
//! Python that has it. Without it these tests say that they did nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{has_packages, inputs, python_succeeds, read_json, run, run_with, succeed};
use draftsmith::text::{DataConfig, read_corpus};
use serde_json::{Value, json};

/// The same records in every format, and what Python makes of the template.
const WRITE: &str = r##"
import csv, gzip, json, pyarrow as pa, pyarrow.parquet as pq
odd = ["plain", "comma, quote \" and\nnew line", "tab\tand \u00e9\u4e2d\U0001f642", "\r\ncarriage", "  blanks  ", "\"\"", "'", "{braces}"]
rows = [{"key": f"k{i}", "text": a + str(j), "summary": b, "year": 1990 + i, "ends": "length" if i % 3 == 0 else "stop"}
        for i, (a, (j, b)) in enumerate((a, (j, b)) for a in odd for j, b in enumerate(odd))]
names = list(rows[0])
for name, opener in [("c.csv", open), ("z.csv.gz", gzip.open)]:
    with opener(name, "wt", newline="", encoding="utf-8") as f:
        w = csv.writer(f); w.writerow(names); w.writerows([r[n] for n in names] for r in rows)
with open("c.tsv", "w", newline="", encoding="utf-8") as f:
    w = csv.writer(f, dialect="excel-tab", quoting=csv.QUOTE_ALL); w.writerow(names); w.writerows([r[n] for n in names] for r in rows)
lines = "".join(json.dumps(r) + "\n" for r in rows)
open("c.jsonl", "w").write(lines); gzip.open("z.jsonl.gz", "wt").write(lines)
table = pa.Table.from_pylist(rows)
pq.write_table(table, "c.parquet"); pq.write_table(table, "g.parquet", compression="gzip", use_dictionary=False, row_group_size=7)
deep = [{"a.b": "dotted", "meta": {"q": r["text"], "answers": [r["summary"], "second"]}, "unread": b"\xff", "key": r["key"]} for r in rows]
pq.write_table(pa.Table.from_pylist(deep), "deep.parquet")
pq.write_table(pa.table({"key": ["a"], "text": [3], "summary": ["x"], "bytes": [b"x"], "day": pa.array([1], pa.date32())}), "types.parquet")
json.dump([[r["key"], f"<{r['year']}> {r['text']}\nSummary:", " " + r["summary"], r["ends"] == "length"] for r in rows], open("expected.json", "w"))
"##;

fn config() -> DataConfig {
    DataConfig {
        id: "key".into(),
        prompt: "<{year}> {text}\nSummary:".into(),
        completion: " {summary}".into(),
        finish: "ends".into(),
        ..DataConfig::default()
    }
}

fn written() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    has_packages(dir.path(), "pyarrow").then(|| {
        python_succeeds(dir.path(), &["-c", WRITE]);
        dir
    })
}

fn read(folder: &Path, name: &str, config: &DataConfig) -> Vec<Value> {
    let documents = read_corpus(&folder.join(name), config).unwrap_or_else(|e| panic!("{e}"));
    documents.iter().map(|d| serde_json::json!([d.id, d.prompt, d.completion, d.cut])).collect()
}

#[test]
fn every_format_gives_the_same_documents() {
    let Some(dir) = written() else { return };
    let Value::Array(expected) = read_json(&dir.path().join("expected.json")) else { panic!("a list was written") };
    assert_eq!(expected.len(), 64);
    for name in ["c.csv", "z.csv.gz", "c.tsv", "c.jsonl", "z.jsonl.gz", "c.parquet", "g.parquet"] {
        assert_eq!(read(dir.path(), name, &config()), expected, "{name}");
    }
    let deep = DataConfig {
        prompt: "meta.q".into(),
        completion: "{meta.answers.0}, {meta.answers.1}, {a.b}".into(),
        ..config()
    };
    for (found, expected) in read(dir.path(), "deep.parquet", &deep).iter().zip(&expected) {
        let prompt = expected[1].as_str().unwrap().split_once("> ").unwrap().1.strip_suffix("\nSummary:");
        assert_eq!(found[1].as_str(), prompt);
        assert_eq!(found[2], format!("{}, second, dotted", &expected[2].as_str().unwrap()[1..]));
    }
}

#[test]
fn parquet_columns_of_another_type_are_refused() {
    let Some(dir) = written() else { return };
    for (prompt, expected) in [
        ("text", "types.parquet: row 1: `prompt`: the field `text` is not a string: 3"),
        ("bytes", "types.parquet: row 1: the column `bytes` holds bytes that are not marked as text"),
        ("day", "row 1: the column `day` holds times, decimals or maps"),
        ("{texts}", "types.parquet: no column `texts`; the file has key, text, summary, bytes, day"),
    ] {
        let config = DataConfig { prompt: prompt.into(), ..config() };
        let error = read_corpus(&dir.path().join("types.parquet"), &config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let whole = std::fs::read(dir.path().join("c.parquet")).unwrap();
    // Cut or changed anywhere, it is refused or read, and never a panic.
    for at in (0..whole.len()).step_by(37) {
        let path = dir.path().join("hurt.parquet");
        let mut hurt = whole.clone();
        hurt[at] ^= 0x55;
        std::fs::write(&path, &hurt).unwrap();
        let _ = read_corpus(&path, &config());
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(read_corpus(&path, &config()).is_err());
    }
}

#[test]
fn a_run_reads_csv_with_a_template_and_limits() {
    let folder = inputs();
    let documents = std::fs::read_to_string(folder.path().join("fables.jsonl")).unwrap();
    let mut rows = String::from("id,animal,told\n");
    for line in documents.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| record[name].as_str().unwrap().replace('"', "\"\"");
        rows += &format!("{},\"{}\",\"{}\"\n", field("id"), field("prompt"), field("completion"));
    }
    std::fs::write(folder.path().join("fables.csv"), &rows).unwrap();
    let trace = |more: &[&str]| {
        let set = ["data.fables.path=fables.csv", "data.fables.prompt={animal}", "data.fables.completion=told"];
        let set: Vec<&str> = set.iter().chain(more).flat_map(|set| ["--set", *set]).collect();
        succeed(folder.path(), &[&["trace", "run.toml"], &set[..]].concat());
        let documents = |split: &str| {
            let path = folder.path().join(format!("runs/tiny/traces/fables-{split}/trace.json"));
            read_json(&path)["documents"].as_array().unwrap().len()
        };
        documents("train") + documents("dev") + documents("test")
    };
    // One of the 68 prompts does not fit the context.
    assert_eq!(trace(&[]), 67);
    assert_eq!(trace(&["data.fables.max_documents=40"]), 40);
    let few = trace(&["data.fables.max_tokens=600"]);
    assert!((5..40).contains(&few), "{few}");
    let refused = |set: &[&str], word: &str| {
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", *set]).collect();
        let outcome = run(folder.path(), &[&["trace", "run.toml"], &set[..]].concat());
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    };
    refused(
        &["data.fables.path=no.csv", "data.fables.origin=Ask."],
        "there is no file no.csv. Check `path`, or put the file there. Ask.",
    );
    refused(&["data.fables.max_tokens=0"], "`data.fables.max_tokens` is 0");
    refused(&["data.x={preset=\"samsun\"}"], "there is no `samsun`");
    refused(&["data.fables.prompt={animals}"], "line 1: `prompt`: no field `animals`");
}

#[test]
fn a_preset_says_which_file_to_put_where() {
    let folder = inputs();
    let variables = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "hub")];
    let arguments = ["trace", "run.toml", "--set", "data.samsum={preset=\"samsum\"}"];
    let outcome = run_with(folder.path(), &arguments, &variables);
    assert_eq!(outcome.code, Some(2));
    for word in ["data.samsum: `default/test/0000.parquet` of the data set `knkarthick/samsum`", "SAMSum", "in `path`"]
    {
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    let printed = succeed(folder.path(), &[&arguments[..], &["--print-config"]].concat()).stdout;
    std::fs::write(folder.path().join("printed.toml"), &printed).unwrap();
    assert_eq!(succeed(folder.path(), &["trace", "printed.toml", "--print-config"]).stdout, printed);
    // The same set as somebody's own CSV: the template and the rest come from the preset.
    let rows = (0..40).map(|n| format!("{n},\"A: the fox {n}\",A fox\n")).collect::<String>();
    std::fs::write(folder.path().join("samsum.csv"), format!("id,dialogue,summary\n{rows}")).unwrap();
    let own = ["--set", "data.samsum={preset=\"samsum\",path=\"samsum.csv\"}"];
    succeed(folder.path(), &[&["trace", "run.toml"], &own[..]].concat());
    let test = read_json(&folder.path().join("runs/tiny/traces/samsum-test/trace.json"));
    let documents = test["documents"].as_array().unwrap();
    assert!(documents.len() > 20 && documents[0]["group"].as_str().unwrap().starts_with("A: the fox"), "{test}");
    assert!(!folder.path().join("runs/tiny/traces/samsum-train").exists());
}

/// A conversation stays in one split, and each of its answers is a document behind everything that was said before.
#[test]
fn conversations_are_traced_answer_by_answer() {
    let folder = inputs();
    let path = folder.path();
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let conversation = |n: usize| {
        let messages = [
            turn("user", format!("Tell of fox {n}.")),
            turn("assistant", "The fox went home.".into()),
            turn("user", "And then?".into()),
            turn("assistant", "It slept.".into()),
        ];
        json!({"id": format!("c{n}"), "messages": messages}).to_string() + "\n"
    };
    fs::write(path.join("chat.jsonl"), (0..40).map(conversation).collect::<String>()).unwrap();
    fs::write(path.join("t.jinja"), "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}answer:")
        .unwrap();
    let sets = ["data.fables.path=chat.jsonl", "data.fables.chat=messages", "data.fables.separator="];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let raw = run(path, &[&["trace", "run.toml"], &sets[..]].concat());
    assert!(raw.code == Some(2) && raw.stderr.contains("`backbone.chat_template`"), "{}", raw.stderr);
    let sets = [&["--set", "backbone.chat_template=t.jinja"], &sets[..]].concat();
    let text = run(path, &[&["trace", "run.toml", "--set", "traces.train_text=[\"corpus\"]"], &sets[..]].concat());
    assert!(text.code == Some(2) && text.stderr.contains("otherwise than its prompt"), "{}", text.stderr);
    succeed(path, &[&["trace", "run.toml"], &sets[..]].concat());
    let mut of_id: BTreeMap<String, (&str, u64)> = BTreeMap::new();
    for split in ["train", "dev", "test"] {
        let trace = read_json(&path.join(format!("runs/tiny/traces/fables-{split}/trace.json")));
        for document in trace["documents"].as_array().unwrap() {
            let tokens = document["prompt"].as_u64().unwrap();
            of_id.insert(document["id"].as_str().unwrap().to_owned(), (split, tokens));
        }
    }
    assert_eq!(of_id.len(), 80);
    for n in 0..40 {
        let [(split, tokens), (again, more)] = [1, 2].map(|answer| of_id[&format!("c{n}#{answer}")]);
        assert!(split == again && more > tokens, "{n}: {split} {again} {tokens} {more}");
    }
}

/// What the template is given decides the prompts, and so which trace it is.
#[test]
fn arguments_of_the_chat_template_make_another_trace() {
    let folder = inputs();
    let path = folder.path();
    let template = "{{ messages[0]['content'] }}{% if enable_thinking is defined and not enable_thinking %} no thoughts{% endif %}";
    fs::write(path.join("t.jinja"), template).unwrap();
    let trace = |set: &str| {
        let outcome = run(path, &["trace", "run.toml", "--set", "backbone.chat_template=t.jinja", "--set", set]);
        let place = fs::read_link(path.join("runs/tiny/traces/fables-dev")).unwrap_or_default();
        let first =
            || read_json(&path.join("runs/tiny/traces/fables-dev/trace.json"))["documents"][0]["prompt"].clone();
        (outcome.code == Some(0)).then(|| (place, first())).ok_or(outcome.stderr)
    };
    let (plain, short) = trace("backbone.chat_arguments={}").unwrap();
    let (quiet, long) = trace("backbone.chat_arguments.enable_thinking=false").unwrap();
    assert!(plain != quiet && short.as_u64() < long.as_u64(), "{plain:?} {quiet:?} {short} {long}");
    // The prompts are the same, but they are rendered by another rule.
    let (loud, same) = trace("backbone.chat_arguments.enable_thinking=true").unwrap();
    assert!(loud != plain && same == short);
    // Another rule for the same prompts is the same trace only if the rule is.
    assert_eq!(trace("backbone.chat_arguments={enable_thinking=false}").unwrap(), (quiet, long));
    for (set, words) in [
        ("backbone.chat_arguments.enable_thinkig=false", "does not know `enable_thinkig`"),
        ("backbone.chat_arguments.messages=[]", "which this program gives to the template itself"),
    ] {
        let error = trace(set).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let none = run(path, &["trace", "run.toml", "--set", "backbone.chat_arguments.enable_thinking=false"]);
    assert!(none.code == Some(2) && none.stderr.contains("are for a chat template, and there is none"), "{none:?}");
}
