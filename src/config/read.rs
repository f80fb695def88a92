//! From file and command line to a validated [`Config`]; errors name file, line and the nearest known key.

use std::path::Path;

use toml::{Table, Value};

use super::presets;
use super::schema::Config;
use crate::error::{Error, Result, bail};
use crate::files;

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
    for assignment in &overrides.set {
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
        toml::from_str::<Config>(&text).map_err(|e| here(e, &text))?;
        return Ok(table);
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

/// Reads a table that is no file: no line of it is anywhere to be looked up, so none is named.
pub(super) fn read_whole(table: &Table) -> Result<Config> {
    let text = table.to_string();
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
        if message == "missing field `kind`" {
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
    use crate::config::{FfnConfig, HeadArchitecture, MedusaConfig, SpeculatorConfig};

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
            (MINIMAL, vec!["heads.architecture.hidden=8"], "`kind` is missing"),
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
