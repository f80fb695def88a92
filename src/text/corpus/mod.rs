//! Corpora: JSON lines, CSV or Parquet with named fields, or plain text in paragraphs.

mod conversations;
mod csv;
mod parquet;
mod records;
mod template;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::DataConfig;
use super::chat::Message;
use crate::error::{Result, bail};
use records::{Column, Format, read_whole};
pub(crate) use records::{RecordLocation, for_each_record};
use template::Template;

/// One document: a prompt and the text that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// A name that is unique within the corpus.
    pub id: String,
    /// The group, which splits and the bootstrap keep together.
    pub group: String,
    /// The prompt as the backbone is given it, separator included.
    pub prompt: String,
    /// The text that follows the prompt in the corpus; may be empty.
    pub completion: String,
    /// Whether a length limit cut the completion, so that no end-of-text follows it.
    pub cut: bool,
    /// The messages that the prompt is made of by a chat template, where it is not the text itself.
    #[serde(skip)]
    pub messages: Vec<Message>,
}

/// Reads the corpus in the file `path` as `config` says.
///
/// The file's name tells the format: `.txt` is plain text in paragraphs, `.csv`, `.tsv` and `.parquet` are tables, and
/// anything else is JSON lines. All but Parquet may be compressed with gzip (`.gz`).
///
/// # Errors
/// When the file cannot be read or breaks the rules of its format. The error names the file and, where there is one,
/// the line or row.
pub fn read_corpus(path: &Path, config: &DataConfig) -> Result<Vec<Document>> {
    read_corpus_files(&[path], config)
}

/// Reads a corpus like [`read_corpus`] from several files, one after the other. A document that is named by its line or row is
/// then named by its file as well, as in `0001-row-3`.
///
/// # Errors
/// In the same cases as [`read_corpus`], and when two files have documents of the same id.
pub fn read_corpus_files(paths: &[impl AsRef<Path>], config: &DataConfig) -> Result<Vec<Document>> {
    let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let mut documents = Vec::new();
    for path in &paths {
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy();
        let file = if paths.len() > 1 { format!("{}-", stem()) } else { String::new() };
        documents.extend(read_file(path, config, &file)?);
    }
    let shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut ids = HashSet::new();
    if let Some(document) = documents.iter().find(|document| !ids.insert(document.id.as_str())) {
        bail!("{shown}: two of these files have a document `{}`; name another field in `id`, or none.", document.id);
    }
    for id in &config.exclude {
        let Some(at) = documents.iter().position(|document| document.id == *id) else {
            bail!("{shown}: `exclude` names `{id}`, but no document has that id.");
        };
        documents.remove(at);
    }
    if documents.is_empty() {
        bail!("{shown}: every document is excluded.");
    }
    documents.truncate(config.max_documents.unwrap_or(usize::MAX));
    Ok(documents)
}

/// Reads all documents of one file. The names of those that are named by their line or row begin with `file`.
fn read_file(path: &Path, config: &DataConfig, file: &str) -> Result<Vec<Document>> {
    match Format::of(path) {
        Format::Paragraphs if !config.chat.is_empty() => {
            bail!("{}: plain text has no field with a conversation; leave `chat` out.", path.display())
        }
        _ if !config.chat.is_empty() => conversations::read_conversations(path, config, file),
        Format::Paragraphs => read_paragraphs(path, config).map_err(|e| e.within(path.display())),
        _ => read_records(path, config, file),
    }
}

/// Returns the names of the fields of a corpus, as its first record has them, in alphabetical order. Plain text has none.
///
/// # Errors
/// When the file cannot be read or has no record.
pub fn field_names(path: &Path) -> Result<Vec<String>> {
    let mut found = None;
    let outcome = match Format::of(path) {
        Format::Paragraphs => return read_whole(path).map(|_| Vec::new()),
        Format::Parquet => return parquet::column_names(path),
        // The first record is enough, so reading ends with it.
        _ => for_each_record(path, &[], |_, record| {
            let mut names: Vec<String> = record.keys().cloned().collect();
            names.sort();
            found = Some(names);
            bail!("the fields are known.")
        }),
    };
    match found {
        Some(names) => Ok(names),
        None => outcome.and_then(|()| bail!("{}: the corpus is empty.", path.display())),
    }
}

