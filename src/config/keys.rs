//! The tree of the configuration's keys, with their meanings, defaults and allowed values.
//!
//! The tree comes from the types and doc comments of [`Config`], through their JSON Schema. Whatever concerns all keys walks
//! it: checking and completing what was read (`check`), printing it (`print`), the JSON Schema for editors ([`json_schema`])
//! and `docs/configuration.md` (`reference`).

use std::fmt;
use std::sync::LazyLock;

use schemars::generate::{Contract, SchemaSettings};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use super::Config;
use super::check::under;

/// A key of a section.
pub(super) struct Key {
    pub name: String,
    pub doc: String,
    /// What stands for the key where it is not given; of a section, an empty one, to be completed.
    pub default: Option<Value>,
    /// Whether the key may be absent from a complete configuration.
    pub optional: bool,
    pub shape: Shape,
}

/// What a value may be.
pub(super) enum Shape {
    Boolean,
    Number {
        whole: bool,
        range: Range,
    },
    Text,
    /// One of several words, each with its meaning.
    Words(Vec<(String, String)>),
    List {
        item: Box<Shape>,
        least: usize,
        most: usize,
        distinct: bool,
    },
    Section(Vec<Key>),
    /// A section whose other keys depend on its `kind`.
    Kinds {
        kinds: Vec<Kind>,
        default: Option<String>,
    },
    /// Values by name; any name, or one of `names`.
    Named {
        names: Vec<(String, String)>,
        doc: String,
        item: Box<Shape>,
    },
    /// Values of several types, each with its meaning.
    OneOf(Vec<(String, Shape)>),
    Anything,
}

/// The keys of a section of one `kind`, without `kind` itself.
pub(super) struct Kind {
    pub name: String,
    pub doc: String,
    pub keys: Vec<Key>,
}

/// The bounds of a number.
pub(super) struct Range {
    least: Option<f64>,
    above: Option<f64>,
    most: Option<f64>,
    below: Option<f64>,
}

impl Range {
    pub fn contains(&self, x: f64) -> bool {
        x.is_finite()
            && self.least.is_none_or(|bound| x >= bound)
            && self.above.is_none_or(|bound| x > bound)
            && self.most.is_none_or(|bound| x <= bound)
            && self.below.is_none_or(|bound| x < bound)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(least), Some(most)) = (self.least, self.most) {
            return write!(f, " from {least} to {most}");
        }
        let bounds = [("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)];
        let bounds = bounds.iter().filter_map(|(word, bound)| bound.map(|bound| format!("{word} {bound}")));
        let bounds: Vec<String> = bounds.collect();
        match bounds.first() {
            None => Ok(()),
            Some(first) if first.starts_with("at ") => write!(f, " of {}", bounds.join(" and ")),
            Some(_) => write!(f, " {}", bounds.join(" and ")),
        }
    }
}

impl Shape {
    /// Returns whether printed values of this shape have a header of their own.
    pub fn has_header(&self) -> bool {
        match self {
            Self::Section(_) | Self::Kinds { .. } => true,
            Self::Named { item, .. } => item.has_header() || matches!(**item, Self::Anything),
            Self::List { item, .. } => item.has_header(),
            _ => false,
        }
    }

    /// Returns the kind of a section, its default kind where it names none.
    pub fn kind(&self, section: &Table) -> Option<&Kind> {
        let Self::Kinds { kinds, default } = self else { return None };
        let name = section.get("kind").map_or(default.as_deref(), Value::as_str)?;
        kinds.iter().find(|kind| kind.name == name)
    }

    /// Returns the shape of what a section of this shape holds under `name`, of whichever kind the section is.
    pub fn within(&self, name: &str) -> &Self {
        let of = |keys: &'_ [Key]| keys.iter().position(|key| key.name == name);
        match self {
            Self::Section(keys) => of(keys).map_or(&Self::Anything, |at| &keys[at].shape),
            Self::Kinds { kinds, .. } => {
                kinds.iter().find_map(|kind| Some(&kind.keys[of(&kind.keys)?].shape)).unwrap_or(&Self::Anything)
            }
            Self::Named { item, .. } => item,
            _ => &Self::Anything,
        }
    }

    /// Takes a value apart into those of its keys, down to sections of a `kind` and whatever is no section, and gives each to `put`
    /// with its dotted key.
    pub fn dotted(&self, place: &str, value: Value, put: &mut impl FnMut(String, Value)) {
        match (self, value) {
            (Self::Section(_), Value::Table(section)) if !section.is_empty() => {
                for (name, value) in section {
                    self.within(&name).dotted(&under(place, &name), value, put);
                }
            }
            (Self::Named { item, .. }, Value::Table(section)) => {
                section.into_iter().for_each(|(name, value)| item.dotted(&under(place, &name), value, put));
            }
            (_, value) => put(place.to_owned(), value),
        }
    }

    fn read(schema: &Json) -> Self {
        let Some(options) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array) else {
            return Self::read_type(schema);
        };
        let options = options.iter().filter(|option| option["type"] != "null");
        let (words, others): (Vec<&Json>, Vec<&Json>) = options.partition(|option| option["const"].is_string());
        let words = words.iter().map(|word| (string(&word["const"]), string(&word["description"]))).collect::<Vec<_>>();
        if others.is_empty() {
            Self::Words(words)
        } else if words.is_empty() && others.len() == 1 {
            Self::read(others[0])
        } else if others.iter().all(|option| option["properties"].get("kind").is_some()) {
            let kind = |option: &&Json| Kind {
                name: string(&option["properties"]["kind"]["const"]),
                doc: string(&option["description"]),
                keys: read_keys(option),
            };
            let default = schema["default"]["kind"].as_str().map(str::to_owned);
            Self::Kinds { kinds: others.iter().map(kind).collect(), default }
        } else {
            let others = others.iter().map(|option| (string(&option["description"]), Self::read(option)));
            let words = (!words.is_empty()).then(|| (String::new(), Self::Words(words)));
            Self::OneOf(words.into_iter().chain(others).collect())
        }
    }

