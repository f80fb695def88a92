//! `[ablation]`: one configuration, varied; every variation is a cell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Config;
use super::keys::keys;
use super::read::{precedence, put, read_table, resolve};
use crate::error::{Error, Result, bail};
use crate::files;

/// `[ablation]`: the cells are every entry of the list with every combination of the matrix.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AblationConfig {
    /// Lists of values, by dotted key in quotes: `"heads.block_size" = [5, 9]`, `seed = [1, 2, 3]`. Every combination is a cell.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub matrix: Table,
    /// A list of variations: values by dotted key in quotes, as `--set` takes them. `with = "FILE"` lays a file of `heads`, `rescorer`,
    /// `drafting`, `lattice` and `tuning` over the configuration first; its path is relative to this file's folder. `name` is what
    /// tables call the cell, where it is not the file's. With a matrix, every entry is combined with all of the matrix.
    #[schemars(with = "Vec<BTreeMap<String, serde_json::Value>>")]
    pub cell: Vec<Table>,
}

/// The cells of an ablation.
#[derive(Debug)]
pub struct Grid {
    /// What varies: keys of the configuration, and [`Grid::LISTED`] first where there is a list.
    pub axes: Vec<String>,
    /// In the order of the list, then of the matrix's values, its last key fastest.
    pub cells: Vec<Cell>,
}

/// One variation of a configuration.
#[derive(Debug)]
pub struct Cell {
    /// By axis: its value, in words.
    pub values: Vec<String>,
    /// The resolved configuration, without the ablation.
    pub config: Config,
    /// Hash of all of it that can change a result. Cells of one key are one.
    pub key: String,
}

/// Cells, at most: beyond, something was mistyped.
const MOST: usize = 10_000;

/// A value by key, to be put over the configuration.
type Change<'a> = (&'a str, &'a Value);

impl Grid {
    /// The axis of `[[ablation.cell]]`.
    pub const LISTED: &str = "cell";

    /// The axes and values of a cell in a line.
    pub fn words(axes: &[String], values: &[String]) -> String {
        axes.iter().zip(values).map(|(axis, value)| format!("{axis}={value}")).collect::<Vec<_>>().join(", ")
    }
}

impl Config {
    /// The cells of its ablation; none without one.
    ///
    /// # Errors
    /// A cell whose configuration is not valid, which is named; keys that cannot vary; values that look the same.
    pub fn grid(&self) -> Result<Option<Grid>> {
        let Some(ablation) = &self.ablation else { return Ok(None) };
        let matrix = ablation.matrix_axes()?;
        let sizes = matrix.iter().map(|(_, values)| values.len()).chain([ablation.cell.len().max(1)]);
        let count = sizes.fold(1, usize::saturating_mul);
        if count > MOST || (ablation.cell.is_empty() && matrix.is_empty()) {
            bail!(
                "`ablation` makes {}; give `matrix` keys with their values, such as {{ \"heads.block_size\" = [5, 9] }}, or a list of `[[ablation.cell]]`, and at most {MOST} cells.",
                if matrix.is_empty() { "no cell".to_owned() } else { format!("{count} cells") }
            );
        }
        let list = ablation.listed()?;
        let mut axes: Vec<String> = matrix.iter().map(|(key, _)| (*key).to_owned()).collect();
        if !ablation.cell.is_empty() {
            axes.insert(0, Grid::LISTED.to_owned());
        }
        let base = Config { ablation: None, ..self.clone() };
        let mut cells = Vec::with_capacity(count);
        for (name, changes) in &list {
            for combination in combinations(&matrix) {
                let mut values: Vec<String> = combination.iter().map(|(_, value)| words(value)).collect();
                if !ablation.cell.is_empty() {
                    values.insert(0, name.clone());
                }
                let all = changes.iter().chain(&combination).copied();
                let cell = base
                    .varied(all)
                    .map_err(|e| e.within(format!("`ablation`, the cell with {}", Grid::words(&axes, &values))))?;
                let key = cell.result_key();
                let name = format!("{}-{}", self.name, &key[..8]);
                cells.push(Cell { values, config: Config { name, ..cell }, key });
            }
        }
        Ok(Some(Grid { axes, cells }))
    }

