//! Conversations of a chat: every answer of the assistant is a document, behind the messages before it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::records::{Column, RecordLocation, for_each_record};
use super::{Document, record_id, take_id, written};
use crate::error::{Result, bail};
use crate::progress;
use crate::text::chat::Message;
use crate::text::config::DataConfig;

/// Reads the conversations of a file whose records hold them in the field `config.chat`. The names of those that are named by
/// their line or row begin with `file`.
///
/// # Errors
/// When the file cannot be read, a record has no conversation, two have the same id, or none has an answer.
pub fn read_conversations(path: &Path, config: &DataConfig, file: &str) -> Result<Vec<Document>> {
    let columns = [(config.chat.as_str(), true), (&config.id, false), (&config.group, false), (TOOLS, false)];
    let columns = columns.into_iter().filter(|(name, _)| !name.is_empty());
    let columns: Vec<Column> =
        columns.map(|(name, needed)| Column { field: name.to_owned(), outer: name.to_owned(), needed }).collect();
    let (mut documents, mut ids, mut cut, mut with_tools) = (Vec::new(), HashMap::new(), 0, 0);
    for_each_record(path, &columns, |location, record| {
        let id = record_id(config, record, location, file);
        let (messages, whole) = messages(config, record)?;
        cut += usize::from(!whole);
        with_tools += usize::from(says_something(record.get(TOOLS)));
        take_id(&mut ids, &id, location)?;
        documents.extend(answers(config, record, &id, &messages, location));
        Ok(())
    })?;
    if with_tools > 0 {
        progress::say(format!(
            "{}: {with_tools} conversations offer tools in `{TOOLS}`, which their prompts leave out: no tools are handed to the chat template.",
            path.display()
        ));
    }
    if cut > 0 {
        progress::say(format!(
            "{}: {cut} conversations end before a message of a tool, or of another role than system, user and assistant.",
            path.display()
        ));
    }
    if documents.is_empty() {
        bail!(
            "{}: no conversation has an answer of the assistant behind a message of the user, so there is nothing to learn. Check `chat`, which names the field with the messages.",
            path.display()
        );
    }
    Ok(documents)
}

/// Returns the messages of a conversation up to the first that is not plain text of a known role, and whether these are all.
fn messages(config: &DataConfig, record: &Map<String, Value>) -> Result<(Vec<Message>, bool)> {
    let Some(Value::Array(list)) = record.get(&config.chat) else {
        bail!(
            "`chat` names the field `{}`, which is no list of messages here; a message is an object with `role` and `content`.",
            config.chat
        );
    };
    let known: Vec<Message> = list.iter().map_while(message).collect();
    let whole = known.len() == list.len();
    Ok((known, whole))
}

/// The field in which conversations offer tools.
const TOOLS: &str = "tools";

/// Returns whether a field is there and neither null nor empty.
fn says_something(field: Option<&Value>) -> bool {
    !matches!(field, None | Some(Value::Null))
        && field != Some(&Value::from(""))
        && field != Some(&Value::Array(vec![]))
}

/// Reads a message as OpenAI's or ShareGPT's. A message that calls tools is none.
fn message(value: &Value) -> Option<Message> {
    if says_something(value.get("tool_calls")) {
        return None;
    }
    let text = |names: [&str; 2]| names.iter().find_map(|name| value.get(*name)?.as_str());
    let role = match text(["role", "from"])? {
        "human" => "user",
        "gpt" => "assistant",
        role @ ("system" | "user" | "assistant") => role,
        _ => return None,
    };
    let content = text(["content", "value"])?;
    Some(Message { role: role.to_owned(), content: content.to_owned() })
}

/// Returns a document for each answer. All of a conversation are of one group.
fn answers<'a>(
    config: &'a DataConfig,
    record: &Map<String, Value>,
    id: &'a str,
    messages: &'a [Message],
    location: RecordLocation,
) -> impl Iterator<Item = Document> + 'a {
    let asked = messages.iter().find(|message| message.role == "user").map(|message| message.content.trim().to_owned());
    let group = written(record, &config.group).or(asked).unwrap_or_else(|| location.to_string());
    let answers = messages.iter().enumerate().filter(move |(at, message)| {
        message.role == "assistant" && messages[..*at].iter().any(|before| before.role == "user")
    });
    (1..).zip(answers).map(move |(number, (at, answer))| Document {
        id: format!("{id}#{number}"),
        group: group.clone(),
        // Until the template writes it out, equal conversations are known by this.
        prompt: serde_json::to_string(&messages[..at]).expect("messages are JSON"),
        completion: answer.content.clone(),
        cut: false,
        messages: messages[..at].to_vec(),
    })
}