    fn read_type(schema: &Json) -> Self {
        let kind = &schema["type"];
        let kind = kind.as_array().map_or(kind, |kinds| &kinds[0]).as_str();
        match kind {
            Some("boolean") => Self::Boolean,
            Some("integer" | "number") => {
                let bound = |name: &str| schema[name].as_f64();
                let range = Range {
                    least: bound("minimum"),
                    above: bound("exclusiveMinimum"),
                    most: bound("maximum"),
                    below: bound("exclusiveMaximum"),
                };
                Self::Number { whole: kind == Some("integer"), range }
            }
            Some("string") => Self::Text,
            Some("array") => {
                let length = |name: &str| schema[name].as_u64().map(|length| length as usize);
                Self::List {
                    item: Box::new(Self::read(&schema["items"])),
                    least: length("minItems").unwrap_or(0),
                    most: length("maxItems").unwrap_or(usize::MAX),
                    distinct: schema["uniqueItems"] == true,
                }
            }
            Some("object") if schema.get("additionalProperties").is_some_and(|item| *item != false) => {
                let names = match schema.get("propertyNames").map(Self::read) {
                    Some(Self::Words(names)) => names,
                    _ => Vec::new(),
                };
                let item = &schema["additionalProperties"];
                Self::Named { names, doc: string(&item["description"]), item: Box::new(Self::read(item)) }
            }
            Some("object") => Self::Section(read_keys(schema)),
            _ => Self::Anything,
        }
    }
}

/// Reads the keys of a section, in the order of the fields: a schema of what is written "requires" all of them.
fn read_keys(schema: &Json) -> Vec<Key> {
    let names = schema["required"].as_array().into_iter().flatten().filter(|name| *name != "kind");
    let key = |name: &Json| {
        let (name, schema) = (string(name), &schema["properties"][string(name)]);
        let shape = Shape::read(schema);
        let optional = schema["default"].is_null() && takes_null(schema);
        let default = match &schema["default"] {
            Json::Null => None,
            Json::Object(_) if shape.has_header() => Some(Value::Table(Table::new())),
            default => Some(Value::try_from(default).expect("a value of a key is a value of TOML")),
        };
        Key { name, doc: string(&schema["description"]), default, optional, shape }
    };
    names.map(key).collect()
}

fn takes_null(schema: &Json) -> bool {
    let listed =
        |field: &str, found: &dyn Fn(&Json) -> bool| schema[field].as_array().is_some_and(|all| all.iter().any(found));
    listed("type", &|kind| kind == "null") || listed("anyOf", &|option| option["type"] == "null")
}

/// Returns a text of the schema; doc comments come without their line breaks.
fn string(text: &Json) -> String {
    let paragraphs = text.as_str().unwrap_or_default().split("\n\n");
    paragraphs.map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// The JSON Schema of a complete configuration, with the defaults of every section in the section's keys.
static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.contract = Contract::Serialize;
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    push_defaults_down(&mut schema);
    schema
});

static KEYS: LazyLock<Shape> = LazyLock::new(|| Shape::read(&SCHEMA));

/// Returns the tree of all keys.
pub(super) fn keys() -> &'static Shape {
    &KEYS
}

/// Gives the keys of a section the defaults that the section around it says, instead of those of their type.
fn push_defaults_down(schema: &mut Json) {
    if let Some(Json::Object(defaults)) = schema.get("default").cloned() {
        let options = schema.get_mut("oneOf").and_then(Json::as_array_mut);
        let properties = match options {
            Some(options) => options
                .iter_mut()
                .map(|option| &mut option["properties"])
                .find(|p| p["kind"]["const"] == defaults["kind"]),
            None => schema.get_mut("properties"),
        };
        let properties = properties.and_then(Json::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            property["default"] = defaults[name].clone();
        }
    }
    for_each_part(schema, &mut push_defaults_down);
}

/// Visits the schemas that are parts of a schema.
fn for_each_part(schema: &mut Json, visit: &mut dyn FnMut(&mut Json)) {
    for (name, part) in schema.as_object_mut().into_iter().flatten() {
        match (name.as_str(), part) {
            ("properties", Json::Object(parts)) => parts.values_mut().for_each(&mut *visit),
            ("oneOf" | "anyOf", Json::Array(parts)) => parts.iter_mut().for_each(&mut *visit),
            ("items" | "additionalProperties", part @ Json::Object(_)) => visit(part),
            _ => {}
        }
    }
}

/// Returns the JSON Schema of configuration files, from which editors complete and check them.
pub fn json_schema() -> String {
    /// Requires what has no default only, and leaves out defaults that TOML cannot say.
    fn loosen(schema: &mut Json) {
        let properties = schema.get("properties").cloned().unwrap_or_default();
        if let Some(required) = schema.get_mut("required").and_then(Json::as_array_mut) {
            let has_none = |property: &Json| property.get("default").is_none() && !takes_null(property);
            required.retain(|name| has_none(&properties[string(name)]));
        }
        if schema["default"].is_null() {
            schema.as_object_mut().expect("a schema is an object").remove("default");
        }
        for_each_part(schema, &mut loosen);
    }
    let mut schema = SCHEMA.clone();
    loosen(&mut schema);
    let keys = &mut schema["properties"];
    keys["extends"] =
        json!({ "type": "string", "description": "The file that this one is a change of, relative to it." });
    keys["backbone"]["type"] = json!(["object", "string"]);
    format!("{schema:#}\n")
}
