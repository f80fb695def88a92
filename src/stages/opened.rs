//! Finished runs that are opened for decoding. Nothing is trained or written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use super::FittedRescorers;
use super::evaluate::TUNED;
use super::inputs::load_backbone;
use super::train_rescorer::load_rescorers;
use super::variants::prepare;
use crate::backbone::Backbone;
use crate::config::{self, Config, Overrides};
use crate::drafting::{PreparedVariant, Settings, TunedSet, TunedVariant, Variant};
use crate::error::{Error, Result, bail};
use crate::heads::{Binding, FrozenHeads, load_heads};
use crate::text::ChatTemplate;

/// The backbone, the heads and the rescorers of a run, and the settings that were chosen on dev.
pub struct OpenedRun {
    /// The configuration of the run, as the run resolved it.
    pub config: Config,
    /// The frozen model.
    pub backbone: Backbone,
    /// The chat template that prompts of the run were put in, if any.
    pub template: Option<ChatTemplate>,
    /// The heads.
    pub heads: FrozenHeads,
    rescorers: FittedRescorers,
    /// The tuned variants by data set.
    tuned: BTreeMap<String, TunedSet>,
}

impl OpenedRun {
    /// Opens the evaluated run in `folder` on a device.
    ///
    /// # Errors
    /// Fails if the run is not finished, or if files are missing or damaged.
    pub fn open(folder: &Path, device: &Device, binding: Binding) -> Result<Self> {
        let file = folder.join("run.toml");
        if !file.exists() {
            bail!(
                "{}: no run; {} is missing. Make one with `draftsmith run CONFIG`.",
                folder.display(),
                file.display()
            );
        }
        let settings = folder.join(TUNED);
        if !settings.exists() {
            bail!(
                "{}: this run was not evaluated, so no settings were chosen. Run `draftsmith evaluate {}` first.",
                folder.display(),
                file.display()
            );
        }
        let tuned = TunedSet::read_all(&settings)?;
        if tuned.is_empty() {
            bail!(
                "{}: this run reports on no data set, so no settings were chosen. Give a corpus a `test` share.",
                folder.display()
            );
        }
        let config = config::load(&file, &Overrides::default())?;
        let (backbone, template) = load_backbone(&config, device)?;
        let heads = load_heads(&folder.join("heads"), &backbone, binding)?.with_weights(config.heads.weights);
        let place = folder.join("rescorers");
        let rescorers = load_rescorers(&place, &config, &backbone, device, heads.count())?;
        Ok(Self { config, backbone, template, heads, rescorers, tuned })
    }

    /// Returns the variants that were evaluated, plain decoding first.
    pub fn variants(&self) -> Vec<Variant> {
        self.config.variants()
    }

    /// Returns a variant with the settings that were chosen for it on the dev split of a data set. By default, this is
    /// the first data set by name, and the variant that is best on its dev split.
    ///
    /// # Errors
    /// Fails if the run was not evaluated with the variant or on the data set.
    pub fn variant(&self, variant: Option<&Variant>, dataset: Option<&str>) -> Result<(PreparedVariant<'_>, Settings)> {
        let known = |names: Vec<String>| names.join(", ");
        let set = match dataset {
            None => self.tuned.values().next(),
            Some(name) => self.tuned.get(name),
        };
        let set = set.ok_or_else(|| {
            let (name, names) = (dataset.unwrap_or_default(), known(self.tuned.keys().cloned().collect()));
            Error::new(format!("the run was not evaluated on `{name}`; it was on: {names}."))
        })?;
        let found = match variant {
            None => set.best(),
            Some(variant) => set.variants.iter().find(|tuned| tuned.variant == *variant),
        };
        let TunedVariant { variant, switched_off, settings, .. } = found.ok_or_else(|| {
            let names = known(set.variants.iter().map(|tuned| tuned.variant.to_string()).collect());
            let name = variant.map(Variant::to_string).unwrap_or_default();
            Error::new(format!("the run has no variant `{name}`; it has: {names}."))
        })?;
        let prepared = prepare(variant.clone(), &self.config, &self.rescorers, self.backbone.model.config());
        // A variant that was switched off on dev drafts as plain decoding does.
        let prepared = if *switched_off { prepared.switched_off() } else { prepared };
        Ok((prepared, settings.clone()))
    }
}