/// Reads documents from records.
fn read_records(path: &Path, config: &DataConfig, file: &str) -> Result<Vec<Document>> {
    let fields = Fields::new(config, file).map_err(|e| e.within(path.display()))?;
    let mut documents = Vec::new();
    let mut ids = HashMap::new();
    for_each_record(path, &fields.columns(), |location, record| {
        let document = fields.document(record, location)?;
        take_id(&mut ids, &document.id, location)?;
        documents.push(document);
        Ok(())
    })?;
    if documents.is_empty() {
        bail!(
            "{}: the corpus is empty. It needs at least one record with what `prompt` names: {}.",
            path.display(),
            config.prompt
        );
    }
    Ok(documents)
}

/// Reads documents of `config.paragraphs` paragraphs, which blank lines separate. The first paragraph is the prompt,
/// and the others follow it. Each document counts as cut, because the text goes on after it.
fn read_paragraphs(path: &Path, config: &DataConfig) -> Result<Vec<Document>> {
    const GAP: &str = "\n\n";
    let text = read_whole(path)?.replace("\r\n", "\n");
    let lines: Vec<&str> = text.lines().collect();
    let paragraphs: Vec<String> = lines
        .split(|line| line.trim().is_empty())
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join("\n"))
        .collect();
    if paragraphs.is_empty() {
        bail!("the corpus is empty. It needs at least one line of text.");
    }
    let document = |(index, paragraphs): (usize, &[String])| Document {
        id: format!("paragraph-{}", index * config.paragraphs + 1),
        group: paragraphs[0].clone(),
        prompt: format!("{}{GAP}", paragraphs[0]),
        completion: paragraphs[1..].join(GAP),
        cut: true,
        messages: Vec::new(),
    };
    Ok(paragraphs.chunks(config.paragraphs).enumerate().map(document).collect())
}

/// The parts of a document, as templates over the fields of a record.
struct Fields<'a> {
    config: &'a DataConfig,
    /// How the names of documents that are named by their line or row begin.
    file: &'a str,
    prompt: Template,
    completion: Option<Template>,
    group: Option<Template>,
}

impl<'a> Fields<'a> {
    fn new(config: &'a DataConfig, file: &'a str) -> Result<Self> {
        let parse = |key: &str, source: &str| Template::parse(source).map_err(|e| e.within(format!("`{key}`")));
        let given = |key: &str, source: &str| (!source.is_empty()).then(|| parse(key, source)).transpose();
        Ok(Self {
            config,
            file,
            prompt: parse("prompt", &config.prompt)?,
            completion: given("completion", &config.completion)?,
            // Left out if it is the id, which may also be a number or a line.
            group: if config.group == config.id { None } else { given("group", &config.group)? },
        })
    }

    /// Returns every column that is read, the needed ones first.
    fn columns(&self) -> Vec<Column> {
        let templates = [Some(&self.prompt), self.completion.as_ref(), self.group.as_ref()];
        let needed = templates.into_iter().flatten().flat_map(Template::columns);
        let column = |needed: bool| {
            move |(field, outer): (&str, &str)| Column { field: field.into(), outer: outer.into(), needed }
        };
        let optional = [&self.config.id, &self.config.finish].map(|name| (name.as_str(), name.as_str()));
        needed.map(column(true)).chain(optional.into_iter().map(column(false))).collect()
    }

    /// Makes a document of a record.
    fn document(&self, record: &Map<String, Value>, location: RecordLocation) -> Result<Document> {
        let config = self.config;
        let id = record_id(config, record, location, self.file);
        let prompt = self.prompt.render(record).map_err(|e| e.within("`prompt`"))?;
        if prompt.is_empty() {
            bail!("`prompt` ({}) is empty here; a prompt needs at least one character.", config.prompt);
        }
        let completion = self.completion.as_ref().map(|template| template.render(record)).transpose();
        let group = match &self.group {
            Some(template) => template.render(record).map_err(|e| e.within("`group`"))?,
            None if !config.group.is_empty() => id.clone(),
            // Prompts that differ only in surrounding blanks would leak from one split into another as the same text.
            None => prompt.trim().to_owned(),
        };
        let end = if config.group_until.is_empty() { None } else { group.find(&config.group_until) };
        Ok(Document {
            prompt: format!("{prompt}{}", config.separator),
            completion: completion.map_err(|e| e.within("`completion`"))?.unwrap_or_default(),
            cut: record.get(&config.finish).and_then(Value::as_str) == Some("length"),
            group: group[..end.unwrap_or(group.len())].to_owned(),
            messages: Vec::new(),
            id,
        })
    }
}

