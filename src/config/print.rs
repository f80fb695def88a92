//! Prints a configuration: every key under its meaning, so that the output explains itself and runs again.

use toml::{Table, Value};

use super::check::under;
use super::keys::{Key, Shape, keys};

/// Returns the configuration as TOML. `whole` is complete.
pub(super) fn to_toml(whole: &Value) -> String {
    let mut text = String::new();
    section(&mut text, "", keys(), whole);
    text.split_off(1)
}

/// Writes what follows the header of a section: values first, as TOML wants them, then the sections within.
fn section(text: &mut String, place: &str, shape: &Shape, value: &Value) {
    let Value::Table(table) = value else { unreachable!("a section is a table") };
    match shape {
        Shape::Section(keys) => section_keys(text, place, keys, table),
        Shape::Kinds { .. } => {
            let kind = shape.kind(table).expect("the kind was checked");
            comment(text, &kind.doc);
            *text += &format!("kind = \"{}\"\n", kind.name);
            section_keys(text, place, &kind.keys, table);
        }
        Shape::Named { doc, item, .. } if item.has_header() => {
            table.iter().for_each(|(name, value)| with_header(text, &under(place, &quoted(name)), doc, item, value));
        }
        _ => table.iter().for_each(|(name, value)| *text += &format!("{} = {value}\n", quoted(name))),
    }
}

fn section_keys(text: &mut String, place: &str, keys: &[Key], table: &Table) {
    for key in keys.iter().filter(|key| !key.shape.has_header()) {
        text.push('\n');
        comment(text, &key.doc);
        comment(text, &format!("({})", key.says()));
        match table.get(&key.name) {
            Some(value) => *text += &format!("{} = {value}\n", key.name),
            None => *text += &format!("# {} is not set.\n", key.name),
        }
    }
    for key in keys.iter().filter(|key| key.shape.has_header()) {
        let place = under(place, &key.name);
        match table.get(&key.name) {
            Some(Value::Array(entries)) if !entries.is_empty() => {
                let Shape::List { item, .. } = &key.shape else { unreachable!("a list was checked") };
                entries.iter().for_each(|entry| with_header(text, &format!("[{place}]"), &key.doc, item, entry));
            }
            Some(value @ Value::Table(entries)) if !entries.is_empty() => match &key.shape {
                shape @ Shape::Named { item, .. } if item.has_header() => section(text, &place, shape, value),
                shape => with_header(text, &place, &key.doc, shape, value),
            },
            _ => {
                text.push('\n');
                comment(text, &key.doc);
                *text += &format!("# [{}] is not set.\n", title(&place, &key.shape));
            }
        }
    }
}

/// Returns what stands in the brackets of the header of a section: with a second pair for lists, with NAME for named ones.
pub(super) fn title(place: &str, shape: &Shape) -> String {
    match shape {
        Shape::List { .. } => format!("[{place}]"),
        Shape::Named { item, .. } if item.has_header() => under(place, "NAME"),
        _ => place.to_owned(),
    }
}

fn with_header(text: &mut String, place: &str, doc: &str, shape: &Shape, value: &Value) {
    text.push('\n');
    comment(text, doc);
    *text += &format!("[{place}]\n");
    section(text, place.trim_matches(['[', ']']), shape, value);
}

impl Key {
    /// Returns what is allowed and what stands for the key where it is not given.
    pub fn says(&self) -> String {
        let default = match &self.default {
            Some(default) => format!("; default {default}"),
            None if self.optional => "; optional".into(),
            None => "; required".into(),
        };
        self.shape.allowed() + &default
    }
}

/// Writes comments, in lines of at most 120 characters.
fn comment(text: &mut String, doc: &str) {
    for paragraph in doc.split("\n\n") {
        let mut line = "#".to_owned();
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > 120 {
                *text += &format!("{line}\n");
                line = "#".to_owned();
            }
            line += &format!(" {word}");
        }
        *text += &format!("{line}\n");
    }
}

/// Returns a key as TOML takes it: in quotes unless it is a bare word.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}
