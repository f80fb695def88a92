//! A finished run, opened to decode with: nothing is trained, nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use super::FittedRescorer;
use super::train_rescorer::load_rescorer;
use super::ways::{Way, ways};
use super::workspace::load_backbone;
use crate::backbone::Backbone;
use crate::config::{self, Config, Overrides};
use crate::drafting::{Drafter, Selection, Settings};
use crate::error::{Error, Result, bail};
use crate::evaluation::Coordinate;
use crate::heads::{FrozenHeads, load_heads};
use crate::lattice::Weighting;
use crate::report::{self, Dataset, Report};
use crate::text::ChatTemplate;

/// A run's backbone, heads, rescorers and the settings that were chosen.
pub struct OpenedRun {
    /// As the run resolved it.
    pub config: Config,
    /// The frozen model.
    pub backbone: Backbone,
    /// The chat template that prompts of the run were put in, if any.
    pub template: Option<ChatTemplate>,
    /// The heads.
    pub heads: FrozenHeads,
    rescorers: BTreeMap<String, FittedRescorer>,
    report: Report,
}

impl OpenedRun {
    /// Opens the run in `folder`, which was evaluated.
    ///
    /// # Errors
    /// A run that is not finished; files that are missing or damaged.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let file = folder.join("run.toml");
        if !file.exists() {
            bail!(
                "{}: no run; {} is missing. Make one with `draftsmith run CONFIG`.",
                folder.display(),
                file.display()
            );
        }
        let path = folder.join("report/report.json");
        if !path.exists() {
            bail!(
                "{}: this run was not evaluated, so no settings were chosen. Run `draftsmith evaluate {}` first.",
                folder.display(),
                file.display()
            );
        }
        let report = report::read(&path)?;
        if report.datasets.is_empty() {
            bail!(
                "{}: this run reports on no data set, so no settings were chosen. Give a corpus a `test` share.",
                folder.display()
            );
        }
        let config = config::load(&file, &Overrides::default())?;
        let (backbone, template) = load_backbone(&config, device)?;
        let heads = load_heads(&folder.join("heads"), &backbone)?;
        let mut rescorers = BTreeMap::new();
        for (name, rescorer) in &config.rescorer {
            let place = folder.join("rescorers").join(name);
            if let Some(rescorer) = load_rescorer(&place, rescorer, &backbone, device, heads.count())? {
                rescorers.insert(name.clone(), FittedRescorer { rescorer, key: String::new() });
            }
        }
        Ok(Self { config, backbone, template, heads, rescorers, report })
    }

    /// Names of the variants, plain decoding first.
    pub fn variants(&self) -> Vec<String> {
        ways(&self.config, &self.rescorers).into_iter().map(|way| way.name).collect()
    }

    /// The drafter of a variant, by default the best one, with the settings that were chosen on dev of a data set, by default the
    /// first; and its name.
    ///
    /// # Errors
    /// A variant or data set that the run has not.
    pub fn drafter(&self, variant: Option<&str>, dataset: Option<&str>) -> Result<(String, OpenedDrafter<'_>)> {
        let sets = &self.report.datasets;
        let known = |names: Vec<&str>| names.join(", ");
        let set = match dataset {
            None => &sets[0],
            Some(name) => sets.iter().find(|set| set.name == name).ok_or_else(|| {
                let names = known(sets.iter().map(|set| set.name.as_str()).collect());
                Error::new(format!("the run was not evaluated on `{name}`; it was on: {names}."))
            })?,
        };
        let name = match variant {
            Some(name) => name,
            None => set.best().map_or("bpd", |variant| variant.name.as_str()),
        };
        let ways = ways(&self.config, &self.rescorers);
        let names = known(ways.iter().map(|way| way.name.as_str()).collect());
        let way = ways.into_iter().find(|way| way.name == name);
        let way = way.ok_or_else(|| Error::new(format!("the run has no variant `{name}`; it has: {names}.")))?;
        let settings = chosen(set, &way, &self.config)?;
        // Switched off on dev, it drafts as plain decoding does.
        let switched_off = settings.is_none() && !way.axes(self.config.lattice.top_k, &self.config.tuning).is_empty();
        let way = if switched_off { way.switched_off() } else { way };
        let settings = settings.unwrap_or_else(|| untuned(set, &self.config));
        Ok((name.to_owned(), OpenedDrafter { way, settings }))
    }
}

/// A variant of an opened run.
pub struct OpenedDrafter<'a> {
    way: Way<'a>,
    settings: Settings,
}

impl OpenedDrafter<'_> {
    /// Whether it drafts trees, whose size is a matter of the machine's time.
    pub fn grows(&self) -> bool {
        self.way.grows()
    }

    /// It with trees of so many nodes at most; what drafts no trees is as it was.
    pub fn with_nodes(self, nodes: usize) -> Self {
        Self { way: self.way.with_trees(Selection::ExpectedTree(nodes)), ..self }
    }

    /// It with trees as large as pays, by the seconds of a block by its nodes (from 1); what drafts no trees is as it was.
    pub fn timed(self, seconds: Vec<f64>) -> Self {
        Self { way: self.way.with_trees(Selection::TimedTree(seconds)), ..self }
    }

    /// It, ready to draft.
    pub fn drafter(&self) -> Box<dyn Drafter + '_> {
        self.way.drafter(&self.settings)
    }
}

fn untuned(set: &Dataset, config: &Config) -> Settings {
    let (slot_temperatures, confidence) = (set.slot_temperatures.clone(), set.lookup_confidence.clone());
    Settings { slot_temperatures, confidence, ..Settings::new(config.lattice.top_k, set.coverage.clone(), 1.0) }
}

/// The settings in a report; none where nothing was tuned.
fn chosen(set: &Dataset, way: &Way, config: &Config) -> Result<Option<Settings>> {
    let Some(variant) = set.variants.iter().find(|variant| variant.name == way.name) else {
        bail!("the report of this run does not know the variant `{}`; evaluate the run again.", way.name);
    };
    if variant.tuned.is_empty() {
        return Ok(None);
    }
    let mut settings = way.start(&untuned(set, config), &BTreeMap::new());
    settings.weighting = Weighting::from(0.0);
    let axes = way.axes(config.lattice.top_k, &config.tuning);
    let shares: Vec<f64> = axes
        .iter()
        .filter(|axis| matches!(axis.coordinate, Coordinate::Share(_)))
        .filter_map(|axis| variant.tuned.get(&axis.name).copied())
        .collect();
    for axis in axes {
        match (axis.coordinate, variant.tuned.get(&axis.name)) {
            (Coordinate::Share(_), _) | (_, None) => {}
            (coordinate, Some(&value)) => coordinate.set(&mut settings, value),
        }
    }
    if !shares.is_empty() {
        settings.shares = shares;
    }
    Ok(Some(settings))
}
