//! Public data sets by name: what `preset = "samsum"` stands for, put below the keys that are given.

use toml::{Table, Value};

use super::check::{Fault, nearest};
use super::read::merge;
use crate::error::{Result, bail};

/// The sets with their parts; a section for each.
const PRESETS: &str = include_str!("presets.toml");

/// Fills in the sections of `[data]` that name a preset. Done again, it changes nothing.
pub(super) fn expand(config: &mut Table) -> Result<(), Fault> {
    let sections = config.get_mut("data").and_then(Value::as_table_mut);
    for (name, section) in sections.into_iter().flatten() {
        let Some(section) = section.as_table_mut() else { continue };
        let Some(preset) = section.get("preset").and_then(Value::as_str) else { continue };
        let mut whole = find(preset).map_err(|e| {
            let key = format!("data.{name}.preset");
            Fault { what: format!("`{key}` is \"{preset}\": {e}"), key }
        })?;
        merge(&mut whole, std::mem::take(section));
        *section = whole;
    }
    Ok(())
}

/// The keys of `NAME` or `NAME/PART`; the part is `test` unless it is said.
fn find(preset: &str) -> Result<Table> {
    let mut presets: Table = toml::from_str(PRESETS).expect("the presets are TOML");
    let (name, part) = preset.split_once('/').unwrap_or((preset, "test"));
    let Some(Value::Table(mut keys)) = presets.remove(name) else {
        let known: Vec<&String> = presets.keys().collect();
        let near = nearest(name, presets.keys()).map_or(String::new(), |near| format!(" Did you mean \"{near}\"?"));
        bail!("there is no `{name}`; there are {}.{near}", join(&known));
    };
    let Some(Value::Table(mut parts)) = keys.remove("parts") else { unreachable!("every preset has parts") };
    let Some(path) = parts.remove(part) else {
        let known: Vec<&String> = parts.keys().collect();
        bail!("`{name}` has no part `{part}`; it has {}.", join(&known));
    };
    keys.insert("path".into(), path);
    let (dev, test) = match part {
        "test" => (0.25, 0.75),
        "validation" => (0.2, 0.0),
        _ => (0.0, 0.0),
    };
    keys.insert("dev".into(), dev.into());
    keys.insert("test".into(), test.into());
    Ok(keys)
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::DataConfig;

    fn expanded(text: &str) -> Result<DataConfig, Fault> {
        let mut config: Table = toml::from_str(text).unwrap();
        expand(&mut config)?;
        let once = config.clone();
        expand(&mut config)?;
        assert_eq!(config, once);
        Ok(config["data"]["x"].clone().try_into().unwrap())
    }

    #[test]
    fn every_part_of_every_preset_is_a_section() {
        let presets: Table = toml::from_str(PRESETS).unwrap();
        assert_eq!(presets.len(), 7);
        for (name, preset) in &presets {
            for part in preset["parts"].as_table().unwrap().keys() {
                let data = expanded(&format!("[data.x]\npreset = \"{name}/{part}\"\n")).unwrap();
                assert!(!data.path.is_empty() && !data.origin.is_empty(), "{name}");
                assert!(data.prompt.contains('{') && data.completion.contains('{'), "{name}");
                assert_eq!(data.test > 0.0, part == "test", "{name}");
            }
            assert!(expanded(&format!("[data.x]\npreset = \"{name}\"\n")).unwrap().test == 0.75);
        }
    }

    #[test]
    fn given_keys_win() {
        let data = expanded("[data.x]\npreset = \"samsum\"\npath = \"mine.csv\"\ntest = 0.5\n").unwrap();
        assert_eq!((data.path.as_str(), data.test, data.dev), ("mine.csv", 0.5, 0.25));
        assert_eq!(data.group, "dialogue");
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = expanded("[data.x]\npreset = \"samsun\"\n").unwrap_err().what;
        assert!(
            error.contains("`data.x.preset` is \"samsun\": there is no `samsun`")
                && error.ends_with("Did you mean \"samsum\"?"),
            "{error}"
        );
        let error = expanded("[data.x]\npreset = \"lambada/train\"\n").unwrap_err().what;
        assert!(
            error.contains("no part `train`; it has `validation`, `test`") || error.contains("`test`, `validation`"),
            "{error}"
        );
    }
}
