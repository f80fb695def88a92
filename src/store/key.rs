//! The keys of artefacts. A key holds everything that an artefact depends on, and can be hashed and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files;
use crate::shard::Shard;

/// The version of the format of artefacts, to be raised when the same key begins to give other bytes.
const FORMAT: u32 = 1;

/// Everything that an artefact depends on, together with the hash of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The hash of all other fields, in hexadecimal.
    hash: String,
    #[serde(flatten)]
    parts: Parts,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Parts {
    /// The version of the program and of the format. Another version makes another artefact.
    program: String,
    /// The kind of artefact, such as `heads`.
    kind: String,
    /// The settings, under their names in the configuration.
    settings: Value,
    /// The hashes of the artefacts that this one is made from, each under the artefact's name.
    inputs: BTreeMap<String, String>,
}

impl Key {
    /// Makes the key of an artefact of the given kind, which is determined by `settings` and by `inputs`, the names and
    /// keys of other artefacts.
    pub fn new<'a>(
        kind: &str,
        settings: &impl Serialize,
        inputs: impl IntoIterator<Item = (&'a str, &'a Self)>,
    ) -> Self {
        let parts = Parts {
            program: format!("{} format {FORMAT}", env!("CARGO_PKG_VERSION")),
            kind: kind.to_owned(),
            settings: serde_json::to_value(settings).expect("settings of artefacts are JSON"),
            inputs: inputs.into_iter().map(|(name, key)| (name.to_owned(), key.hash.clone())).collect(),
        };
        Self { hash: files::hash_json(&parts), parts }
    }

    /// Returns the key of a shard of the artefact: everything that the whole depends on, and which shard it is.
    pub fn shard(&self, shard: Shard) -> Self {
        let mut parts = Parts { kind: "shards".to_owned(), ..self.parts.clone() };
        if let Value::Object(settings) = &mut parts.settings {
            settings.extend([("shard".into(), shard.to_string().into()), ("of".into(), self.kind().into())]);
        }
        Self { hash: files::hash_json(&parts), parts }
    }

    /// Returns the kind of artefact, which is also the name of its folder in the store.
    pub fn kind(&self) -> &str {
        &self.parts.kind
    }

    /// Returns the hash of everything in the key, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the first 12 characters of the hash, which name the artefact's folder.
    pub fn short(&self) -> &str {
        &self.hash[..12]
    }

    /// Returns the differences between this key and `other`, in the order of their names.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (mut here, mut there) = (self.flat(), other.flat());
        let names: BTreeSet<String> = here.keys().chain(there.keys()).cloned().collect();
        let differing = names.into_iter().filter_map(|name| {
            let (here, there) = (here.remove(&name), there.remove(&name));
            (here != there).then_some(Difference { name, here, there })
        });
        differing.collect()
    }

    /// Returns every single value under its dotted name.
    fn flat(&self) -> BTreeMap<String, Part> {
        let mut flat = BTreeMap::new();
        flatten(String::new(), &self.parts.settings, &mut flat);
        let inputs = self.parts.inputs.iter().map(|(name, hash)| (name.clone(), Part::Input(hash.clone())));
        flat.extend(inputs);
        flat.insert("program".to_owned(), Part::Setting(self.parts.program.clone().into()));
        flat
    }
}

/// A name to which two keys give different values.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    name: String,
    here: Option<Part>,
    there: Option<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Setting(Value),
    /// The hash of an artefact.
    Input(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, here, there } = self;
        match (here, there) {
            (Some(Part::Input(_)), Some(_)) => write!(f, "other {name}"),
            (Some(Part::Input(_)), None) => write!(f, "{name} added"),
            (None, Some(Part::Input(_))) => write!(f, "{name} left out"),
            _ => write!(f, "{name} = {} (there {})", words(here.as_ref()), words(there.as_ref())),
        }
    }
}

/// Returns a setting as text, which is cut off if it is long.
fn words(part: Option<&Part>) -> String {
    const MOST: usize = 40;
    let Some(Part::Setting(value)) = part else { return "none".to_owned() };
    let text = value.to_string();
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

/// Adds the values in `value` to `flat`. Their dotted names begin with `name`.
fn flatten(name: String, value: &Value, flat: &mut BTreeMap<String, Part>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(name, value, flat);
            }
        }
        _ => {
            flat.insert(name, Part::Setting(value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_settings_and_inputs() {
        let (one, two) = (Key::new("traces", &1, []), Key::new("traces", &2, []));
        let heads = |steps: u32, kind: &str, trace| {
            let settings = json!({"heads": {"training": {"steps": steps}, "kind": kind}, "seed": 7});
            Key::new("heads", &settings, [("traces/tales-train", trace)])
        };
        let (first, second) = (heads(100, "ffn", &one), heads(200, "ffn", &two));
        let words: Vec<String> = second.differences(&first).iter().map(ToString::to_string).collect();
        assert_eq!(words, ["heads.training.steps = 200 (there 100)", "other traces/tales-train"]);
        assert_ne!(first.hash(), second.hash());
        assert_eq!(first, heads(100, "ffn", &one));
        assert!(first.differences(&first).is_empty());
        let without = Key::new("heads", &json!({"seed": 7}), []);
        let words: Vec<String> = without.differences(&first).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "heads.kind = none (there \"ffn\")",
                "heads.training.steps = none (there 100)",
                "traces/tales-train left out"
            ]
        );
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = Key::new("heads", &json!({"rate": 1e-3}), []);
        assert_eq!(serde_json::from_str::<Key>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
    }
}
