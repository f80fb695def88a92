//! The whole file: the sections of all rooms together, and what they demand of each other.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::read::resolve;
use super::{AblationConfig, PretrainConfig};
use crate::backbone::BackboneConfig;
use crate::device::DeviceChoice;
use crate::drafting::{DraftingConfig, Variant};
use crate::error::{Error, Result, bail};
use crate::evaluation::{EvaluationConfig, TuningConfig};
use crate::heads::HeadsConfig;
use crate::lattice::LatticeConfig;
use crate::rescorer::RescorerConfig;
use crate::text::DataConfig;
use crate::traces::{TraceText, TracesConfig};

/// The whole file; `extends = "other.toml"` at its top makes it a change of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of the run, whose results go to `runs/NAME`.
    pub name: String,
    /// The seed of every random choice: batches, initial weights, bootstrap.
    pub seed: u64,
    /// Where to compute: "auto", "cpu", "cuda", "cuda:N", "wgpu" or "wgpu:N", with N the index of a GPU.
    pub device: String,
    /// The indices of several GPUs of the kind that `device` names. `train-heads` shares the batches of a step
    /// (`heads.training.accumulate`) out to all of them; the first GPU does everything else. Empty: `device` alone.
    #[schemars(extend("uniqueItems" = true))]
    pub devices: Vec<usize>,
    /// The frozen language model.
    pub backbone: BackboneConfig,
    /// The corpora, by name.
    pub data: BTreeMap<String, DataConfig>,
    /// What is recorded of the backbone: text and hidden states.
    pub traces: TracesConfig,
    /// The prediction heads and their training.
    pub heads: HeadsConfig,
    /// The rescorers, by name. The name is also the name of the rescorer's variant in the report.
    pub rescorer: BTreeMap<String, RescorerConfig>,
    /// The heads' candidates.
    pub lattice: LatticeConfig,
    /// Which drafts are made of the candidates.
    pub drafting: DraftingConfig,
    /// The settings tried on dev.
    pub tuning: TuningConfig,
    /// What is measured and reported.
    pub evaluation: EvaluationConfig,
    /// What `ablate` varies.
    pub ablation: Option<AblationConfig>,
    /// The tokenizer and language model that `pretrain` fits from scratch on the train split of all corpora.
    pub pretrain: Option<PretrainConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".into(),
            seed: 1,
            device: "auto".into(),
            devices: Vec::new(),
            backbone: BackboneConfig::default(),
            data: BTreeMap::new(),
            traces: TracesConfig::default(),
            heads: HeadsConfig::default(),
            rescorer: BTreeMap::new(),
            lattice: LatticeConfig::default(),
            drafting: DraftingConfig::default(),
            tuning: TuningConfig::default(),
            evaluation: EvaluationConfig::default(),
            ablation: None,
            pretrain: None,
        }
    }
}

impl Config {
    /// The largest k that anything asks of a lattice.
    pub fn widest(&self) -> usize {
        self.evaluation.oracle_top_k.iter().copied().fold(self.lattice.top_k, usize::max)
    }

    /// The device of the run, then the others that the heads train on as well.
    ///
    /// # Errors
    /// No such device; several of a kind that is not a GPU's.
    pub fn device_choices(&self) -> Result<Vec<DeviceChoice>> {
        let one: DeviceChoice = self.device.parse().map_err(|e: Error| e.within("`device`"))?;
        if self.devices.is_empty() {
            return Ok(vec![one]);
        }
        self.devices.iter().map(|&index| one.numbered(index)).collect()
    }

    /// Checks the value of every key, and what keys demand of each other. Errors begin with the key.
    pub fn validate(&self) -> Result<()> {
        let table = Table::try_from(self)
            .map_err(|_| Error::new(format!("`seed` is {}; it must be at most {}.", self.seed, i64::MAX)))?;
        resolve(table).map_err(|fault| Error::new(fault.what))?;
        names_a_folder("name", &self.name)?;
        let devices = self.device_choices()?.len();
        if devices > self.heads.training.accumulate {
            bail!(
                "`devices` names {devices} GPUs, but a step of the heads has {} batches to share out. Set `heads.training.accumulate` to a multiple of {devices}.",
                self.heads.training.accumulate
            );
        }
        if self.data.is_empty() {
            bail!("no corpus: add a section such as [data.mine] with `path = \"mine.jsonl\"`.");
        }
        for (name, data) in &self.data {
            let key = format!("data.{name}");
            names_a_folder(&key, name)?;
            data.validate(&key)?;
        }
        if !self.data.values().any(|data| data.dev + data.test < 1.0) {
            bail!(
                "every corpus is all dev and test; at least one needs documents to train on, so `dev` + `test` below 1."
            );
        }
        if !self.data.values().any(|data| data.dev > 0.0) {
            bail!("no corpus has a `dev` share; checkpoints are chosen on dev.");
        }
        self.backbone.validate()?;
        self.heads.validate()?;
        self.validate_phases()?;
        for (name, rescorer) in &self.rescorer {
            let key = format!("rescorer.{name}");
            names_a_folder(&key, name)?;
            if !Variant::allows_rescorer(name) {
                bail!(
                    "`{key}`: this name is taken by a built-in variant (bpd, prompt-lookup, 0gram, and all that begin with pbest-, beam-, path-, tree- or grown- or contain +); choose another."
                );
            }
            let own_text = self.traces.train_text != [TraceText::Corpus];
            rescorer.validate(&key, &self.rescorer, own_text)?;
            let with_heads = rescorer.kind().is_some_and(|kind| kind.learns_with_heads());
            if with_heads && self.heads.selector.is_none() && self.heads.from.is_empty() {
                bail!(
                    "`{key}` is of kind \"selector\", which learns with the heads, but there is no `heads.selector`. Add it, or take one of kind \"transition\", which is trained afterwards."
                );
            }
        }
        if let Some(pretrain) = &self.pretrain {
            pretrain.model.validate("pretrain.model")?;
        }
        self.validate_variants()?;
        self.grid().map(|_| ())
    }

    /// Checks the phases of the heads' training against the corpora and traces that they are trained on.
    fn validate_phases(&self) -> Result<()> {
        for (index, phase) in self.heads.phases().iter().enumerate() {
            let key = if self.heads.phase.is_empty() { "heads".into() } else { format!("heads.phase[{index}]") };
            for name in phase.data.iter().flatten() {
                match self.data.get(name) {
                    None => bail!("`{key}.data` names `{name}`, but there is no [data.{name}]."),
                    Some(data) if data.dev + data.test >= 1.0 => {
                        bail!("`{key}.data` names `{name}`, but [data.{name}] is all dev and test.")
                    }
                    Some(_) => {}
                }
            }
            if let Some(text) =
                phase.text.iter().flat_map(BTreeMap::keys).find(|text| !self.traces.train_text.contains(text))
            {
                bail!("`{key}.text` names \"{0}\", but `traces.train_text` does not; add it there.", text.name());
            }
        }
        Ok(())
    }
}

fn names_a_folder(key: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') || name.contains(char::is_control) {
        bail!(
            "`{key}` is named {name:?}; the name becomes a folder, so it must be non-empty, without slashes, line ends and a leading dot."
        );
    }
    Ok(())
}
