//! From files and command line to a validated [`Config`]; errors say where the key was given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::ablation::read_files;
use super::check::{Fault, under};
use super::keys::{Shape, keys};
use super::schema::Config;
use super::{presets, print};
use crate::error::{Error, Result, bail};
use crate::files;

/// What the command line changes in a file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--with FILE`: files laid over the configuration, in order, each as if it extended what is there.
    pub with: Vec<PathBuf>,
    /// `--set key=value`, dotted keys, in order.
    pub set: Vec<String>,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--device`
    pub device: Option<String>,
}

/// Where keys were given.
pub(super) enum Source {
    /// A file, with the line of each dotted key.
    File { path: String, lines: BTreeMap<String, usize> },
    /// A `--set`, with its key.
    Set { assignment: String, key: String },
}

/// Reads, overrides and validates a configuration. A file that begins with `extends = "other.toml"` (a path relative to its
/// own folder) says only what it changes in that one: sections are merged key by key, but for those of another `kind`;
/// anything else is replaced.
///
/// # Errors
/// A key or value that is not allowed; the message names the file and line, or the `--set`, that gave it.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config> {
    let mut sources = Vec::new();
    let mut table = read_table(path, &mut sources, 0)?;
    for file in &overrides.with {
        let changes = read_table(file, &mut sources, 0)?;
        let named = changes.contains_key("name");
        merge(keys(), &mut table, changes);
        if let Some(Value::String(name)) = table.get_mut("name").filter(|_| !named) {
            *name = format!("{name}-{}", file.file_stem().unwrap_or_default().to_string_lossy());
        }
    }
    let mut set: Vec<&String> = overrides.set.iter().collect();
    set.sort_by_key(|assignment| precedence(assignment.split('=').next().unwrap_or_default().trim()));
    for assignment in set {
        let key = apply(&mut table, assignment)?;
        sources.push(Source::Set { assignment: assignment.clone(), key });
    }
    let within = |error: Error, keys: &[&str]| {
        let given = sources.iter().rev().find_map(|source| keys.iter().find_map(|key| source.gives(key)));
        let place = given.or_else(|| place_of(keys.first()?, &sources));
        error.within(place.unwrap_or_else(|| path.display().to_string()))
    };
    let mut config = resolve(table).map_err(|fault| within(Error::new(fault.what), &[&fault.key]))?;
    if let Some(seed) = overrides.seed {
        config.seed = seed;
    }
    if let Some(device) = &overrides.device {
        config.device.clone_from(device);
    }
    config.validate().map_err(|error| {
        let said = error.to_string();
        within(error, &said.split('`').skip(1).step_by(2).collect::<Vec<_>>())
    })?;
    Ok(config)
}

impl Config {
    /// Returns the resolved file: every key with its meaning and value.
    pub fn to_toml(&self) -> String {
        print::to_toml(&Value::try_from(self).expect("a configuration is a table"))
    }
}

/// Checks a table, completes it with the defaults of what it leaves open, and reads it.
pub(super) fn resolve(mut table: Table) -> Result<Config, Fault> {
    presets::expand(&mut table)?;
    write_out(&mut table);
    let mut whole = Value::Table(table);
    keys().check("", &whole)?;
    keys().complete(&mut whole);
    Config::deserialize(whole).map_err(|error| {
        // What texts mean is known to their types alone; the reader's last line names the key.
        let said = error.to_string();
        let key = said.rsplit("in `").next().and_then(|rest| rest.split('`').next()).unwrap_or_default().to_owned();
        Fault { what: format!("`{key}`: {}", error.message()), key }
    })
}

/// Replaces the short form of a section, `backbone = "..."`.
fn write_out(table: &mut Table) {
    if let Some(backbone @ Value::String(_)) = table.get_mut("backbone") {
        *backbone = Value::Table(Table::from_iter([("path".to_owned(), backbone.clone())]));
    }
}

