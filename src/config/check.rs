//! Checks a configuration against the tree of keys, and completes it with their defaults.

use toml::{Table, Value};

use super::keys::{Key, Shape};

/// What is wrong with a key.
#[derive(Debug)]
pub(super) struct Fault {
    /// The dotted key; items of lists are `[0]`, `[1]`, ...
    pub key: String,
    /// A sentence with the key, its value and what is allowed.
    pub what: String,
}

impl Shape {
    /// Checks that `value`, at the dotted key `place`, is allowed; it may lack what has a default.
    pub fn check(&self, place: &str, value: &Value) -> Result<(), Fault> {
        let wrong = |hint: &str| {
            let what = format!("`{place}` is {value}; it must be {}.{hint}", self.allowed());
            Err(Fault { key: place.to_owned(), what })
        };
        let one_of = |words: &[(String, String)], word: &str| {
            let names = || words.iter().map(|(name, _)| name);
            match nearest(word, names()) {
                _ if names().any(|name| name == word) => Ok(()),
                Some(near) => wrong(&format!(" Did you mean \"{near}\"?")),
                None => wrong(""),
            }
        };
        match (self, value) {
            (Self::Anything, _) | (Self::Boolean, Value::Boolean(_)) | (Self::Text, Value::String(_)) => Ok(()),
            (Self::Number { range, .. }, Value::Integer(number)) if range.contains(*number as f64) => Ok(()),
            (Self::Number { whole: false, range }, Value::Float(number)) if range.contains(*number) => Ok(()),
            (Self::Words(words), Value::String(word)) => one_of(words, word),
            (Self::List { item, least, most, distinct }, Value::Array(items)) => {
                if items.len() < *least || items.len() > *most {
                    return wrong("");
                }
                if *distinct && (1..).zip(items).any(|(next, item)| items[next..].contains(item)) {
                    return wrong("");
                }
                items.iter().enumerate().try_for_each(|(index, value)| item.check(&format!("{place}[{index}]"), value))
            }
            (Self::Section(keys), Value::Table(section)) => check_keys(keys, place, section, None),
            (Self::Kinds { kinds, .. }, Value::Table(section)) => {
                if let Some(kind) = self.kind(section) {
                    return check_keys(&kind.keys, place, section, Some(&kind.name));
                }
                let place = under(place, "kind");
                let kinds = kinds.iter().map(|kind| (kind.name.clone(), String::new())).collect();
                let kinds = Self::Words(kinds);
                match section.get("kind") {
                    Some(kind) => kinds.check(&place, kind),
                    None => Err(missing(place, &kinds)),
                }
            }
            (Self::Named { names, item, .. }, Value::Table(section)) => {
                let known = |name: &String| names.is_empty() || names.iter().any(|(known, _)| known == name);
                if let Some(name) = section.keys().find(|name| !known(name)) {
                    return Err(unknown(place, name, names.iter().map(|(name, _)| name), None));
                }
                section.iter().try_for_each(|(name, value)| item.check(&under(place, name), value))
            }
            (Self::OneOf(options), _) => {
                let fitting: Vec<&Self> =
                    options.iter().map(|(_, option)| option).filter(|option| option.takes_type_of(value)).collect();
                match (&fitting[..], fitting.iter().find(|option| option.knows_a_key_of(value))) {
                    ([Self::Words(words)], _) => one_of(words, value.as_str().unwrap_or_default()),
                    ([only], _) => only.check(place, value),
                    (_, Some(option)) => option.check(place, value),
                    _ => wrong(""),
                }
            }
            _ => wrong(""),
        }
    }

    fn takes_type_of(&self, value: &Value) -> bool {
        match self {
            Self::Boolean => value.is_bool(),
            Self::Number { whole, .. } => value.is_integer() || (!whole && value.is_float()),
            Self::Text | Self::Words(_) => value.is_str(),
            Self::List { .. } => value.is_array(),
            Self::Section(_) | Self::Kinds { .. } | Self::Named { .. } => value.is_table(),
            Self::OneOf(_) | Self::Anything => true,
        }
    }

