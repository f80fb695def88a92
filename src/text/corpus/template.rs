//! How a record becomes text: a field's name, or text around fields in braces.

use serde_json::{Map, Value};

use crate::error::{Error, Result, bail};

/// A template such as `dialogue`, which is the field of that name, or `"Dialogue:\n{dialogue}\n\nSummary:"`, which is
/// text around fields in braces. `{a.b.0}` goes into objects and lists, `{field|filter}` takes a part of the field's
/// text, and `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
    /// Whether the template is a field's name alone. It then takes nothing but text, lest a number from the wrong
    /// column pass for a prompt.
    bare: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Words(String),
    Field(String, Filter),
}

/// The part that is taken of a field's text. Words are what blanks separate.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Filter {
    Whole,
    Trim,
    /// At most this many words from the beginning.
    Words(usize),
    /// All but the last word and the blanks before it, for tasks that ask for the last word.
    BeforeLastWord,
    LastWord,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// When a brace has no partner, a placeholder has no name, or a filter is unknown.
    pub fn parse(source: &str) -> Result<Self> {
        if !source.contains(['{', '}']) {
            return Ok(Self { parts: vec![Part::Field(source.to_owned(), Filter::Whole)], bare: true });
        }
        let (mut parts, mut words, mut rest) = (Vec::new(), String::new(), source);
        while let Some(at) = rest.find(['{', '}']) {
            words += &rest[..at];
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                words += brace;
                rest = after;
                continue;
            }
            let Some((inside, after)) = rest.split_once('}').filter(|_| brace == "{") else {
                bail!("the template `{source}` has a `{brace}` without its partner; a brace itself is written twice.");
            };
            if !words.is_empty() {
                parts.push(Part::Words(std::mem::take(&mut words)));
            }
            parts.push(placeholder(inside).map_err(|e| e.within(format!("the template `{source}`")))?);
            rest = after;
        }
        words += rest;
        if !words.is_empty() {
            parts.push(Part::Words(words));
        }
        Ok(Self { parts, bare: false })
    }

    /// Returns the text that the template makes of a record.
    ///
    /// # Errors
    /// When the record lacks a field, or the field is not text. Inside braces, numbers and truth values are written
    /// out.
    pub fn render(&self, record: &Map<String, Value>) -> Result<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Words(words) => text += words,
                Part::Field(name, filter) => match find(record, name)? {
                    Value::String(value) => text += filter.of(value),
                    Value::Number(value) if !self.bare => text += &value.to_string(),
                    Value::Bool(value) if !self.bare => text += &value.to_string(),
                    other => bail!(
                        "the field `{name}` is not a string: {}. Name a field with text in [data.NAME].",
                        excerpt(other)
                    ),
                },
            }
        }
        Ok(text)
    }

    /// Returns the fields that the template reads, each with its name up to the first dot.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(name, _) => Some((name.as_str(), name.split('.').next().unwrap_or_default())),
            Part::Words(_) => None,
        })
    }
}

/// Parses what stands between the braces of a placeholder.
fn placeholder(inside: &str) -> Result<Part> {
    let (name, filter) = inside.split_once('|').unwrap_or((inside, ""));
    let (name, filter) = (name.trim(), filter.trim());
    if name.is_empty() {
        bail!("`{{{inside}}}` names no field.");
    }
    let filter = match filter.split_once(' ') {
        Some(("words", count)) => count.trim().parse().ok().filter(|&count| count > 0).map(Filter::Words),
        Some(_) => None,
        None => match filter {
            "" => (!inside.contains('|')).then_some(Filter::Whole),
            "trim" => Some(Filter::Trim),
            "before_last_word" => Some(Filter::BeforeLastWord),
            "last_word" => Some(Filter::LastWord),
            _ => None,
        },
    };
    let filter = filter.ok_or_else(|| {
        Error::new(format!(
            "`{{{inside}}}` has an unknown filter; there are `trim`, `words N`, `before_last_word` and `last_word`."
        ))
    })?;
    Ok(Part::Field(name.to_owned(), filter))
}

/// Returns the field of exactly this name, or else what the parts of the name between dots lead to.
fn find<'a>(record: &'a Map<String, Value>, name: &str) -> Result<&'a Value> {
    if let Some(value) = record.get(name) {
        return Ok(value);
    }
    let mut parts = name.split('.');
    let mut value = parts.next().and_then(|first| record.get(first));
    for part in parts {
        value = match value {
            Some(Value::Object(inner)) => inner.get(part),
            Some(Value::Array(items)) => part.parse().ok().and_then(|index: usize| items.get(index)),
            _ => None,
        };
    }
    value.ok_or_else(|| {
        let known: Vec<_> = record.keys().map(String::as_str).collect();
        Error::new(format!(
            "no field `{name}`; there is {}. Name the right field in [data.NAME].",
            if known.is_empty() { "none".into() } else { known.join(", ") }
        ))
    })
}

/// Returns the beginning of a value, for messages.
fn excerpt(value: &Value) -> String {
    const LENGTH: usize = 40;
    let text = value.to_string();
    if text.chars().count() <= LENGTH { text } else { text.chars().take(LENGTH).collect::<String>() + " ..." }
}

impl Filter {
    /// Returns the part of `text` that the filter takes.
    fn of(self, text: &str) -> &str {
        let ended = text.trim_end();
        let last =
            ended.rfind(char::is_whitespace).map_or(0, |at| at + ended[at..].chars().next().map_or(0, char::len_utf8));
        match self {
            Self::Whole => text,
            Self::Trim => text.trim(),
            Self::Words(count) => {
                let mut ends = text.char_indices().scan(false, |inside, (at, c)| {
                    let ended = *inside && c.is_whitespace();
                    *inside = !c.is_whitespace();
                    Some(ended.then_some(at))
                });
                ends.by_ref().flatten().nth(count - 1).map_or(text, |end| &text[..end])
            }
            Self::BeforeLastWord => ended[..last].trim_end(),
            Self::LastWord => &ended[last..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> Result<String> {
        let Value::Object(record) = json!({
            "text": "one  two\nthree ", "year": 7, "none": null, "a.b": "dotted", "answers": {"text": ["x", "y"]},
        }) else {
            unreachable!("an object was written")
        };
        Template::parse(template)?.render(&record)
    }

    #[test]
    fn fields_words_and_paths() {
        for (template, expected) in [
            ("text", "one  two\nthree "),
            ("a.b", "dotted"),
            ("answers.text.1", "y"),
            ("Q: {year}, {answers.text.0}\n{{{text|trim}}}", "Q: 7, x\n{one  two\nthree}"),
            ("{text|words 1}.", "one."),
            ("{text|words 2}.", "one  two."),
            ("{text|words 9}.", "one  two\nthree ."),
            ("{text|before_last_word}|{text|last_word}", "one  two|three"),
            ("{a.b|before_last_word}|{a.b|last_word}", "|dotted"),
        ] {
            assert_eq!(render(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, expected) in [
            ("missing", "no field `missing`; there is "),
            ("{answers.text.5}", "no field `answers.text.5`"),
            ("year", "`year` is not a string: 7"),
            ("{none}", "`none` is not a string: null"),
            ("{answers}", "`answers` is not a string"),
            ("{text", "has a `{` without its partner"),
            ("text}", "has a `}` without its partner"),
            ("{ } x", "names no field"),
            ("{text|upper}", "unknown filter"),
            ("{text|words none}", "unknown filter"),
            ("{text|}", "unknown filter"),
        ] {
            let error = render(template).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