/// Files that extend each other, at most.
const DEPTH: usize = 8;

/// Reads a file together with what it extends.
pub(super) fn read_table(path: &Path, sources: &mut Vec<Source>, depth: usize) -> Result<Table> {
    if depth > DEPTH {
        bail!("{}: `extends` goes on for more than {DEPTH} files; do two of them extend each other?", path.display());
    }
    let text = files::read_text(path)?;
    let syntax = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        Error::new(format!("{}: line {line}: {}.", path.display(), error.message().trim_end_matches('.')))
    };
    let spanned = DeTable::parse(&text).map_err(syntax)?;
    let mut table: Table = toml::from_str(&text).map_err(syntax)?;
    write_out(&mut table);
    read_files(&mut table, path.parent().unwrap_or(Path::new("")))?;
    let mut whole = match table.remove("extends") {
        None => Value::Table(Table::new()),
        Some(Value::String(extended)) => {
            let base = path.parent().unwrap_or(Path::new("")).join(extended);
            Value::Table(read_table(&base, sources, depth + 1).map_err(|e| e.within(path.display()))?)
        }
        Some(_) => bail!("{}: `extends` must be the path of another configuration, in quotes.", path.display()),
    };
    let mut lines = BTreeMap::new();
    find_lines("", spanned.get_ref(), &text, &mut lines);
    sources.push(Source::File { path: path.display().to_string(), lines });
    let Value::Table(merged) = &mut whole else { unreachable!("it was made a table") };
    merge(keys(), merged, table);
    keys().name_kinds(&mut whole);
    let Value::Table(whole) = whole else { unreachable!("it was made a table") };
    Ok(whole)
}

/// Finds the lines of all keys of a file.
fn find_lines(place: &str, table: &DeTable, text: &str, lines: &mut BTreeMap<String, usize>) {
    fn visit(place: String, start: usize, value: &Spanned<DeValue>, text: &str, lines: &mut BTreeMap<String, usize>) {
        match value.get_ref() {
            DeValue::Table(table) => find_lines(&place, table, text, lines),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    visit(format!("{place}[{index}]"), item.span().start, item, text, lines);
                }
            }
            _ => {}
        }
        lines.insert(place, line_of(text, start));
    }
    for (key, value) in table {
        visit(under(place, key.get_ref()), key.span().start, value, text, lines);
    }
}

impl Source {
    /// Returns the place where this source gives a key, or the section that holds it or is held by it.
    fn gives(&self, key: &str) -> Option<String> {
        match self {
            Self::File { path, lines } => lines.get(key).map(|line| format!("{path}: line {line}")),
            Self::Set { assignment, key: set } => {
                let rest = key.strip_prefix(set.as_str()).or_else(|| set.strip_prefix(key))?;
                (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("--set {assignment}"))
            }
        }
    }
}

/// Returns where a dotted key was given last or, where it was not, the section that lacks it.
fn place_of(key: &str, sources: &[Source]) -> Option<String> {
    let around = || key.rfind(['.', '[']).and_then(|end| place_of(&key[..end], sources));
    sources.iter().rev().find_map(|source| source.gives(key)).or_else(around)
}

