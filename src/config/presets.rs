//! Public data sets by name: what `preset = "samsum"` stands for, put below the keys that are given.

use toml::{Table, Value};

use super::check::{Fault, nearest};
use super::keys::keys;
use super::read::merge;
use crate::error::{Result, bail};

/// The sets with their parts; a section for each.
const PRESETS: &str = include_str!("presets.toml");

/// Fills in the sections of `[data]` that name a preset. Done again, it changes nothing.
pub(super) fn expand(config: &mut Table) -> Result<(), Fault> {
    let sections = config.get_mut("data").and_then(Value::as_table_mut);
    for (name, section) in sections.into_iter().flatten() {
        let Some(section) = section.as_table_mut() else { continue };
        let Some(preset) = section.get("preset").and_then(Value::as_str) else { continue };
        let mut whole = find(preset).map_err(|e| {
            let key = format!("data.{name}.preset");
            Fault { what: format!("`{key}` is \"{preset}\": {e}"), key }
        })?;
        merge(keys().within("data").within(name), &mut whole, std::mem::take(section));
        *section = whole;
    }
    Ok(())
}

/// The keys of `NAME` or `NAME/PART`; the part is `test` unless it is said.
fn find(preset: &str) -> Result<Table> {
    let mut presets: Table = toml::from_str(PRESETS).expect("the presets are TOML");
    let (name, part) = preset.split_once('/').unwrap_or((preset, "test"));
    let Some(Value::Table(mut keys)) = presets.remove(name) else {
        let known: Vec<&String> = presets.keys().collect();
        let near = nearest(name, presets.keys()).map_or(String::new(), |near| format!(" Did you mean \"{near}\"?"));
        bail!("there is no `{name}`; there are {}.{near}", join(&known));
    };
    let Some(Value::Table(mut parts)) = keys.remove("parts") else { unreachable!("every preset has parts") };
    let Some(path) = parts.remove(part) else {
        let known: Vec<&String> = parts.keys().collect();
        bail!("`{name}` has no part `{part}`; it has {}.", join(&known));
    };
    keys.insert("path".into(), path);
    let (dev, test) = match part {
        "test" => (0.25, 0.75),
        "validation" => (0.2, 0.0),
        _ => (0.0, 0.0),
    };
    keys.insert("dev".into(), dev.into());
    keys.insert("test".into(), test.into());
    Ok(keys)
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{DataConfig, read_corpus};

    fn expanded(text: &str) -> Result<DataConfig, Fault> {
        let mut config: Table = toml::from_str(text).unwrap();
        expand(&mut config)?;
        let once = config.clone();
        expand(&mut config)?;
        assert_eq!(config, once);
        Ok(config["data"]["x"].clone().try_into().unwrap())
    }

    #[test]
    fn every_part_of_every_preset_is_a_section() {
        let presets: Table = toml::from_str(PRESETS).unwrap();
        assert_eq!(presets.len(), 14);
        for (name, preset) in &presets {
            for part in preset["parts"].as_table().unwrap().keys() {
                let data = expanded(&format!("[data.x]\npreset = \"{name}/{part}\"\n")).unwrap();
                assert!(!data.path.is_empty() && !data.origin.is_empty(), "{name}");
                assert!(
                    data.prompt.contains('{') && (data.completion.is_empty() || data.completion.contains('{')),
                    "{name}"
                );
                assert_eq!(data.test > 0.0, part == "test", "{name}");
            }
            let plain = expanded(&format!("[data.x]\npreset = \"{name}\"\n"));
            assert_eq!(plain.ok().map(|data| data.test), preset["parts"].get("test").map(|_| 0.75), "{name}");
        }
    }

    /// A record with the fields that each set has, and what becomes of it.
    #[test]
    fn every_preset_reads_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let records = [
            ("lambada", r#"{"text": "one two three"}"#, "one two", " three"),
            (
                "squad",
                r#"{"id": "q", "context": "C.", "question": "Q?", "answers": {"text": ["A"]}}"#,
                "C.\n\nQuestion: Q?\nAnswer:",
                " A",
            ),
            ("xsum", r#"{"id": "x", "document": "D", "summary": "S"}"#, "Article:\nD\n\nSummary:", " S"),
            ("samsum", r#"{"id": "x", "dialogue": "D", "summary": "S"}"#, "Dialogue:\nD\n\nSummary:", " S"),
            ("cnn_dailymail", r#"{"id": "x", "article": "D", "highlights": "S"}"#, "Article:\nD\n\nSummary:", " S"),
            ("multi_news", r#"{"document": "D", "summary": "S"}"#, "Articles:\nD\n\nSummary:", " S"),
            ("newsroom", r#"{"url": "u", "text": "D", "summary": "S"}"#, "Article:\nD\n\nSummary:", " S"),
            ("gsm8k", r#"{"question": "1 + 1?", "answer": "2"}"#, "Question: 1 + 1?\nAnswer:", " 2"),
            ("math500", r#"{"unique_id": "u", "problem": "P", "solution": "S"}"#, "Problem: P\nSolution:", " S"),
            (
                "humaneval",
                r#"{"task_id": "t", "prompt": "def f():", "canonical_solution": " pass"}"#,
                "def f():",
                " pass",
            ),
            (
                "alpaca/train",
                r#"{"instruction": "Add.", "input": "", "output": "3"}"#,
                "### Instruction:\nAdd.\n\n### Input:\n\n\n### Response:\n",
                "3",
            ),
            ("mt_bench", r#"{"prompt_id": 81, "prompt": ["First?", "Second?"]}"#, "First?", ""),
            ("spec_bench", r#"{"question_id": 1, "turns": ["First?"]}"#, "First?", ""),
            (
                "speed_bench",
                r#"{"question_id": "q1", "category": "coding", "sub_category": "", "turns": ["First?", "Then?"], "source": "s", "src_id": "1", "difficulty": "", "multiturn": true}"#,
                "First?",
                "",
            ),
        ];
        for (preset, record, prompt, completion) in records {
            std::fs::write(&path, record).unwrap();
            let config = expanded(&format!("[data.x]\npreset = \"{preset}\"\n")).unwrap();
            let documents = read_corpus(&path, &config).unwrap_or_else(|e| panic!("{preset}: {e}"));
            assert_eq!((&*documents[0].prompt, &*documents[0].completion), (prompt, completion), "{preset}");
        }
        assert_eq!(records.len(), toml::from_str::<Table>(PRESETS).unwrap().len());
    }

    #[test]
    fn given_keys_win() {
        let data = expanded("[data.x]\npreset = \"samsum\"\npath = \"mine.csv\"\ntest = 0.5\n").unwrap();
        assert_eq!((data.path.as_str(), data.test, data.dev), ("mine.csv", 0.5, 0.25));
        assert_eq!(data.group, "dialogue");
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = expanded("[data.x]\npreset = \"samsun\"\n").unwrap_err().what;
        assert!(
            error.contains("`data.x.preset` is \"samsun\": there is no `samsun`")
                && error.ends_with("Did you mean \"samsum\"?"),
            "{error}"
        );
        let error = expanded("[data.x]\npreset = \"lambada/train\"\n").unwrap_err().what;
        assert!(
            error.contains("no part `train`; it has `validation`, `test`") || error.contains("`test`, `validation`"),
            "{error}"
        );
    }
}
