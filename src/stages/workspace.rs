//! The workspace of a run: its folder, its inputs, and the making of its parts.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Corpus, Graph, Inputs, Reach};
use crate::backbone::{Backbone, Feature, resolve_draft};
use crate::config::Config;
use crate::device::Opened;
use crate::error::{Result, bail};
use crate::evaluation::Known;
use crate::export;
use crate::files;
use crate::heads::{FrozenHeads, hash_heads, heads_folder, load_heads};
use crate::progress;
use crate::rescorer::RescorerConfig;
use crate::store::{self, Artefact, Store};

/// The folder of all runs, and the command that asks for them.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The folder of all runs, such as `runs`.
    pub folder: PathBuf,
    /// The command line that asks for the runs. It is recorded in their provenance.
    pub command: Vec<String>,
}

impl Runs {
    /// Returns the folder of the run called `name`.
    pub fn run(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the folder of the store, which has the artefacts of all runs.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }
}

/// A run, with its configuration, device, folder, inputs and artefacts. Only one process at a time works on the folder
/// of a run, or several that make shards of its traces.
pub struct Workspace {
    /// The resolved configuration.
    pub config: Config,
    /// The device that tensors are kept on.
    pub device: Opened,
    /// The folder of all runs, and the command that asked for this one.
    pub runs: Runs,
    /// The folder of the run: `runs/<name>`, or a folder two levels below it for a cell or for heads that were made
    /// elsewhere.
    pub folder: PathBuf,
    /// The backbone and the corpora.
    pub inputs: Inputs,
    /// The graph of the artefacts that the run is made of.
    pub graph: Graph,
    /// The store that has the artefacts.
    pub store: Store,
    /// The states of the backbone that something reads, in ascending order.
    pub features: Vec<Feature>,
    /// The folder of the heads, if they come from elsewhere.
    pub given_heads: Option<PathBuf>,
    /// The findings of the evaluations in this process so far.
    pub known: Known,
    /// Whether the run is a cell of an ablation, for which fewer messages are shown.
    is_cell: bool,
    _lock: Option<File>,
}

/// What a cell of an ablation has in common with others.
pub struct Shared {
    /// The backbone and the corpora.
    pub inputs: Inputs,
    /// The states of the backbone that cells with the same traces read, in ascending order. Each of them keeps all of these, so that
    /// one pass over the text makes them.
    pub columns: Vec<Feature>,
    /// The candidates that all cells together need.
    pub reach: Reach,
    /// The findings of the evaluations in this process so far.
    pub known: Known,
}

impl Shared {
    /// Returns the states of the backbone that any of some cells reads, all on the same inputs. Those of a cell that does not suit the
    /// backbone are left out, as it will fail.
    pub fn columns<'a>(cells: impl Iterator<Item = &'a Config>, inputs: &Inputs) -> Vec<Feature> {
        let of_all: BTreeSet<Feature> = cells.filter_map(|config| features_of(config, inputs).ok()).flatten().collect();
        of_all.into_iter().collect()
    }
}

impl Workspace {
    /// Opens the run in `runs/<name>`, loads the backbone and reads the corpora.
    ///
    /// If `heads` is set, or else `heads.from`, it names heads that were made elsewhere. They are then evaluated and none
    /// are trained, and the folder of the run is `runs/<name>/other-heads/<hash>`.
    ///
    /// # Errors
    /// Fails if another process works on the folder, if the inputs or the given heads cannot be read, or if the
    /// configuration does not fit them.
    pub fn open(config: Config, device: Opened, runs: Runs, heads: Option<&Path>) -> Result<Self> {
        let lock = files::lock(&runs.run(&config.name))?;
        let store = Store::open(runs.store())?;
        let workspace = Self::new(config, device, runs, heads, (store, Some(lock)))?;
        workspace.describe()?;
        Ok(workspace)
    }

    /// Opens the run like [`Workspace::open`], but together with other processes that make shards of its traces.
    ///
    /// # Errors
    /// Fails if another process has the folder alone, if the inputs cannot be read, or if the configuration does not fit them.
    pub fn open_shared(config: Config, device: Opened, runs: Runs) -> Result<Self> {
        // What others left unfinished is not removed: they may be at work on another machine.
        let lock = files::share(&runs.run(&config.name), || true)?;
        let store = Store::open(runs.store())?;
        let workspace = Self::new(config, device, runs, None, (store, Some(lock)))?;
        workspace.describe()?;
        Ok(workspace)
    }

    /// Opens the run like [`Workspace::open`], but for work that writes nothing: no folder is made, and none is locked.
    ///
    /// # Errors
    /// Fails if the inputs cannot be read, or if the configuration does not fit them.
    pub fn look(config: Config, device: Opened, runs: Runs) -> Result<Self> {
        let store = Store::look(runs.store());
        Self::new(config, device, runs, None, (store, None))
    }