    /// This configuration with changes, validated.
    fn varied<'a>(&self, changes: impl Iterator<Item = Change<'a>>) -> Result<Config> {
        let mut table = Table::try_from(self).expect("a configuration is a table");
        let mut changes: Vec<Change> = changes.collect();
        changes.sort_by_key(|(key, _)| precedence(key));
        for (key, value) in changes {
            put(&mut table, key, value.clone()).map_err(|e| e.within(format!("`{key}`")))?;
        }
        let config = resolve(table).map_err(|fault| Error::new(fault.what))?;
        config.validate()?;
        Ok(config)
    }

    /// Hash of everything but the name and where it is computed.
    fn result_key(&self) -> String {
        files::hash_json(&Config { name: String::new(), device: String::new(), devices: Vec::new(), ..self.clone() })
    }
}

/// The sections of a file that a cell lays over its configuration.
const OF_FILE: [&str; 5] = ["heads", "rescorer", "drafting", "lattice", "tuning"];

/// Puts the contents of the files that cells name `with` in their place, as dotted keys. `folder` is that of the configuration.
pub(super) fn read_files(table: &mut Table, folder: &Path) -> Result<()> {
    let cells = table.get_mut("ablation").and_then(|ablation| ablation.get_mut("cell"));
    for cell in cells.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_table_mut) {
        let Some(file) = cell.remove("with") else { continue };
        let Some(file) = file.as_str() else {
            bail!("`[[ablation.cell]]`: `with` must be the path of a file, in quotes.")
        };
        let path = folder.join(file);
        let changes = read_table(&path, &mut Vec::new(), 0).map_err(|e| e.within("`[[ablation.cell]]`: `with`"))?;
        if let Some(key) = changes.keys().find(|key| !OF_FILE.contains(&key.as_str())) {
            bail!(
                "{}: `{key}` has no place in a file that a cell is laid out `with`; it may have {}.",
                path.display(),
                OF_FILE.join(", ")
            );
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cell.entry("name").or_insert(Value::String(name));
        keys().dotted("", Value::Table(changes), &mut |key, value| {
            cell.entry(key).or_insert(value);
        });
    }
    Ok(())
}

impl AblationConfig {
    /// Keys and values of the matrix.
    fn matrix_axes(&self) -> Result<Vec<(&str, &[Value])>> {
        let mut axes = Vec::new();
        for (key, value) in &self.matrix {
            may_vary(key)?;
            match value {
                Value::Array(values) if !values.is_empty() => {
                    let different: BTreeSet<String> = values.iter().map(words).collect();
                    if different.len() < values.len() {
                        bail!("`ablation.matrix`: two values of `{key}` are the same, or look the same in a table.");
                    }
                    axes.push((key.as_str(), values.as_slice()));
                }
                Value::Table(_) => bail!(
                    "`ablation.matrix.{key}` is a section; write a key with its dots in quotes, such as \"heads.block_size\" = [5, 9]."
                ),
                _ => bail!("`ablation.matrix`: `{key}` must be a list of values, such as [1, 2, 3]."),
            }
        }
        Ok(axes)
    }

    /// Names and changes of the list; one without changes where there is no list.
    fn listed(&self) -> Result<Vec<(String, Vec<Change<'_>>)>> {
        let mut list: Vec<(String, Vec<Change>)> = Vec::new();
        for cell in &self.cell {
            let mut changes = Vec::new();
            for (key, value) in cell.iter().filter(|(key, _)| *key != "name") {
                may_vary(key)?;
                if value.is_table() && !key.contains('.') {
                    bail!(
                        "`[[ablation.cell]]`: `{key}` is a section; write a key with its dots in quotes, such as \"heads.block_size\" = 5."
                    );
                }
                changes.push((key.as_str(), value));
            }
            let name = match cell.get("name") {
                Some(Value::String(name)) => name.clone(),
                Some(_) => bail!("`[[ablation.cell]]`: `name` must be a text in quotes."),
                None if changes.is_empty() => "as it is".to_owned(),
                None => {
                    changes.iter().map(|(key, value)| format!("{key}={}", words(value))).collect::<Vec<_>>().join(" ")
                }
            };
            if list.iter().any(|(earlier, _)| *earlier == name) {
                bail!("`[[ablation.cell]]`: two cells are called `{name}`; give each a `name` of its own.");
            }
            list.push((name, changes));
        }
        if list.is_empty() {
            list.push((String::new(), Vec::new()));
        }
        Ok(list)
    }
}

