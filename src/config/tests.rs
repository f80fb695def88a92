//! All keys, by the tree of keys: printed, documented, and the same wherever they are given.

use std::path::Path;

use toml::{Table, Value};

use super::check::under;
use super::keys::{Key, Shape, keys};
use super::read::put;
use super::{Config, Overrides, load, reference};
use crate::error::Result;

/// A configuration with a rescorer of every kind that any heads can have, heads of the kind `architecture`, and every optional section.
fn with_everything(architecture: &str) -> Table {
    let text = format!(
        "[data.x]\npath = \"x.jsonl\"\n[heads.architecture]\nkind = \"{architecture}\"\n\
         [heads.vocabulary]\nsize = 8\ndrafting = true\n[[heads.phase]]\nsteps = 200\n[pretrain]\n[ablation.matrix]\nseed = [1]\n\
         [rescorer.sum]\nof = [\"ngram\", \"lava\"]\n"
    );
    let mut table: Table = toml::from_str(&text).unwrap();
    let Shape::Named { item, .. } = shape_of("rescorer") else { panic!("rescorers have names") };
    for kind in kinds(item).filter(|kind| *kind != "selector") {
        put(&mut table, &format!("rescorer.{kind}.kind"), Value::String(kind.into())).unwrap();
    }
    table
}

/// The same with what parallel heads alone can have.
fn with_selector() -> Table {
    let mut table = with_everything("ffn");
    put(&mut table, "heads.selector", Table::new().into()).unwrap();
    put(&mut table, "rescorer.selector.kind", Value::String("selector".into())).unwrap();
    table
}

fn shape_of(key: &str) -> &'static Shape {
    key.split('.').fold(keys(), |shape, name| {
        let Shape::Section(keys) = shape else { panic!("{key} is in no section") };
        &keys.iter().find(|key| key.name == name).unwrap().shape
    })
}

fn kinds(shape: &'static Shape) -> impl Iterator<Item = &'static str> {
    let Shape::Kinds { kinds, .. } = shape else { panic!("there are no kinds") };
    kinds.iter().map(|kind| kind.name.as_str())
}

fn read(table: &Table, set: &[String]) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, table.to_string()).unwrap();
    load(&path, &Overrides { set: set.to_vec(), ..Overrides::default() })
}

/// All keys of a complete value, with their dotted names.
fn all_keys<'a>(shape: &'a Shape, place: &str, value: &Value, found: &mut Vec<(String, &'a Key)>) {
    let Value::Table(section) = value else { return };
    let keys = match shape {
        Shape::Section(keys) => keys,
        Shape::Kinds { .. } => &shape.kind(section).unwrap().keys,
        Shape::Named { item, .. } => {
            section.iter().for_each(|(name, value)| all_keys(item, &under(place, name), value, found));
            return;
        }
        _ => return,
    };
    for key in keys {
        let place = under(place, &key.name);
        if let Some(value) = section.get(&key.name) {
            all_keys(&key.shape, &place, value, found);
        }
        found.push((place, key));
    }
}

/// The keys of everything, each with a configuration that it belongs to.
fn everywhere() -> Vec<(Table, Config, String, &'static Key)> {
    let mut all = Vec::new();
    let dependent = ["heads.architecture.", "heads.selector.", "rescorer.selector."];
    for base in kinds(shape_of("heads.architecture")).map(with_everything).chain([with_selector()]) {
        let whole = read(&base, &[]).unwrap();
        let mut found = Vec::new();
        all_keys(keys(), "", &Value::try_from(&whole).unwrap(), &mut found);
        // Most keys do not depend on the kind.
        found.retain(|(place, _)| all.is_empty() || dependent.iter().any(|of| place.starts_with(of)));
        all.extend(found.into_iter().map(|(place, key)| (base.clone(), whole.clone(), place, key)));
    }
    assert!(all.len() > 150, "{}", all.len());
    all
}

/// The configuration by `--set`, by the file, and by a cell of an ablation where the key can vary.
fn three_ways(base: &Table, whole: &Config, key: &str, value: &Value) -> Vec<Result<Config>> {
    let mut changed = base.clone();
    put(&mut changed, key, value.clone()).unwrap();
    let mut ways = vec![read(base, &[format!("{key}={value}")]), read(&changed, &[])];
    let mut varied = base.clone();
    varied.remove("ablation");
    put(
        &mut varied,
        "ablation.cell",
        Value::Array(vec![Value::Table(Table::from_iter([(key.to_owned(), value.clone())]))]),
    )
    .unwrap();
    let fixed = ["name", "device", "devices", "ablation", "pretrain"];
    let section = value.is_table() && !key.contains('.');
    if !section && !fixed.contains(&key.split('.').next().unwrap()) && !key.ends_with(".preset") {
        ways.push(read(&varied, &[]).map(|config| {
            let cell = config.grid().unwrap().unwrap().cells.remove(0).config;
            Config { name: whole.name.clone(), ablation: whole.ablation.clone(), ..cell }
        }));
    }
    ways
}

#[test]
fn a_key_at_its_default_changes_nothing_wherever_it_is_given() {
    let mut defaults = 0;
    for (base, whole, key, of) in everywhere() {
        // What the base gives is given again; everything else is at its default.
        let Some(value) = value_of(&whole, &key) else { continue };
        defaults += usize::from(of.default.as_ref() == Some(&value));
        for (way, config) in three_ways(&base, &whole, &key, &value).into_iter().enumerate() {
            let config = config.unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
            assert_eq!(config.to_toml(), whole.to_toml(), "{key} = {value}, way {way}");
        }
    }
    assert!(defaults > 120, "{defaults}");
}

