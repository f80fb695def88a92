//! The reference of all keys, `docs/configuration.md`.

use super::check::under;
use super::keys::{Key, Kind, Shape, keys};
use super::print::title;

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the doc comments of the configuration's types. Renew it with:
     draftsmith schema --markdown > docs/configuration.md -->

A configuration is a TOML file. Every key has a default unless it is said to be required, so a file holds only what differs;
a section's defaults are its own, however little of the section is given.

- `draftsmith run mine.toml --print-config` prints the complete configuration, which is a configuration again.
- `--set heads.block_size=5` sets a key for one run, by its dotted name; a text needs no quotes. A `kind` is set before the
  keys that belong to it.
- `extends = \"other.toml\"` at the top of a file makes it a change of another, whose path is relative to the file's folder:
  sections are merged key by key, anything else is replaced. Another `kind` takes away what its section held.
- `backbone = \"...\"` is short for `backbone.path`.
- `draftsmith schema > draftsmith.schema.json` writes a JSON Schema, from which editors complete; the line
  `#:schema ./draftsmith.schema.json` at the top of a file tells most of them.

## Top level
";

/// Returns the page.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    section(&mut page, "", "", keys());
    page
}

/// Lists the keys of a section, or what is in each kind of it. `kind` says of which kind the section around it is.
fn section(page: &mut String, place: &str, kind: &str, shape: &Shape) {
    match shape {
        Shape::Section(keys) => list_keys(page, place, kind, keys),
        Shape::Kinds { kinds, default } => {
            let names: Vec<String> = kinds.iter().map(|kind| format!("\"{}\"", kind.name)).collect();
            let default = default.as_ref().map_or("required".into(), |default| format!("default \"{default}\""));
            *page += &format!("\n- `kind`: {}; {default}.\n", names.join(", "));
            for Kind { name, doc, keys } in kinds {
                let kind = format!(" with `kind = \"{name}\"`");
                *page += &format!("\n### `[{place}]`{kind}\n\n{doc}\n");
                list_keys(page, place, &kind, keys);
            }
        }
        _ => {}
    }
}

/// Lists the values of a section, then the sections within.
fn list_keys(page: &mut String, place: &str, kind: &str, keys: &[Key]) {
    let (sections, values): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| key.shape.has_header());
    if !values.is_empty() {
        page.push('\n');
    }
    for key in values {
        *page += &format!("- `{}`: {}. {}\n", key.name, key.says(), key.doc);
        list_meanings(page, &key.shape);
    }
    for key in sections {
        let place = under(place, &key.name);
        let (item, doc) = match &key.shape {
            Shape::List { item, .. } => (&**item, key.doc.clone()),
            Shape::Named { doc, item, .. } if item.has_header() => (&**item, format!("{} {doc}", key.doc)),
            shape => (shape, key.doc.clone()),
        };
        let level = if kind.is_empty() { "##" } else { "###" };
        let optional = if key.optional { "Optional. " } else { "" };
        let title = title(&place, &key.shape);
        *page += &format!("\n{level} `[{title}]`{kind}\n\n{optional}{doc}\n");
        section(page, title.trim_matches(['[', ']']), kind, item);
    }
}

/// Lists what the values of a key mean, where they have meanings of their own.
fn list_meanings(page: &mut String, shape: &Shape) {
    match shape {
        Shape::List { item, .. } => list_meanings(page, item),
        Shape::Words(words) | Shape::Named { names: words, .. } => {
            words.iter().for_each(|(word, doc)| *page += &format!("  - `\"{word}\"`: {doc}\n"));
        }
        Shape::OneOf(options) => {
            for (doc, option) in options {
                match option {
                    Shape::Words(_) => list_meanings(page, option),
                    _ => *page += &format!("  - {}: {doc}\n", option.allowed()),
                }
            }
        }
        _ => {}
    }
}
