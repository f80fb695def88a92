//! From file and command line to a validated [`Config`]; errors name file, line and the nearest known key.

use std::path::Path;

use toml::{Table, Value};

use super::presets;
use super::schema::{Config, PretrainConfig};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::rescorer::RescorerConfig;

/// What the command line changes in a file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--set key=value`, dotted keys, in order.
    pub set: Vec<String>,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--device`
    pub device: Option<String>,
}

/// Reads, overrides and validates a configuration. A file that begins with `extends = "other.toml"` (a path relative to its
/// own folder) says only what it changes in that one: sections are merged key by key, but for those of another `kind`;
/// anything else is replaced.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config> {
    let mut table = read_table(path, 0)?;
    let mut set: Vec<&String> = overrides.set.iter().collect();
    set.sort_by_key(|assignment| precedence(assignment.split('=').next().unwrap_or_default().trim()));
    for assignment in set {
        apply(&mut table, assignment)?;
    }
    presets::expand(&mut table).map_err(|e| e.within(path.display()))?;
    let changed = if overrides.set.is_empty() { "as a whole" } else { "after --set" };
    let mut config = read_whole(&table).map_err(|e| e.within(changed).within(path.display()))?;
    if let Some(seed) = overrides.seed {
        config.seed = seed;
    }
    if let Some(device) = &overrides.device {
        config.device.clone_from(device);
    }
    config.validate().map_err(|e| e.within(path.display()))?;
    Ok(config)
}

impl Config {
    /// The resolved file: every key with its value.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has string keys only")
    }
}

/// What the reader says of a section that is chosen by a `kind` and has none.
const NO_KIND: &str = "missing field `kind`";

/// Files that extend each other, at most.
const DEPTH: usize = 8;

/// A file together with what it extends. Its own errors have lines; those of the whole have none that anyone could look up.
fn read_table(path: &Path, depth: usize) -> Result<Table> {
    if depth > DEPTH {
        bail!("{}: `extends` goes on for more than {DEPTH} files; do two of them extend each other?", path.display());
    }
    let text = files::read_text(path)?;
    let here = |error: toml::de::Error, text: &str| explain(&error, text).within(path.display());
    let mut table: Table = toml::from_str(&text).map_err(|e| here(e, &text))?;
    let Some(extended) = table.remove("extends") else {
        // The default kind of heads need not be named; where a kind must be, the whole is refused without it.
        return match toml::from_str::<Config>(&text) {
            Err(error) if error.message() != NO_KIND => Err(here(error, &text)),
            _ => Ok(table),
        };
    };
    let Value::String(extended) = extended else {
        bail!("{}: `extends` must be the path of another configuration, in quotes.", path.display());
    };
    // A part of a section may not stand by itself; a key that nobody knows is wrong in any case.
    let rest: Vec<&str> = text.lines().map(|line| if assigns(line, "extends") { "" } else { line }).collect();
    let rest = rest.join("\n");
    if let Err(error) = toml::from_str::<Config>(&rest)
        && error.message().starts_with("unknown field")
    {
        return Err(here(error, &rest));
    }
    let base = path.parent().unwrap_or(Path::new("")).join(extended);
    let mut whole = read_table(&base, depth + 1).map_err(|e| e.within(path.display()))?;
    merge(&mut whole, table);
    Ok(whole)
}

/// Puts what a configuration leaves open below it: every section has its own defaults, however little of it is given and
/// wherever that comes from (a file, `--set`, a cell of an ablation).
fn with_defaults(given: &Table) -> Table {
    let mut whole = Table::try_from(Config::default()).expect("a configuration is a table");
    merge(&mut whole, given.clone());
    let rescorers = whole.get_mut("rescorer").and_then(Value::as_table_mut).into_iter().flatten();
    for section in rescorers.filter_map(|(_, section)| section.as_table_mut()) {
        // A kind that is not known, or that has no defaults, is left to whoever reads the whole.
        let kind = Table::from_iter(section.get("kind").map(|kind| ("kind".to_owned(), kind.clone())));
        if let Ok(defaults) = kind.try_into::<RescorerConfig>() {
            put_below(section, Table::try_from(defaults).expect("a section is a table"));
        }
    }
    if let Some(section) = whole.get_mut("pretrain").and_then(Value::as_table_mut) {
        put_below(section, Table::try_from(PretrainConfig::default()).expect("a section is a table"));
    }
    whole
}

/// Fills a section up with what it leaves open.
fn put_below(section: &mut Table, mut defaults: Table) {
    merge(&mut defaults, std::mem::take(section));
    *section = defaults;
}

/// Reads a table that is no file: no line of it is anywhere to be looked up, so none is named.
pub(super) fn read_whole(table: &Table) -> Result<Config> {
    let text = with_defaults(table).to_string();
    toml::from_str(&text).map_err(|e| {
        let said = explain(&e, &text).to_string();
        let without = said.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        Error::new(without.map_or(said.as_str(), |(_, what)| what))
    })
}

/// Puts the values of `changes` over those of `base`.
pub(super) fn merge(base: &mut Table, changes: Table) {
    for (key, value) in changes {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(changes)) => {
                if changes.get("kind").is_some_and(|kind| is_other_kind(inner, kind)) {
                    inner.clear();
                }
                merge(inner, changes);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Whether a section is of another kind: its keys are then that kind's alone.
fn is_other_kind(section: &Table, kind: &Value) -> bool {
    section.get("kind").is_some_and(|present| present != kind)
}

/// One `--set`.
fn apply(table: &mut Table, assignment: &str) -> Result<()> {
    let Some((key, value)) = assignment.split_once('=') else {
        bail!("--set {assignment}: write it as key=value, for instance --set heads.block_size=5.");
    };
    // A bare word is a string: nobody wants to quote for TOML inside quotes for the shell.
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    put(table, key.trim(), value).map_err(|e| e.within(format!("--set {assignment}")))
}

/// The place of a dotted key among changes that are made together: another kind takes the keys of the earlier one away, so it
/// comes before keys of its own.
pub(super) fn precedence(key: &str) -> u8 {
    u8::from(!key.ends_with(".kind"))
}

/// Puts a value at a dotted key, through sections that are made if need be. Another `kind` takes what its section held away.
pub(super) fn put(table: &mut Table, key: &str, value: Value) -> Result<()> {
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut inner = table;
    for part in parts {
        let entry = inner.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = entry else {
            bail!("`{part}` is a value, not a section.");
        };
        inner = next;
    }
    if last == "kind" && is_other_kind(inner, &value) {
        inner.clear();
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

/// "line N: message", with the nearest known key where the key is unknown.
fn explain(error: &toml::de::Error, text: &str) -> Error {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten();
    let Some(key) = unknown else {
        let at = error.span().map_or(String::new(), |span| format!("line {}: ", line_of(text, span.start)));
        if message == NO_KIND {
            return Error::new(format!(
                "{at}`kind` is missing; it says which architecture or rescorer the section is."
            ));
        }
        return Error::new(format!("{at}{}", message.trim_end_matches('.')) + ".");
    };
    let known: Vec<&str> = quoted.collect();
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let advice = match nearest {
        Some(nearest) if strsim::jaro_winkler(key, nearest) > 0.75 => format!("did you mean `{nearest}`?"),
        Some(_) => format!("known keys here: {}.", known.join(", ")),
        None => "no keys are known here.".to_owned(),
    };
    // Sections chosen by `kind` report the section's place; the key itself is what the reader looks for.
    let at = error.span().map_or(0, |span| span.start);
    let line = (line_of(text, at)..).zip(text[at.min(text.len())..].lines()).find(|(_, l)| assigns(l, key));
    let line = line.map_or_else(|| line_of(text, at), |(n, _)| n);
    Error::new(format!("line {line}: unknown key `{key}`; {advice}"))
}

fn assigns(line: &str, key: &str) -> bool {
    let line = line.trim_start().trim_start_matches('[');
    line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.', ']']))
        || line.trim_end_matches(']').rsplit('.').next() == Some(key)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::{FfnConfig, HeadArchitecture, MedusaConfig, SpeculatorConfig};

    fn read(text: &str, set: &[&str]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, &Overrides { set: set.iter().map(|s| s.to_string()).collect(), ..Overrides::default() })
    }

    const MINIMAL: &str = "[data.x]\npath = \"x.jsonl\"\n";

    #[test]
    fn the_resolved_file_reads_back_as_itself() {
        let text = format!("{MINIMAL}[rescorer.a]\nkind = \"ngram\"\n[rescorer.b]\nkind = \"neural\"\n[pretrain]\n");
        let config = read(&text, &["heads.block_size=7", "tuning.lm_scales=[0.5]", "name=other"]).unwrap();
        assert_eq!((config.heads.block_size, config.name.as_str()), (7, "other"));
        assert_eq!(config.tuning.scales(), [0.0, 0.5]);
        assert_eq!(read(&config.to_toml(), &[]).unwrap(), config);
        for set in [
            ["heads.architecture={kind=\"ffn\",hidden=7,first_layer=\"shared\"}", "heads.loss_weights={decay=0.8}"],
            ["heads.architecture={kind=\"medusa\"}", "heads.loss_weights=[1, 0.5, 2, 1, 1, 1, 1, 1]"],
            ["heads.architecture={kind=\"linear\"}", "heads.loss_weights=constant"],
        ] {
            let config = read(MINIMAL, &set).unwrap();
            assert_eq!(read(&config.to_toml(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn a_kind_and_its_keys_are_set_in_any_order() {
        let text = format!("{MINIMAL}[heads.architecture]\nkind = \"ffn\"\nhidden = 7\n");
        let (kind, key) = ("heads.architecture.kind=medusa", "heads.architecture.blocks=2");
        let config = read(&text, &[key, kind]).unwrap();
        assert_eq!(config, read(&text, &[kind, key]).unwrap());
        let HeadArchitecture::Medusa(medusa) = config.heads.architecture else { panic!("{config:?}") };
        assert_eq!(medusa.blocks, 2);
    }

    #[test]
    fn a_file_that_extends_another_says_only_what_changes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let load = |name: &str| load(&dir.path().join(name), &Overrides::default());
        write("base.toml", &format!("{MINIMAL}[heads]\nblock_size = 5\n[rescorer.a]\nkind = \"ngram\"\norder = 2\n"));
        write(
            "more.toml",
            "extends = \"base.toml\"\nname = \"more\"\n[rescorer.a]\norder = 4\n[rescorer.b]\nkind = \"lava\"\n",
        );
        let (base, more) = (load("base.toml").unwrap(), load("more.toml").unwrap());
        assert_eq!((more.heads.block_size, more.name.as_str(), more.rescorer.len()), (5, "more", 2));
        assert_ne!(more.rescorer["a"], base.rescorer["a"]);
        assert_eq!(more.data, base.data);
        write(
            "kind.toml",
            "extends = \"base.toml\"\n[heads.architecture]\nkind = \"speculator\"\ninner = 7\n[rescorer.a]\nkind = \"lava\"\n",
        );
        write(
            "base.toml",
            &format!(
                "{MINIMAL}[heads.architecture]\nkind = \"ffn\"\nhidden = 5\n[rescorer.a]\nkind = \"ngram\"\norder = 2\n"
            ),
        );
        let kind = load("kind.toml").unwrap();
        let inner = SpeculatorConfig { inner: 7 };
        assert_eq!(kind.heads.architecture, HeadArchitecture::Speculator(inner));
        assert_eq!(kind.rescorer["a"].kind().map(|kind| kind.name()), Some("lava"));
        write("wrong.toml", "extends = \"base.toml\"\n\n[heads]\nblock_sise = 5\n");
        let error = load("wrong.toml").unwrap_err().to_string();
        assert!(error.ends_with("wrong.toml: line 4: unknown key `block_sise`; did you mean `block_size`?"), "{error}");
        write("loop.toml", "extends = \"loop.toml\"\n");
        assert!(load("loop.toml").unwrap_err().to_string().contains("extend each other"));
        write("none.toml", "extends = \"absent.toml\"\n");
        assert!(load("none.toml").unwrap_err().to_string().contains("absent.toml"));
        write("number.toml", "extends = 3\n");
        assert!(load("number.toml").unwrap_err().to_string().contains("in quotes"));
    }

    #[test]
    fn another_kind_takes_the_keys_of_the_earlier_one_away() {
        let text = format!("{MINIMAL}[heads.architecture]\nkind = \"ffn\"\nhidden = 5\n");
        let architecture = |set: &[&str]| read(&text, set).unwrap().heads.architecture;
        assert_eq!(
            architecture(&["heads.architecture.kind=medusa"]),
            HeadArchitecture::Medusa(MedusaConfig::default())
        );
        let same = FfnConfig { hidden: 5, ..FfnConfig::default() };
        assert_eq!(architecture(&["heads.architecture.kind=ffn"]), HeadArchitecture::Ffn(same));
    }

    /// Every number of the default configuration and of each kind of rescorer, by its dotted key.
    fn numbers(table: &Table, place: &str, found: &mut Vec<(String, Value)>) {
        for (key, value) in table {
            let key = format!("{place}{key}");
            match value {
                Value::Table(inner) => numbers(inner, &format!("{key}."), found),
                Value::Integer(_) | Value::Float(_) => found.push((key, value.clone())),
                _ => {}
            }
        }
    }

    #[test]
    fn a_sections_defaults_are_its_own_however_little_of_it_is_given() {
        let text = format!(
            "{MINIMAL}[rescorer.ngram]\nkind = \"ngram\"\n[rescorer.neural]\nkind = \"neural\"\n[rescorer.transition]\nkind = \"transition\"\n[pretrain]\n"
        );
        let whole = read(&text, &[]).unwrap();
        let mut keys = Vec::new();
        numbers(&Table::try_from(&whole).unwrap(), "", &mut keys);
        keys.retain(|(key, _)| !key.starts_with("data."));
        assert!(keys.len() > 80, "{}", keys.len());
        for (key, value) in keys {
            // The key alone, at its default: nothing else of its section changes.
            assert_eq!(read(&text, &[&format!("{key}={value}")]).unwrap(), whole, "--set {key}");
            let (section, last) = key.rsplit_once('.').unwrap_or(("", &key));
            let line = if section.is_empty() {
                format!("{last} = {value}\n{text}")
            } else {
                format!("{text}\n[{section}]\n{last} = {value}\n")
            };
            // A section that the file has already can be given once only.
            if !text.contains(&format!("[{section}]")) {
                assert_eq!(read(&line, &[]).unwrap(), whole, "in a file: {key}");
            }
            let ablation = format!("{text}[ablation.matrix]\n\"{key}\" = [{value}]\n");
            if !key.starts_with("pretrain.") {
                let grid = read(&ablation, &[]).unwrap().grid().unwrap().unwrap();
                let cell = Config { name: whole.name.clone(), ..grid.cells[0].config.clone() };
                assert_eq!(cell, whole, "a cell: {key}");
            }
        }
        let few = read(&text, &["heads.training.steps=2000", "heads.architecture.hidden=64"]).unwrap();
        assert_eq!(
            (few.heads.training.steps, few.heads.training.learning_rate),
            (2000, whole.heads.training.learning_rate)
        );
        assert_eq!(few.heads.architecture, HeadArchitecture::Ffn(FfnConfig { hidden: 64, ..FfnConfig::default() }));
    }

    #[test]
    fn unknown_keys_are_named_with_line_and_nearest_key() {
        for (text, line, key, nearest) in [
            ("[data.x]\npath = \"a\"\n[heads]\nblock_sise = 3\n", 4, "block_sise", "block_size"),
            ("nam = \"a\"\n", 1, "nam", "name"),
            ("name = \"a\"\n\n[trace]\nmax_new = 3\n", 3, "trace", "traces"),
            ("[rescorer.n]\nkind = \"ngram\"\n\nordr = 2\n", 4, "ordr", "order"),
            ("[heads.training]\nstep = 2\n", 2, "step", "steps"),
            ("[heads.architecture]\nkind = \"ffn\"\nhiden = 2\n", 3, "hiden", "hidden"),
            ("[heads.architecture]\nkind = \"medusa\"\nblock = 2\n", 3, "block", "blocks"),
        ] {
            let error = read(text, &[]).unwrap_err().to_string();
            let expected = format!("c.toml: line {line}: unknown key `{key}`; did you mean `{nearest}`?");
            assert!(error.ends_with(&expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for (text, set, expected) in [
            ("name = 3\n", vec![], "line 1"),
            (MINIMAL, vec!["heads.block_size=1"], "at least 2"),
            (
                MINIMAL,
                vec!["heads.architecture.kind=hydra"],
                "unknown variant `hydra`, expected one of `ffn`, `medusa`",
            ),
            (MINIMAL, vec!["rescorer.x.order=2"], "`kind` is missing"),
            (MINIMAL, vec!["heads.architecture.inner=8"], "unknown key `inner`"),
            (MINIMAL, vec!["heads.architecture={kind=\"linear\",hidden=8}"], "unknown key `hidden`"),
            (MINIMAL, vec!["heads.architecture={kind=\"medusa\",blocks=0}"], "`heads.architecture.blocks` is 0"),
            (MINIMAL, vec!["heads.architecture={kind=\"ffn\",hidden=0}"], "`heads.architecture.hidden` is 0"),
            (MINIMAL, vec!["heads.hidden=8"], "unknown key `hidden`"),
            (MINIMAL, vec!["heads.loss_weights=[1.0, 2.0]"], "2 numbers, but `heads.block_size` = 9 trains 8 heads"),
            (MINIMAL, vec!["heads.block_size=3", "heads.loss_weights=[1.0, -2.0]"], "above 0"),
            (MINIMAL, vec!["heads.loss_weights={decay=0.0}"], "above 0 and at most 1"),
            (MINIMAL, vec!["heads.loss_weights=linear"], "`loss_weights` is \"constant\", { decay = 0.8 }, or a list"),
            (MINIMAL, vec!["data.x.test=2"], "shares"),
            (MINIMAL, vec!["heads"], "key=value"),
            (MINIMAL, vec!["device=gpu"], "no device"),
            (MINIMAL, vec!["device=cpu", "devices=[0, 1]"], "the CPU, all of whose cores"),
            (MINIMAL, vec!["device=cuda", "devices=[0, 0]"], "every GPU once"),
            (MINIMAL, vec!["device=cuda", "devices=[0, 1]"], "`heads.training.accumulate` to a multiple of 2"),
            ("name = \"a\"\n", vec![], "no corpus"),
            ("name = \"a/b\"\n[data.x]\npath = \"x\"\n", vec![], "slashes"),
        ] {
            let error = read(text, &set).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
