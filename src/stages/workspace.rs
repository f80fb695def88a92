//! A run's folder, what it is made from, and how its parts are made.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Corpus, Graph, Inputs, Reach};
use crate::backbone::{Backbone, Feature};
use crate::config::Config;
use crate::device::Opened;
use crate::error::Result;
use crate::evaluation::Known;
use crate::files;
use crate::heads::{hash_heads, heads_folder, load_heads};
use crate::progress;
use crate::store::{Artefact, Store};

/// Where runs lie, and how they are asked for.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The folder of all runs, such as `runs`.
    pub folder: PathBuf,
    /// The command that asks for them, which goes into their provenance.
    pub command: Vec<String>,
}

impl Runs {
    /// The folder of the run called `name`.
    pub fn run(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of what runs are made of.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }
}

/// A run: configuration, device, folder, inputs, and what is made of them. One process at a time works on a run's folder.
pub struct Workspace {
    /// The resolved configuration.
    pub config: Config,
    /// Where tensors live.
    pub device: Opened,
    /// Where it lies among others.
    pub runs: Runs,
    /// `runs/<name>`, or a folder two below it: a cell's, or that of heads that were made elsewhere.
    pub folder: PathBuf,
    /// The backbone and the corpora.
    pub inputs: Inputs,
    /// What the run is made of.
    pub graph: Graph,
    /// Where that lies.
    pub store: Store,
    /// The backbone's states that something reads, in their order.
    pub features: Vec<Feature>,
    /// The folder of the heads, where they come from elsewhere.
    pub given_heads: Option<PathBuf>,
    /// What evaluations of this process have found out.
    pub known: Known,
    /// Whether it is one of many, of which less is said.
    is_cell: bool,
    _lock: Option<File>,
}

impl Workspace {
    /// Opens `runs/<name>`, loads the backbone, reads the corpora. With `heads`, those (a path that [`heads_folder`]
    /// understands) are evaluated and none are trained, in `runs/<name>/other-heads/<hash>`.
    ///
    /// # Errors
    /// Another process on the folder; what [`Inputs::read`] refuses.
    pub fn open(config: Config, device: Opened, runs: Runs, heads: Option<&Path>) -> Result<Self> {
        let lock = files::lock(&runs.run(&config.name))?;
        let store = Store::open(runs.store())?;
        let workspace = Self::new(config, device, runs, heads, (store, Some(lock)))?;
        workspace.describe()?;
        Ok(workspace)
    }

    /// As [`Workspace::open`], for work that writes nothing: no folder is made and none is locked.
    ///
    /// # Errors
    /// What [`Inputs::read`] refuses.
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
        let given_heads = heads.map(heads_folder).transpose()?;
        let given = given_heads.as_deref().map(hash_heads).transpose()?;
        // Before anything is written.
        let loaded = given_heads.as_deref().map(|heads| load_heads(heads, &inputs.backbone, config.heads.binding()));
        let features = match loaded.transpose()? {
            Some(heads) => features(heads.features(), &inputs)?,
            None => features(config.heads.architecture.kind().features(), &inputs)?,
        };
        let graph = Graph::new(&config, &inputs, Reach::of(&config), &features, given.as_deref())?;
        let mut folder = runs.run(&config.name);
        if given.is_some() {
            folder = folder.join("other-heads").join(graph.heads.key.short());
        }
        let (known, is_cell, _lock) = (Known::default(), false, lock);
        Ok(Self { config, device, runs, folder, inputs, graph, store, features, given_heads, known, is_cell, _lock })
    }

    /// A cell of an ablation; nothing is written. Candidates are as wide as `reach`, and `known` is shared with other cells.
    ///
    /// # Errors
    /// What [`Graph::new`] refuses.
    pub fn cell(
        config: Config,
        device: Opened,
        (runs, folder): (Runs, PathBuf),
        inputs: Inputs,
        store: Store,
        (reach, known): (Reach, Known),
    ) -> Result<Self> {
        let features = features(config.heads.architecture.kind().features(), &inputs)?;
        let graph = Graph::new(&config, &inputs, reach, &features, None)?;
        let (given_heads, is_cell, _lock) = (None, true, None);
        Ok(Self { config, device, runs, folder, inputs, graph, store, features, given_heads, known, is_cell, _lock })
    }

    /// The frozen model.
    pub fn backbone(&self) -> &Backbone {
        &self.inputs.backbone
    }

    /// By the name in the configuration, in its order.
    pub fn corpora(&self) -> &[Corpus] {
        &self.inputs.corpora
    }

    /// Whether the report is there.
    pub fn is_evaluated(&self) -> bool {
        self.store.is_finished(&self.graph.evaluation.key)
    }

    /// Writes `run.toml` and `provenance.json`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn describe(&self) -> Result<()> {
        files::write_atomic(&self.folder.join("run.toml"), self.config.to_toml().as_bytes())?;
        let mut provenance = self.provenance();
        provenance.insert("started".into(), json!(jiff::Timestamp::now().to_string()));
        files::write_json(&self.folder.join("provenance.json"), &provenance)
    }

    /// Returns the folder of an artefact, which `make` fills unless it is finished. The run's folder gets a link to it before.
    ///
    /// # Errors
    /// What `make` fails with.
    pub fn make(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.begin(artefact)?;
        self.store.make(artefact, make)?;
        Ok(self.store.place(&artefact.key))
    }

    /// As [`Workspace::make`] for those who put the mark in place themselves, as [`Store::make_whole`] says.
    ///
    /// # Errors
    /// What `make` fails with.
    pub fn make_whole(&self, artefact: &Artefact, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.begin(artefact)?;
        self.store.make_whole(artefact, make)?;
        Ok(self.store.place(&artefact.key))
    }

    /// Links the artefact and says whether it is there, or what makes it another one than the nearest that is.
    fn begin(&self, artefact: &Artefact) -> Result<()> {
        let (here, place) = (self.folder.join(&artefact.name), self.store.place(&artefact.key));
        files::link_to(&place, &here)?;
        let say = |words: String| if self.is_cell { progress::detail(words) } else { progress::say(words) };
        if self.store.is_finished(&artefact.key) {
            say(format!("{}: finished earlier, skipped", artefact.title));
        } else if let Some(nearest) = self.store.nearest(artefact) {
            let words = format!("{}: {}", artefact.title, nearest.words());
            if nearest.seconds > Some(LONG) { say(words) } else { progress::detail(words) }
        }
        Ok(())
    }

    /// Everything a result depends on, without times.
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
        if let Some(path) = &self.given_heads {
            fields.insert("heads".into(), json!({"path": path.display().to_string()}));
        }
        fields
    }
}

/// Seconds of an artefact's making from which on a run says why it makes another one.
const LONG: f64 = 60.0;

/// Returns the backbone's states that something reads, in their order: those of the heads, and `last`, which rescorers of
/// lattices and the report read as well.
fn features(of_heads: Vec<Feature>, inputs: &Inputs) -> Result<Vec<Feature>> {
    let layers = inputs.backbone.model.config().num_hidden_layers;
    let checked = of_heads.iter().try_for_each(|feature| feature.validate(layers));
    checked.map_err(|e| e.within("heads.architecture.features"))?;
    Ok(of_heads.into_iter().chain([Feature::Last]).collect::<BTreeSet<_>>().into_iter().collect())
}