    /// Returns whether a table has a key of this section.
    fn knows_a_key_of(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Section(keys), Value::Table(section)) => keys.iter().any(|key| section.contains_key(&key.name)),
            _ => false,
        }
    }

    /// Names the kinds of sections that leave them to a default.
    pub fn name_kinds(&self, value: &mut Value) {
        match (self, value) {
            (Self::Section(keys), Value::Table(section)) => {
                for key in keys {
                    section.get_mut(&key.name).into_iter().for_each(|value| key.shape.name_kinds(value));
                }
            }
            (Self::Kinds { default: Some(kind), .. }, Value::Table(section)) => {
                section.entry("kind").or_insert_with(|| Value::String(kind.clone()));
            }
            _ => {}
        }
    }

    /// Completes a value that passes the check with the defaults of what it lacks.
    pub fn complete(&self, value: &mut Value) {
        match (self, value) {
            (Self::Section(keys), Value::Table(section)) => complete_keys(keys, section),
            (Self::Kinds { .. }, Value::Table(section)) => {
                if let Some(kind) = self.kind(section) {
                    section.entry("kind").or_insert_with(|| Value::String(kind.name.clone()));
                    complete_keys(&kind.keys, section);
                }
            }
            (Self::Named { item, .. }, Value::Table(section)) => {
                section.iter_mut().for_each(|(_, value)| item.complete(value));
            }
            (Self::List { item, .. }, Value::Array(items)) => items.iter_mut().for_each(|value| item.complete(value)),
            _ => {}
        }
    }

    /// Returns what is allowed, to stand after "it must be".
    pub fn allowed(&self) -> String {
        match self {
            Self::Boolean => "true or false".into(),
            Self::Number { whole: true, range } => format!("a whole number{range}"),
            Self::Number { whole: false, range } => format!("a number{range}"),
            Self::Text => "a text".into(),
            Self::Words(words) => any_of(words.iter().map(|(name, _)| format!("\"{name}\""))),
            Self::List { item, least, most, distinct } => {
                let count = match (*least, *most) {
                    (0, usize::MAX) => String::new(),
                    (1, usize::MAX) => "one or more ".into(),
                    (least, usize::MAX) => format!("at least {least} "),
                    (least, most) if least == most => format!("{least} "),
                    (least, most) => format!("{least} to {most} "),
                };
                let different = if *distinct { "different " } else { "" };
                format!("a list of {count}{different}items, each {}", item.allowed())
            }
            Self::Section(keys) if keys.len() == 1 => {
                format!("{{ {} = {} }}", keys[0].name, keys[0].shape.allowed())
            }
            Self::Section(_) => "a section".into(),
            Self::Kinds { kinds, .. } => {
                format!("a section whose `kind` is {}", any_of(kinds.iter().map(|kind| format!("\"{}\"", kind.name))))
            }
            Self::Named { names, item, .. } if names.is_empty() => format!("{{ NAME = {}, ... }}", item.allowed()),
            Self::Named { names, item, .. } => {
                let names = any_of(names.iter().map(|(name, _)| format!("`{name}`")));
                format!("{{ NAME = {}, ... }} with the names {names}", item.allowed())
            }
            Self::OneOf(options) => any_of(options.iter().flat_map(|(_, option)| match option {
                Self::Words(words) => words.iter().map(|(name, _)| format!("\"{name}\"")).collect(),
                other => vec![other.allowed()],
            })),
            Self::Anything => "any value".into(),
        }
    }
}

fn check_keys(keys: &[Key], place: &str, section: &Table, kind: Option<&str>) -> Result<(), Fault> {
    let known = |name: &str| keys.iter().any(|key| key.name == name) || (kind.is_some() && name == "kind");
    if let Some(name) = section.keys().find(|name| !known(name)) {
        return Err(unknown(place, name, keys.iter().map(|key| &key.name), kind));
    }
    for key in keys {
        let place = under(place, &key.name);
        match section.get(&key.name) {
            Some(value) => key.shape.check(&place, value)?,
            None if key.default.is_none() && !key.optional => return Err(missing(place, &key.shape)),
            None => {}
        }
    }
    Ok(())
}

fn complete_keys(keys: &[Key], section: &mut Table) {
    for key in keys {
        if let Some(default) = &key.default {
            section.entry(&key.name).or_insert_with(|| default.clone());
        }
        if let Some(value) = section.get_mut(&key.name) {
            key.shape.complete(value);
        }
    }
}

fn missing(key: String, shape: &Shape) -> Fault {
    let what = format!("`{key}` is missing; it must be {}.", shape.allowed());
    Fault { key, what }
}

fn unknown<'a>(place: &str, name: &str, known: impl Iterator<Item = &'a String> + Clone, kind: Option<&str>) -> Fault {
    let advice = match nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.clone().next().is_none() => "no keys are known here.".into(),
        None => format!("known keys here: {}.", known.map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    let section = if place.is_empty() { String::new() } else { format!(" in [{place}]") };
    let kind = kind.map_or(String::new(), |kind| format!(" of kind \"{kind}\""));
    Fault { key: under(place, name), what: format!("unknown key `{name}`{section}{kind}; {advice}") }
}

/// Returns the word that is most like `word`, if one is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let similar = known.map(|known| (strsim::jaro_winkler(word, known), known));
    similar.filter(|(similarity, _)| *similarity > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// Returns the dotted key of `name` in the section `place`.
pub(super) fn under(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

/// Returns "a, b or c".
fn any_of(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "nothing".into(),
    }
}
