//! Corpora: JSON lines with named fields, or plain text in paragraphs.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::DataConfig;
use crate::error::{Error, Result, bail};
use crate::files;

/// One document: a prompt and the text that follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique within its corpus.
    pub id: String,
    /// What splits and the bootstrap keep together.
    pub group: String,
    /// What the backbone is given, separator included.
    pub prompt: String,
    /// The text that follows the prompt in the corpus; may be empty.
    pub completion: String,
    /// The completion was cut by a length limit: no end-of-text follows it.
    pub cut: bool,
}

/// Reads a corpus: a `.txt` file in paragraphs, any other as JSON lines by the field names of `config`. Every error names
/// file and, where there is one, line.
pub fn read_corpus(config: &DataConfig) -> Result<Vec<Document>> {
    let path = Path::new(&config.path);
    let plain = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    let mut documents = if plain { read_paragraphs(path, config)? } else { read_records(path, config)? };
    for id in &config.exclude {
        let Some(at) = documents.iter().position(|document| document.id == *id) else {
            bail!("{}: `exclude` names `{id}`, but no document has that id.", path.display());
        };
        documents.remove(at);
    }
    if documents.is_empty() {
        bail!("{}: every document is excluded.", path.display());
    }
    Ok(documents)
}

/// Documents from JSON lines; blank ones are skipped.
fn read_records(path: &Path, config: &DataConfig) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut ids = std::collections::HashMap::new();
    files::for_each_line(path, |number, line| {
        let record: Map<String, Value> = serde_json::from_str(line).map_err(|e| {
            Error::new(format!("not a JSON object ({e}). Every line must be one object such as {{\"prompt\": \"...\"}}; mend or delete the line."))
        })?;
        let document = document(config, &record, number)?;
        if let Some(first) = ids.insert(document.id.clone(), number) {
            bail!("the id `{}` was already used on line {first}; ids must be unique.", document.id);
        }
        documents.push(document);
        Ok(())
    })?;
    if documents.is_empty() {
        bail!(
            "{}: the corpus is empty. It needs at least one JSON line with a `{}` field.",
            path.display(),
            config.prompt
        );
    }
    Ok(documents)
}

/// Documents of `config.paragraphs` paragraphs, what lies between blank lines: the first one is the prompt, the others are
/// what follows it. The text goes on behind a document, so it is cut there.
fn read_paragraphs(path: &Path, config: &DataConfig) -> Result<Vec<Document>> {
    const GAP: &str = "\n\n";
    let text = files::read_text(path)?.replace("\r\n", "\n");
    let lines: Vec<&str> = text.lines().collect();
    let paragraphs: Vec<String> = lines
        .split(|line| line.trim().is_empty())
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join("\n"))
        .collect();
    if paragraphs.is_empty() {
        bail!("{}: the corpus is empty. It needs at least one line of text.", path.display());
    }
    let document = |(index, paragraphs): (usize, &[String])| Document {
        id: format!("paragraph-{}", index * config.paragraphs + 1),
        group: paragraphs[0].clone(),
        prompt: format!("{}{GAP}", paragraphs[0]),
        completion: paragraphs[1..].join(GAP),
        cut: true,
    };
    Ok(paragraphs.chunks(config.paragraphs).enumerate().map(document).collect())
}

fn document(config: &DataConfig, record: &Map<String, Value>, number: usize) -> Result<Document> {
    let id = match record.get(&config.id) {
        None => format!("line-{number}"),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let prompt = text_field(record, &config.prompt)?;
    let completion = if config.completion.is_empty() { "" } else { text_field(record, &config.completion)? };
    let group = match config.group.as_str() {
        // Prompts that differ in blanks around them are the same text to whoever looks for leaks.
        "" => prompt.trim(),
        group if group == config.id => &id,
        group => text_field(record, group)?,
    };
    let end = if config.group_until.is_empty() { None } else { group.find(&config.group_until) };
    let group = group[..end.unwrap_or(group.len())].to_owned();
    if prompt.is_empty() {
        bail!("the field `{}` is empty; a prompt needs at least one character.", config.prompt);
    }
    Ok(Document {
        prompt: format!("{prompt}{}", config.separator),
        completion: completion.to_owned(),
        cut: record.get(&config.finish).and_then(Value::as_str) == Some("length"),
        group,
        id,
    })
}

fn text_field<'a>(record: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    match record.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => bail!("the field `{name}` is not a string."),
        None => {
            let known: Vec<_> = record.keys().map(String::as_str).collect();
            bail!("no field `{name}`; the line has {}. Name the right field in [data.NAME].", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Document>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        std::fs::write(&path, text).unwrap();
        read_corpus(&DataConfig { path: path.display().to_string(), ..DataConfig::default() })
    }

    #[test]
    fn reads_fields_and_skips_blank_lines() {
        let documents = read(
            "{\"id\": \"a\", \"prompt\": \"P\", \"completion\": \"C\", \"finish\": \"length\"}\n\n{\"prompt\": \"Q\", \"completion\": \"D\"}\n",
        )
        .unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!((documents[0].prompt.as_str(), documents[0].cut), ("P", true));
        assert_eq!((documents[1].id.as_str(), documents[1].cut), ("line-3", false));
    }

    #[test]
    fn a_group_ends_where_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        std::fs::write(&path, "{\"prompt\": \"text Q: a\"}\n{\"prompt\": \"text Q: b\"}\n{\"prompt\": \"c\"}\n")
            .unwrap();
        let config = DataConfig {
            path: path.display().to_string(),
            completion: String::new(),
            group_until: " Q:".into(),
            ..DataConfig::default()
        };
        let groups = |config: &DataConfig| {
            read_corpus(config).map(|d| d.into_iter().map(|document| document.group).collect::<Vec<_>>())
        };
        assert_eq!(groups(&config).unwrap(), ["text", "text", "c"]);
        let config = DataConfig { exclude: vec!["line-2".into()], ..config };
        assert_eq!(groups(&config).unwrap(), ["text", "c"]);
        let config = DataConfig { exclude: vec!["line-9".into()], ..config };
        assert!(groups(&config).unwrap_err().to_string().contains("names `line-9`"));
    }

    #[test]
    fn plain_text_is_read_in_paragraphs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.txt");
        let config = DataConfig { path: path.display().to_string(), paragraphs: 2, ..DataConfig::default() };
        std::fs::write(&path, "\na\nb\r\n\n \nc\n\nd\n").unwrap();
        let documents = read_corpus(&config).unwrap();
        assert_eq!((documents[0].prompt.as_str(), documents[0].completion.as_str()), ("a\nb\n\n", "c"));
        assert_eq!((documents[1].id.as_str(), documents[1].completion.as_str()), ("paragraph-3", ""));
        std::fs::write(&path, " \n").unwrap();
        assert!(read_corpus(&config).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, expected) in [
            ("{\"prompt\": \"a\", \"completion\": \"\"}\n{oops\n", "line 2"),
            ("{\"prompt\": \"a\"}\n", "no field `completion`"),
            ("{\"prompt\": 3, \"completion\": \"\"}\n", "not a string"),
            ("\n\n", "empty"),
            (
                "{\"id\":1,\"prompt\":\"a\",\"completion\":\"\"}\n{\"id\":1,\"prompt\":\"a\",\"completion\":\"\"}",
                "already used on line 1",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