    fn new(
        config: Config,
        device: Opened,
        runs: Runs,
        heads: Option<&Path>,
        (store, lock): (Store, Option<File>),
    ) -> Result<Self> {
        if let Some(note) = &device.note {
            progress::say(note);
        }
        let inputs = Inputs::read(&config, &device.device)?;
        let from = Some(Path::new(&config.heads.from)).filter(|from| !from.as_os_str().is_empty());
        let given_heads = heads.or(from).map(|heads| given(heads, &inputs.backbone, &runs)).transpose()?;
        let given = given_heads.as_deref().map(hash_heads).transpose()?;
        // Unsuitable heads are refused here, before anything of the run is written.
        let loaded = given_heads.as_deref().map(|heads| load_heads(heads, &inputs.backbone, config.heads.binding()));
        let features = match loaded.transpose()? {
            Some(heads) => {
                check_states(&config, heads.state_width(), &inputs)?;
                config.check_confidence(heads.knows_confidence())?;
                say_block_size(&heads, config.heads.block_size);
                features(heads.features(), &inputs)?
            }
            None => features_of(&config, &inputs)?,
        };
        let graph = Graph::new(&config, &inputs, Reach::of(&config), &features, given.as_deref())?;
        let mut folder = runs.run(&config.name);
        if given.is_some() {
            folder = folder.join("other-heads").join(graph.heads.key.short());
        }
        let (known, is_cell, _lock) = (Known::default(), false, lock);
        Ok(Self { config, device, runs, folder, inputs, graph, store, features, given_heads, known, is_cell, _lock })
    }

    /// Makes the workspace of a cell of an ablation, without writing anything.
    ///
    /// # Errors
    /// Fails if the heads ask for states that the backbone does not have, or if [`Graph::new`] fails.
    pub fn cell(
        config: Config,
        device: Opened,
        (runs, folder): (Runs, PathBuf),
        store: Store,
        Shared { inputs, columns, reach, known }: Shared,
    ) -> Result<Self> {
        let features = features_of(&config, &inputs)?;
        let graph = Graph::new(&config, &inputs, reach, &columns, None)?;
        let (given_heads, is_cell, _lock) = (None, true, None);
        Ok(Self { config, device, runs, folder, inputs, graph, store, features, given_heads, known, is_cell, _lock })
    }

    /// Returns the frozen model.
    pub fn backbone(&self) -> &Backbone {
        &self.inputs.backbone
    }

    /// Returns the corpora, in the order of the configuration.
    pub fn corpora(&self) -> &[Corpus] {
        &self.inputs.corpora
    }

    /// Returns whether the report is finished.
    pub fn is_evaluated(&self) -> bool {
        self.store.is_finished(&self.graph.evaluation.key)
    }

    /// Writes `run.toml` and `provenance.json` to the folder of the run.
    ///
    /// # Errors
    /// Fails if the folder cannot be written to.
    pub fn describe(&self) -> Result<()> {
        files::write_atomic(&self.folder.join("run.toml"), self.config.to_toml().as_bytes())?;
        let mut provenance = self.provenance();
        provenance.insert("started".into(), json!(jiff::Timestamp::now().to_string()));
        files::write_json(&self.folder.join("provenance.json"), &provenance)
    }

    /// Makes an artefact, unless it is finished, and returns its folder, which `make` fills. A link to it is first put
    /// into the folder of the run.
    ///
    /// # Errors
    /// Fails if `make` fails, or if the link cannot be made.
    pub fn make(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.begin(artefact)?;
        self.store.make(artefact, make)?;
        Ok(self.store.place(&artefact.key))
    }

    /// Makes an artefact like [`Workspace::make`], but `make` itself marks the folder as finished and puts it in its
    /// place, as described at [`Store::make_whole`].
    ///
    /// # Errors
    /// Fails if `make` fails, or if the link cannot be made.
    pub fn make_whole(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.begin(artefact)?;
        self.store.make_whole(artefact, make)?;
        Ok(self.store.place(&artefact.key))
    }

    /// Links the artefact into the folder of the run. Shows a message if it is finished, or else how it differs from
    /// the nearest finished one, if there is one.
    fn begin(&self, artefact: &Artefact) -> Result<()> {
        let (here, place) = (self.folder.join(&artefact.name), self.store.place(&artefact.key));
        files::link_to(&place, &here)?;
        let say = |words: String| if self.is_cell { progress::detail(words) } else { progress::say(words) };
        if self.store.is_finished(&artefact.key) {
            say(format!("{}: finished earlier, skipped", artefact.title));
        } else if let Some(nearest) = self.store.nearest(artefact) {
            let words = format!("{}: {}", artefact.title, nearest.words());
            match nearest.seconds > Some(LONG) {
                true if !self.is_cell => progress::warn(words),
                _ => progress::detail(words),
            }
        }
        Ok(())
    }