/// Puts the values of `changes` over those of `base`, a section of this shape. Of values that may be of several types, such as
/// `{ decay = 0.8 }` and `{ exp = 4 }`, the later one stands alone.
pub(super) fn merge(shape: &Shape, base: &mut Table, changes: Table) {
    for (key, value) in changes {
        let of_key = shape.within(&key);
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(changes)) if !matches!(of_key, Shape::OneOf(_)) => {
                if changes.get("kind").is_some_and(|kind| is_other_kind(inner, kind)) {
                    inner.clear();
                }
                merge(of_key, inner, changes);
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

/// Applies a `--set` and returns its key.
fn apply(table: &mut Table, assignment: &str) -> Result<String> {
    let Some((key, value)) = assignment.split_once('=') else {
        bail!("--set {assignment}: write it as key=value, for instance --set heads.block_size=5.");
    };
    // A bare word is a string: nobody wants to quote for TOML inside quotes for the shell.
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    put(table, key.trim(), value).map_err(|e| e.within(format!("--set {assignment}")))?;
    write_out(table);
    Ok(key.trim().to_owned())
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

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::{FfnConfig, HeadArchitecture, LossWeights, MedusaConfig, SpeculatorConfig};

    fn read(text: &str, set: &[&str]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, &Overrides { set: set.iter().map(|s| s.to_string()).collect(), ..Overrides::default() })
    }

    const MINIMAL: &str = "[data.x]\npath = \"x.jsonl\"\n";

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
        let inner = SpeculatorConfig { inner: 7, ..SpeculatorConfig::default() };
        assert_eq!(kind.heads.architecture, HeadArchitecture::Speculator(inner));
        assert_eq!(kind.rescorer["a"].kind().map(|kind| kind.name()), Some("lava"));
        // The weights of losses are of one type or of another.
        write("decay.toml", &format!("{MINIMAL}[heads]\nloss_weights = {{ decay = 0.8 }}\n"));
        write("exp.toml", "extends = \"decay.toml\"\n[heads]\nloss_weights = { exp = 4.0 }\n");
        assert_eq!(load("exp.toml").unwrap().heads.loss_weights, LossWeights::Exp(4.0));
        write("wrong.toml", "extends = \"base.toml\"\n\n[heads]\nblock_sise = 5\n");
        let error = load("wrong.toml").unwrap_err().to_string();
        assert!(
            error.ends_with("wrong.toml: line 4: unknown key `block_sise` in [heads]; did you mean `block_size`?"),
            "{error}"
        );
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
    fn errors_name_place_key_value_and_what_is_allowed() {
        for (text, expected) in [
            ("name = 3\n", "line 1: `name` is 3; it must be a text."),
            ("nam = \"a\"\n", "line 1: unknown key `nam`; did you mean `name`?"),
            ("name = \"a\"\n\n[trace]\nmax_new = 3\n", "line 3: unknown key `trace`; did you mean `traces`?"),
            ("heads = 3\n", "line 1: `heads` is 3; it must be a section."),
            (
                "[data.x]\npath = \"a\"\n[heads]\nblock_sise = 3\n",
                "line 4: unknown key `block_sise` in [heads]; did you mean `block_size`?",
            ),
            ("[heads.training]\nstep = 2\n", "line 2: unknown key `step` in [heads.training]; did you mean `steps`?"),
            ("[heads]\n\ntraining.step = 2\n", "line 3: unknown key `step` in [heads.training]; did you mean `steps`?"),
            ("[heads]\nblock_size = 1\n", "line 2: `heads.block_size` is 1; it must be a whole number of at least 2."),
            (
                "[heads]\nchoose_by = \"dev-los\"\n",
                "line 2: `heads.choose_by` is \"dev-los\"; it must be \"dev-loss\" or \"dev-block-efficiency\". Did you mean \"dev-loss\"?",
            ),
            (
                "[heads]\nloss = { annealled = 3 }\n",
                "line 2: unknown key `annealled` in [heads.loss]; did you mean `annealed`?",
            ),
            (
                "[heads]\nloss = \"one-randon\"\n",
                "line 2: `heads.loss` is \"one-randon\"; it must be \"all\", \"one-random\" or { annealed = a whole number of at least 1 }. Did you mean \"one-random\"?",
            ),
            (
                "[heads]\nloss_weights = [1,\n  0]\n",
                "line 3: `heads.loss_weights[1]` is 0; it must be a number above 0.",
            ),
            (
                "[heads]\nloss_weights = { exp = 0 }\n",
                "line 2: `heads.loss_weights.exp` is 0; it must be a number above 0.",
            ),
            (
                "[heads]\nloss_weights = { dekay = 0.5 }\n",
                "line 2: `heads.loss_weights` is { dekay = 0.5 }; it must be \"constant\", { decay = a number above 0 and at most 1 }, { exp = a number above 0 }, { pace = a number from 0 to 1 } or a list of items, each a number above 0.",
            ),
            (
                "[heads.vocabulary]\nsize = 8\n",
                "line 1: `heads.vocabulary.drafting` is missing; it must be true or false.",
            ),
            (
                "[[heads.phase]]\nsteps = 8\nrate = 1\n",
                "line 3: unknown key `rate` in [heads.phase[0]]; known keys here: steps, data, text, soft_targets, learning_rate, warmup_steps.",
            ),
            ("[heads]\ntext = { gredy = 1 }\n", "line 2: unknown key `gredy` in [heads.text]; did you mean `greedy`?"),
            (
                "[heads.architecture]\nkind = \"ffn\"\nhiden = 2\n",
                "line 3: unknown key `hiden` in [heads.architecture] of kind \"ffn\"; did you mean `hidden`?",
            ),
            (
                "[rescorer.n]\nkind = \"ngram\"\n\nordr = 2\n",
                "line 4: unknown key `ordr` in [rescorer.n] of kind \"ngram\"; did you mean `order`?",
            ),
            (
                "[rescorer.n]\norder = 2\n",
                "line 1: `rescorer.n.kind` is missing; it must be \"ngram\", \"neural\", \"transition\", \"lava\", \"correlation\", \"selector\" or \"sum\".",
            ),
            (
                "[rescorer.n]\nkind = \"ngam\"\n",
                "line 2: `rescorer.n.kind` is \"ngam\"; it must be \"ngram\", \"neural\", \"transition\", \"lava\", \"correlation\", \"selector\" or \"sum\". Did you mean \"ngram\"?",
            ),
            (
                "[traces]\ntrain_text = [\"greedy\", \"greedy\"]\n",
                "line 2: `traces.train_text` is [\"greedy\", \"greedy\"]; it must be a list of one or more different items, each \"greedy\", \"sampled\" or \"corpus\".",
            ),
            ("[data.x]\ndev = inf\n", "line 2: `data.x.dev` is inf; it must be a number from 0 to 1."),
            ("seed = 1\n\n[heads\n", "line 3: "),
        ] {
            let error = read(text, &[]).unwrap_err().to_string();
            let (_, said) = error.split_once("c.toml: ").unwrap();
            assert!(said.starts_with(expected) && (said.len() == expected.len() || expected.ends_with(": ")), "{said}");
            // The same in a text that something else extends.
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("c.toml"), text).unwrap();
            std::fs::write(dir.path().join("d.toml"), "extends = \"c.toml\"\n\n\nname = \"d\"\n").unwrap();
            let error = load(&dir.path().join("d.toml"), &Overrides::default());
            if !text.starts_with("name = 3") {
                assert!(error.unwrap_err().to_string().ends_with(&format!("c.toml: {said}")));
            }
        }
    }

    #[test]
    fn errors_of_set_name_the_assignment() {
        for (set, expected) in [
            ("heads.sizes=1", "unknown key `sizes` in [heads]; known keys here: block_size, architecture,"),
            ("heads.block_size=nine", "`heads.block_size` is \"nine\"; it must be a whole number of at least 2."),
            (
                "heads.architecture.kind=medussa",
                "`heads.architecture.kind` is \"medussa\"; it must be \"ffn\", \"medusa\"",
            ),
            ("heads.architecture={kind=\"medusa\",blocks=0}", "`heads.architecture.blocks` is 0; it must be a whole"),
            (
                "heads.architecture.inner=8",
                "unknown key `inner` in [heads.architecture] of kind \"ffn\"; known keys here",
            ),
            ("rescorer.x.order=2", "`rescorer.x.kind` is missing; it must be"),
            ("heads.vocabulary={size=8}", "`heads.vocabulary.drafting` is missing; it must be true or false."),
            ("tuning.decays=[0.5, 1.5]", "`tuning.decays[1]` is 1.5; it must be a number above 0 and at most 1."),
            ("heads.training.betas=[0.9]", "`heads.training.betas` is [0.9]; it must be a list of 2 items, each"),
            ("drafting.variants=[\"tree-\"]", "`drafting.variants`: "),
            ("drafting.stop=soon", "`drafting.stop`: "),
            ("data.x.preset=samsun", "`data.x.preset` is \"samsun\": there is no `samsun`"),
            (
                "heads.loss_weights=[1.0, 2.0]",
                "`heads.loss_weights` has 2 numbers, but `heads.block_size` = 9 trains 8",
            ),
            (
                "heads.criterion=tv",
                "`heads.criterion` goes by the overlap with the backbone's distribution, but `heads.soft_targets` is 0. Set it to 1.",
            ),
            (
                "heads.criterion=nla",
                "`heads.criterion` is \"nla\"; it must be \"cross-entropy\", \"tv\", \"lk\" or \"lk-hybrid\"",
            ),
            ("seed.x=1", "`seed` is { x = 1 }; it must be a whole number of at least 0."),
            ("heads", "write it as key=value"),
            ("device=gpu", "`device`: "),
            ("devices=[0, 0]", "`devices` is [0, 0]; it must be a list of different items"),
        ] {
            let error = read(MINIMAL, &[set]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--set {set}: {expected}")), "{error}");
        }
        // Where a section is given in the file and a value of it by --set, both are found.
        let text = format!("{MINIMAL}[heads.vocabulary]\ndrafting = true\n");
        let error = read(&text, &["heads.vocabulary.size=1"]).unwrap_err().to_string();
        assert!(error.starts_with("--set heads.vocabulary.size=1: `heads.vocabulary.size` is 1;"), "{error}");
        let error = read(&text, &["name=x"]).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "c.toml: line 3: `heads.vocabulary.size` is missing; it must be a whole number of at least 2."
            ),
            "{error}"
        );
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused() {
        for (text, set, expected) in [
            (MINIMAL, vec!["data.x.test=0.95"], "--set data.x.test=0.95: `data.x.dev` and"),
            (MINIMAL, vec!["device=cpu", "devices=[0, 1]"], "the CPU, all of whose cores"),
            (MINIMAL, vec!["device=cuda", "devices=[0, 1]"], "`heads.training.accumulate` to a multiple of 2"),
            (MINIMAL, vec!["heads.bias={}", "heads.architecture={kind=\"attention\"}"], "take parallel ones"),
            (MINIMAL, vec!["drafting.stop=confidence=0.5"], "ends blocks by the heads' confidence"),
            (MINIMAL, vec!["rescorer.x={kind=\"selector\"}"], "there is no `heads.selector`"),
            (MINIMAL, vec!["heads.selector={}", "heads.bias={}"], "cannot be had with `heads.bias`"),
            (MINIMAL, vec!["heads.selector={}", "heads.loss=one-random"], "`heads.loss` that leaves heads out"),
            (MINIMAL, vec!["heads.selector={}", "heads.architecture={kind=\"mtp\"}"], "or take parallel ones"),
            (MINIMAL, vec!["heads.bias={}", "heads.loss_weights={pace=0.5}"], "Take other weights"),
            (MINIMAL, vec!["heads.loss_weights={pace=0.5}", "heads.loss=one-random"], "`heads.loss` leaves some out"),
            (
                MINIMAL,
                vec!["heads.architecture={kind=\"medusa\",unembedding=\"own\"}", "heads.loss_weights={pace=0.5}"],
                "these heads have their own",
            ),
            ("name = \"a\"\n", vec![], "no corpus"),
            ("name = \"a/b\"\n[data.x]\npath = \"x\"\n", vec![], "c.toml: line 1: `name` is named \"a/b\""),
        ] {
            let error = read(text, &set).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