fn may_vary(key: &str) -> Result<()> {
    let section = key.split('.').next().unwrap_or_default();
    if ["name", "device", "devices", "ablation", "pretrain", "extends"].contains(&section) {
        bail!("`ablation` varies `{key}`, which changes no result of a run; vary another key.");
    }
    if section == "data" && key.ends_with(".preset") {
        bail!(
            "`ablation` varies `{key}`, but the preset's other keys are there already; vary the whole section, such as \"data.mine\" = [{{ preset = \"samsum\" }}]."
        );
    }
    Ok(())
}

/// Every combination of the values, the last key fastest; one empty one of no keys.
fn combinations<'a>(axes: &[(&'a str, &'a [Value])]) -> Vec<Vec<Change<'a>>> {
    axes.iter().fold(vec![Vec::new()], |shorter, (key, values)| {
        let longer = |start: &Vec<Change<'a>>| {
            let start = start.clone();
            values.iter().map(move |value| [&start[..], &[(*key, value)]].concat())
        };
        shorter.iter().flat_map(longer).collect()
    })
}

/// A value as tables show it: texts without quotes, of sections the kind before the other keys.
fn words(value: &Value) -> String {
    let joined = |parts: Vec<String>, with: &str| if parts.is_empty() { "none".to_owned() } else { parts.join(with) };
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => joined(values.iter().map(words).collect(), "+"),
        Value::Table(table) => {
            let kind = table.get("kind").map(words);
            let rest = table.iter().filter(|(key, _)| *key != "kind").map(|(key, value)| match value {
                Value::Table(_) => format!("{key}({})", words(value)),
                _ => format!("{key}={}", words(value)),
            });
            joined(kind.into_iter().chain(rest).collect(), " ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::{Overrides, load};
    use crate::heads::{HeadArchitecture, LossWeights};

    fn config(ablation: &str) -> Config {
        let text = format!(
            "name = \"grid\"\n[data.x]\npath = \"x.jsonl\"\n[rescorer.ngram]\nkind = \"ngram\"\n[ablation]\n{ablation}"
        );
        toml::from_str(&text).unwrap()
    }

    fn refused(ablation: &str) -> String {
        config(ablation).grid().unwrap_err().to_string()
    }

    #[test]
    fn cells_are_the_list_times_the_matrix() {
        let text = "matrix = { \"rescorer.ngram.order\" = [2, 3], seed = [7, 8] }
            [[ablation.cell]]
            name = \"small\"
            \"heads.architecture\" = { kind = \"ffn\", hidden = 8 }
            [[ablation.cell]]
            \"heads.architecture.kind\" = \"medusa\"
            \"heads.architecture.blocks\" = 2";
        let grid = config(text).grid().unwrap().unwrap();
        assert_eq!(grid.axes, ["cell", "rescorer.ngram.order", "seed"]);
        let values: Vec<&[String]> = grid.cells.iter().map(|cell| &cell.values[1..]).collect();
        assert_eq!(values[..4], [["2", "7"], ["2", "8"], ["3", "7"], ["3", "8"]]);
        assert_eq!(values[4..], values[..4]);
        assert_eq!(grid.cells[3].values[0], "small");
        assert_eq!(grid.cells[4].values[0], "heads.architecture.blocks=2 heads.architecture.kind=medusa");
        let last = &grid.cells[7].config;
        assert!(matches!(&last.heads.architecture, HeadArchitecture::Medusa(medusa) if medusa.blocks == 2));
        assert_eq!((last.seed, last.ablation.is_none()), (8, true));
        let keys: BTreeSet<&str> = grid.cells.iter().map(|cell| cell.key.as_str()).collect();
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn a_key_knows_what_a_cell_computes_and_nothing_else() {
        let key = |config: &Config| config.grid().unwrap().unwrap().cells[0].key.clone();
        let one = config("matrix = { seed = [5, 6] }");
        let same = Config { name: "other".into(), device: "cpu".into(), seed: 9, ..config("cell = [{ seed = 5 }]") };
        assert_eq!(key(&one), key(&same));
        assert_ne!(key(&one), key(&config("matrix = { seed = [6, 5] }")));
    }

    #[test]
    fn the_resolved_file_has_the_same_cells() {
        let config =
            config("matrix = { \"heads.architecture\" = [{ kind = \"linear\" }, { kind = \"ffn\", hidden = 3 }] }");
        let again: Config = toml::from_str(&config.to_toml()).unwrap();
        let keys =
            |config: &Config| config.grid().unwrap().unwrap().cells.into_iter().map(|c| c.key).collect::<Vec<_>>();
        assert_eq!(keys(&again), keys(&config));
        let grid = config.grid().unwrap().unwrap();
        assert_eq!(grid.cells[1].values, ["ffn hidden=3"]);
    }

    #[test]
    fn files_are_laid_over_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let medusa = write(
            "systems/medusa.toml",
            "[heads]\nloss_weights = { decay = 0.8 }\n[heads.architecture]\nkind = \"medusa\"\nblocks = 2\n[heads.bias]\n
             [rescorer.two]\nkind = \"ngram\"\norder = 2\n[drafting]\nvariants = [\"tree-two\"]",
        );
        let base =
            "name = \"league\"\n[data.x]\npath = \"x.jsonl\"\n[heads.architecture]\nkind = \"ffn\"\nhidden = 8\n";
        let cells = "[[ablation.cell]]\nwith = \"systems/medusa.toml\"\n\"heads.training.steps\" = 7\n
                     [[ablation.cell]]\nname = \"as it is\"\n";
        let league = write("league.toml", &format!("{base}{cells}"));
        let grid = load(&league, &Overrides::default()).unwrap().grid().unwrap().unwrap();
        assert_eq!(grid.cells.iter().map(|cell| cell.values[0].as_str()).collect::<Vec<_>>(), ["medusa", "as it is"]);
        let found = &grid.cells[0].config;
        assert!(matches!(&found.heads.architecture, HeadArchitecture::Medusa(medusa) if medusa.blocks == 2));
        assert_eq!((found.heads.training.steps, found.rescorer.len()), (7, 1));
        assert_eq!((found.heads.loss_weights.clone(), found.heads.bias.is_some()), (LossWeights::Decay(0.8), true));
        // The same on the command line.
        let plain = write("base.toml", base);
        let overrides = Overrides { with: vec![medusa], ..Overrides::default() };
        let found = load(&plain, &overrides).unwrap();
        assert_eq!(found.name, "league-medusa");
        assert_eq!(found.drafting.variants[0].to_string(), "tree-two");
        // What is no part of a system.
        write("systems/medusa.toml", "[data.y]\npath = \"y.jsonl\"");
        let error = load(&league, &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("medusa.toml: `data` has no place"), "{error}");
        let missing = write("missing.toml", &format!("{base}[[ablation.cell]]\nwith = \"none.toml\""));
        let error = load(&missing, &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("none.toml") && error.contains("`with`"), "{error}");
    }

    #[test]
    fn what_cannot_be_a_cell_is_refused_by_name() {
        for (text, expected) in [
            ("", "no cell"),
            ("matrix = { seed = [] }", "must be a list"),
            ("matrix = { seed = 3 }", "`seed` must be a list"),
            ("matrix = { seed = [3, 3] }", "look the same"),
            ("matrix = { heads.block_size = [3, 4] }", "in quotes"),
            ("matrix = { \"data.x.preset\" = [\"samsum\"] }", "vary the whole section"),
            ("matrix = { name = [\"a\"] }", "`name`, which changes no result"),
            ("matrix = { \"heads.block_size\" = [9, 1] }", "the cell with heads.block_size=1: `heads.block_size` is 1"),
            (
                "matrix = { \"heads.block_sise\" = [9] }",
                "unknown key `block_sise` in [heads]; did you mean `block_size`?",
            ),
            ("matrix = { \"seed.x\" = [9] }", "`seed` is a value, not a section"),
            ("cell = [{ seed = 1 }, { seed = 1 }]", "two cells are called `seed=1`"),
            ("cell = [{ name = 3 }]", "must be a text"),
            ("cell = [{ heads = { block_size = 3 } }]", "in quotes"),
        ] {
            let error = refused(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let many: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let many = many.join(", ");
        let error = refused(&format!("matrix = {{ seed = [{many}], \"lattice.top_k\" = [{many}] }}"));
        assert!(error.contains("40000 cells"), "{error}");
        let pairs: Vec<String> = (0..64).map(|n| format!("\"heads.k{n}\" = [1, 2]")).collect();
        let error = refused(&format!("matrix = {{ {} }}", pairs.join(", ")));
        assert!(error.contains("at most 10000 cells"), "{error}");
    }
}