fn value_of(config: &Config, key: &str) -> Option<Value> {
    let whole = Value::try_from(config).unwrap();
    key.split('.').try_fold(&whole, |value, name| value.get(name)).cloned()
}

/// Another value than `value`; whether it is valid is not known.
fn other(shape: &Shape, value: Option<&Value>) -> Value {
    match (shape, value) {
        (Shape::Boolean, Some(value)) => Value::Boolean(value == &Value::Boolean(false)),
        (Shape::Number { .. }, Some(Value::Integer(number))) => Value::Integer(number + 1),
        (Shape::Number { .. }, Some(Value::Float(number))) => {
            Value::Float(if *number == 0.0 { 0.5 } else { number / 2.0 })
        }
        (Shape::Number { .. }, None) => Value::Integer(8),
        (Shape::Words(words), value) => {
            let other = words.iter().find(|(word, _)| value.and_then(Value::as_str) != Some(word)).unwrap();
            Value::String(other.0.clone())
        }
        (Shape::List { .. }, Some(Value::Array(items))) if !items.is_empty() => Value::Array(items[1..].to_vec()),
        (Shape::List { item, .. }, _) => Value::Array(vec![other(item, None)]),
        (Shape::OneOf(options), _) => other(&options.last().unwrap().1, None),
        (Shape::Named { names, item, .. }, _) => Table::from_iter([(names[0].0.clone(), other(item, None))]).into(),
        (Shape::Section(keys), _) => {
            keys.iter().map(|key| (key.name.clone(), other(&key.shape, None))).collect::<Table>().into()
        }
        _ => Value::String("other".into()),
    }
}

#[test]
fn another_value_is_the_same_wherever_it_is_given() {
    let (mut accepted, mut refused) = (0, 0);
    for (base, whole, key, of) in everywhere() {
        if of.shape.has_header() {
            continue;
        }
        let value = other(&of.shape, value_of(&whole, &key).as_ref());
        let ways = three_ways(&base, &whole, &key, &value);
        match &ways[0] {
            Ok(config) => {
                assert_ne!(config, &whole, "{key} = {value}");
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
        for way in &ways[1..] {
            assert_eq!(
                way.as_ref().ok().map(Config::to_toml),
                ways[0].as_ref().ok().map(Config::to_toml),
                "{key} = {value}"
            );
        }
    }
    assert!(accepted > 100 && refused < accepted / 2, "{accepted} and {refused}");
}

#[test]
fn the_resolved_file_explains_every_key_and_reads_back_as_itself() {
    for (_, whole, key, of) in everywhere() {
        let printed = whole.to_toml();
        let parsed = Value::Table(toml::from_str(&printed).unwrap());
        let given = key.split('.').try_fold(&parsed, |value, name| value.get(name)).cloned();
        let last = key.rsplit('.').next().unwrap();
        let absent =
            if of.shape.has_header() { vec![format!("{key}]"), format!("{key}]]")] } else { vec![last.into()] };
        let said = given.is_some() && (of.shape.has_header() || given == value_of(&whole, &key));
        let absent = absent.iter().any(|absent| printed.contains(&format!("{absent} is not set.")));
        assert!(said || absent, "{key}: {given:?}");
        let first: Vec<&str> = of.doc.split_whitespace().take(5).collect();
        assert!(printed.contains(&format!("# {}", first.join(" "))) || ["data", "rescorer"].contains(&&*key), "{key}");
        assert!(of.doc.ends_with(['.', ')']), "{key}: {}", of.doc);
    }
    for architecture in kinds(shape_of("heads.architecture")) {
        let mut base = with_everything(architecture);
        put(&mut base, "heads.text", toml::from_str::<Table>("greedy = 2").unwrap().into()).unwrap();
        put(&mut base, "heads.loss", toml::from_str::<Table>("annealed = 2").unwrap().into()).unwrap();
        put(&mut base, "data.x.prompt", Value::String("a\n\"b\"\\ {c} # '''".into())).unwrap();
        let strange: Table = toml::from_str("[\"a b.c\"]\nkind = \"lava\"\n[\"\\\"\"]\nkind = \"ngram\"").unwrap();
        let Some(Value::Table(rescorers)) = base.get_mut("rescorer") else { panic!() };
        rescorers.extend(strange);
        put(
            &mut base,
            "ablation.cell",
            Value::Array(vec![toml::from_str::<Table>("name = \"a\"\n\"heads.block_size\" = 5").unwrap().into()]),
        )
        .unwrap();
        let config = read(&base, &[]).unwrap();
        let printed = config.to_toml();
        let again = read(&toml::from_str(&printed).unwrap(), &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.to_toml(), printed);
    }
    let least = read(&toml::from_str("[data.x]\npath = \"x\"").unwrap(), &[]).unwrap();
    for absent in ["# [heads.vocabulary] is not set.", "# [[heads.phase]] is not set.", "# [rescorer.NAME] is not set."]
    {
        assert!(least.to_toml().contains(absent), "{absent}");
    }
    assert_eq!(read(&toml::from_str(&least.to_toml()).unwrap(), &[]).unwrap(), least);
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == reference(),
        "docs/configuration.md is out of date; renew it with `cargo run -- schema --markdown > docs/configuration.md`"
    );
}