    /// Returns everything that a result depends on, without times.
    pub fn provenance(&self) -> Map<String, Value> {
        let backbone = self.backbone();
        let fields = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "argv": self.runs.command,
            "seed": self.config.seed,
            "device": self.device.choice.to_string(),
            "backbone": {
                "path": backbone.path.display().to_string(),
                "hash": backbone.hash,
                "parameters": backbone.model.parameters(),
            },
            "tokenizer": {"hash": backbone.tokenizer.hash(), "vocab_size": backbone.tokenizer.vocab_size()},
            "data": self.corpora().iter().map(|c| (c.name.clone(), json!({"path": c.config.path, "hash": c.hash})))
                .collect::<Map<_, _>>(),
        });
        let Value::Object(mut fields) = fields else { unreachable!("an object was written") };
        if !store::verifies() {
            fields.insert("verified".into(), json!(false));
        }
        if let Some(path) = &self.given_heads {
            fields.insert("heads".into(), json!({"path": path.display().to_string()}));
        }
        fields
    }
}

/// The seconds above which the making of the nearest artefact counts as long. A run then shows how a new artefact
/// differs from that one.
const LONG: f64 = 60.0;

/// Returns the folder of heads that `path` names: what [`heads_folder`] understands, or the checkpoint of another project, which is
/// then read as heads into `runs/imported`, unless that was done before.
///
/// # Errors
/// Fails if there are no heads, or if the checkpoint cannot be read or does not fit the backbone.
fn given(path: &Path, backbone: &Backbone, runs: &Runs) -> Result<PathBuf> {
    let words = path.to_string_lossy();
    let checkpoint = match path.exists() {
        true if export::is_checkpoint(path) => path.to_owned(),
        false if words.split('/').count() == 2 => resolve_draft(&words)?,
        _ => return heads_folder(path),
    };
    let files = files::listing(&checkpoint)?.into_iter().filter(|file| file.is_file());
    let hashes: Vec<String> = files.map(|file| files::hash_file(&file)).collect::<Result<_>>()?;
    let key = files::hash_json(&(hashes, &backbone.hash));
    let folder = runs.folder.join("imported").join(&key[..16]);
    if !folder.exists() {
        let heads = export::import(&checkpoint, backbone)?;
        let staged = files::StagedDir::new(&folder)?;
        heads.write(staged.path(), backbone)?;
        staged.commit()?;
        let kind = heads.architecture.kind().name();
        progress::say(format!("{words}: read as {} heads of kind \"{kind}\"", heads.count));
    }
    Ok(folder)
}

/// Says where given heads draft blocks of another length than the configuration has for heads of its own.
fn say_block_size(heads: &FrozenHeads, configured: usize) {
    let trained = heads.count() + 1;
    if trained != configured {
        progress::say(format!(
            "the given heads were trained for blocks of {trained} tokens and draft these; `heads.block_size` = {configured} holds for heads that are trained here."
        ));
    }
}

/// Checks that rescorers which read the heads' states find them as wide as the backbone's.
///
/// # Errors
/// Fails if they have another `width`.
fn check_states(config: &Config, width: usize, inputs: &Inputs) -> Result<()> {
    let d = inputs.backbone.model.config().hidden_size;
    let reads = |(_, rescorer): &(_, &RescorerConfig)| rescorer.kind().is_some_and(|kind| kind.reads_states());
    match config.rescorer.iter().find(reads) {
        Some((name, _)) if width != d => bail!(
            "[rescorer.{name}] reads the heads' states in every slot, which must be as wide as the backbone's, {d}, but those of these heads are {width} wide. Leave it out, or take other heads."
        ),
        _ => Ok(()),
    }
}

/// Returns the states of the backbone that something reads with heads as the configuration describes them.
///
/// # Errors
/// Fails if the backbone does not suit the heads.
fn features_of(config: &Config, inputs: &Inputs) -> Result<Vec<Feature>> {
    let (kind, backbone) = (config.heads.architecture.kind(), inputs.backbone.model.config());
    check_states(config, kind.state_width(backbone), inputs)?;
    features(kind.features(backbone)?, inputs)
}

/// Returns the states of the backbone that something reads, in ascending order: those that the heads read, and `last`,
/// which is also read by rescorers of lattices and by the report.
///
/// # Errors
/// Fails if the heads read a state that the backbone does not have.
fn features(of_heads: Vec<Feature>, inputs: &Inputs) -> Result<Vec<Feature>> {
    let layers = inputs.backbone.model.config().num_hidden_layers;
    let checked = of_heads.iter().try_for_each(|feature| feature.validate(layers));
    checked.map_err(|e| e.within("heads.architecture"))?;
    Ok(of_heads.into_iter().chain([Feature::Last]).collect::<BTreeSet<_>>().into_iter().collect())
}