/// Returns the name of a record: what the field `id` says, or else its place in the file, behind `file`.
fn record_id(config: &DataConfig, record: &Map<String, Value>, location: RecordLocation, file: &str) -> String {
    written(record, &config.id).unwrap_or_else(|| format!("{file}{}", location.to_string().replace(' ', "-")))
}

/// Returns a field as text, if the record has it.
fn written(record: &Map<String, Value>, field: &str) -> Option<String> {
    match record.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Notes that a record is called `id`.
///
/// # Errors
/// When an earlier one is, too.
fn take_id(ids: &mut HashMap<String, RecordLocation>, id: &str, location: RecordLocation) -> Result<()> {
    match ids.insert(id.to_owned(), location) {
        Some(first) => bail!("the id `{id}` was already used on {first}; ids must be unique."),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Document>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        std::fs::write(&path, text).unwrap();
        read_corpus(&path, &DataConfig::default())
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
        let config = DataConfig { completion: String::new(), group_until: " Q:".into(), ..DataConfig::default() };
        let groups = |config: &DataConfig| {
            read_corpus(&path, config).map(|d| d.into_iter().map(|document| document.group).collect::<Vec<_>>())
        };
        assert_eq!(groups(&config).unwrap(), ["text", "text", "c"]);
        let config = DataConfig { exclude: vec!["line-2".into()], ..config };
        assert_eq!(groups(&config).unwrap(), ["text", "c"]);
        let config = DataConfig { exclude: vec!["line-9".into()], ..config };
        assert!(groups(&config).unwrap_err().to_string().contains("names `line-9`"));
    }

    #[test]
    fn several_files_are_one_corpus() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["0000.jsonl", "0001.jsonl"].map(|name| dir.path().join(name));
        std::fs::write(&paths[0], "{\"prompt\":\"a\"}\n{\"id\":\"x\",\"prompt\":\"b\"}\n").unwrap();
        std::fs::write(&paths[1], "{\"prompt\":\"c\"}\n{\"id\":\"y\",\"prompt\":\"d\"}\n").unwrap();
        let config = DataConfig { completion: String::new(), ..DataConfig::default() };
        let named = |config: &DataConfig| {
            let documents = read_corpus_files(&paths, config)?;
            Ok::<_, crate::Error>(documents.into_iter().map(|d| format!("{} {}", d.id, d.prompt)).collect::<Vec<_>>())
        };
        assert_eq!(named(&config).unwrap(), ["0000-line-1 a", "x b", "0001-line-1 c", "y d"]);
        let config = DataConfig { exclude: vec!["0000-line-1".into()], max_documents: Some(2), ..config };
        assert_eq!(named(&config).unwrap(), ["x b", "0001-line-1 c"]);
        std::fs::write(&paths[1], "{\"id\":\"x\",\"prompt\":\"d\"}\n").unwrap();
        let error = named(&config).unwrap_err().to_string();
        assert!(error.contains("0001.jsonl: two of these files have a document `x`"), "{error}");
    }

    #[test]
    fn every_answer_of_a_conversation_is_a_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        let config = DataConfig { chat: "messages".into(), ..DataConfig::default() };
        let message = |role: &str, content: &str| format!("{{\"role\":\"{role}\",\"content\":\"{content}\"}}");
        let conversation = |messages: &[String]| format!("\"messages\":[{}]", messages.join(","));
        let first = conversation(&[
            message("system", "Be brief."),
            message("user", "Hi"),
            message("assistant", "Hello."),
            message("user", "Bye"),
            message("assistant", "Bye."),
        ]);
        let tool = conversation(&[message("user", "Sum?"), message("tool", "3"), message("assistant", "Three.")]);
        let shared = "\"messages\":[{\"from\":\"human\",\"value\":\"Q\"},{\"from\":\"gpt\",\"value\":\"A\"}]";
        std::fs::write(&path, format!("{{\"id\":\"a\",{first}}}\n{{{tool}}}\n{{{shared}}}\n")).unwrap();
        let documents = read_corpus(&path, &config).unwrap();
        let names: Vec<&str> = documents.iter().map(|document| &*document.id).collect();
        let calls = "\"tools\":[{\"type\":\"function\"}],\"messages\":[{\"role\":\"user\",\"content\":\"Sum?\"},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":1}]}]";
        assert_eq!(names, ["a#1", "a#2", "line-3#1"], "nothing is learnt from what follows a tool's message");
        std::fs::write(dir.path().join("tools.jsonl"), format!("{{{calls}}}\n{{{shared}}}\n")).unwrap();
        let answered = read_corpus(&dir.path().join("tools.jsonl"), &config).unwrap();
        assert_eq!(answered.len(), 1, "a call of a tool is no answer");
        assert_eq!(documents.iter().map(|d| d.messages.len()).collect::<Vec<_>>(), [2, 4, 1]);
        assert_eq!(documents[1].messages[2], Message { role: "assistant".into(), content: "Hello.".into() });
        assert_eq!([&*documents[0].completion, &*documents[1].completion], ["Hello.", "Bye."]);
        assert!(documents[0].group == "Hi" && documents[1].group == "Hi", "a conversation stays in one split");
        for (text, expected) in [
            (format!("{{{}}}\n", conversation(&[message("user", "Hi")])), "no conversation has an answer"),
            ("{\"messages\": \"Hi\"}\n".to_owned(), "line 1: `chat` names the field `messages`, which is no list"),
            (format!("{{\"id\":1,{first}}}\n{{\"id\":1,{first}}}\n"), "line 2: the id `1` was already used"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_corpus(&path, &config).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("c.jsonl"), "{error}");
        }
    }

    #[test]
    fn plain_text_is_read_in_paragraphs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.txt");
        let config = DataConfig { paragraphs: 2, ..DataConfig::default() };
        std::fs::write(&path, "\na\nb\r\n\n \nc\n\nd\n").unwrap();
        let documents = read_corpus(&path, &config).unwrap();
        assert_eq!((documents[0].prompt.as_str(), documents[0].completion.as_str()), ("a\nb\n\n", "c"));
        assert_eq!((documents[1].id.as_str(), documents[1].completion.as_str()), ("paragraph-3", ""));
        std::fs::write(&path, " \n").unwrap();
        assert!(read_corpus(&path, &config).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, expected) in [
            ("{\"prompt\": \"a\", \"completion\": \"\"}\n{oops\n", "c.jsonl: line 2: not a JSON object"),
            ("{\"prompt\": \"a\"}\n", "line 1: `completion`: no field `completion`; there is prompt"),
            ("{\"prompt\": 3, \"completion\": \"\"}\n", "not a string: 3"),
            ("{\"prompt\": \"\", \"completion\": \"\"}\n", "line 1: `prompt` (prompt) is empty"),
            ("\n\n", "empty"),
            ("[{\"prompt\": \"a\"}]", "jq -c"),
            (
                "{\"id\":1,\"prompt\":\"a\",\"completion\":\"\"}\n{\"id\":1,\"prompt\":\"a\",\"completion\":\"\"}",
                "line 2: the id `1` was already used on line 1",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn mistakes_in_tables_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.csv");
        let config = DataConfig { prompt: "Q: {q}".into(), completion: "a".into(), ..DataConfig::default() };
        for (text, expected) in [
            ("", "empty"),
            ("q,a\n", "empty"),
            ("q,a\n\"x\ny\",b\r\n\r\nc,d,e\n", "line 5: 3 fields, but the heading has 2"),
            ("q,a\n1,\"open\n2,b\n", "line 2: the row that begins here has a quote that is never closed"),
            ("q,a\n1,5\" nails\n2,b\n", "line 2: the row that begins here has a quote that is never closed"),
            ("q,b\n1,2\n", "line 2: `completion`: no field `a`; there is b, q"),
            ("q,q\n1,2\n", "two columns are called `q`"),
            ("id,q,a\nx,1,2\ny,1,2\nx,1,2\n", "line 4: the id `x` was already used on line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_corpus(&path, &config).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("c.csv"), "{error}");
        }
        std::fs::write(&path, b"q,a\n1,2\n\xff,2\n").unwrap();
        assert!(read_corpus(&path, &config).unwrap_err().to_string().contains("line 3 is not UTF-8"));
        std::fs::write(&path, "\u{feff}q,a\r\n\"x, \"\"y\"\"\nz\",b\r\n1,\r\n").unwrap();
        let documents = read_corpus(&path, &config).unwrap();
        assert_eq!((documents[0].prompt.as_str(), documents[0].id.as_str()), ("Q: x, \"y\"\nz", "line-2"));
        assert_eq!((documents[1].id.as_str(), documents[1].completion.as_str()), ("line-4", ""));
        assert_eq!(read_corpus(&path, &DataConfig { max_documents: Some(1), ..config }).unwrap(), documents[..1]);
        let path = dir.path().join("c.parquet");
        std::fs::write(&path, "q,a\n").unwrap();
        assert!(
            read_corpus(&path, &DataConfig::default()).unwrap_err().to_string().contains("not readable as Parquet")
        );
    }
}
