//! The ways to draft that are evaluated, and what is tuned of each.

use std::collections::BTreeMap;

use crate::config::{Config, RescorerConfig, TuningConfig};
use crate::drafting::{Bpd, Drafter, PromptLookup, Rescoring, Selection, Settings};
use crate::evaluation::{self, Axis, Coordinate};
use crate::heads::FrozenHeads;
use crate::lattice::Weighting;
use crate::rescorer::Rescorer;
use crate::stages::FittedRescorer;

/// A variant before its settings are chosen.
#[derive(Clone)]
pub(super) struct Way<'a> {
    /// As in the report.
    pub name: String,
    /// As in the configuration; empty without one.
    pub rescorer: String,
    drafting: Drafting,
    /// Its rescorers by name.
    rescorers: Vec<(String, &'a dyn Rescorer)>,
    include_top1: bool,
    copies: bool,
}

/// Ends the name of a variant that copies from the text.
const COPIES: &str = "+lookup";

/// Where its drafts come from.
#[derive(Debug, Clone, PartialEq)]
enum Drafting {
    /// Every head's first choice.
    Plain,
    /// The text itself.
    Lookup,
    /// The lattice.
    Search(Selection),
}

impl Way<'_> {
    /// Drafts with the given settings.
    pub fn drafter<'b>(&'b self, settings: &Settings) -> Box<dyn Drafter + 'b> {
        match &self.drafting {
            Drafting::Plain => Box::new(Bpd),
            Drafting::Lookup => Box::new(PromptLookup),
            Drafting::Search(selection) => Box::new(self.search(selection.clone(), self.include_top1, settings)),
        }
    }

    fn search(&self, selection: Selection, include_top1: bool, settings: &Settings) -> Rescoring<'_> {
        let rescorers = self.rescorers.iter().map(|(_, rescorer)| *rescorer).collect();
        Rescoring { rescorers, selection, include_top1, settings: settings.clone() }
    }

    /// For a `pbest-` variant that is not switched off: what gives its `p` best paths and no other.
    pub fn best_paths<'b>(&'b self, p: usize, settings: &Settings) -> Option<Box<dyn Drafter + 'b>> {
        let rescorer = if self.rescorer.is_empty() { "0gram" } else { &self.rescorer };
        let applies = self.name == format!("pbest-{rescorer}") && self.drafting != Drafting::Plain;
        applies.then(|| Box::new(self.search(Selection::Paths(p), false, settings)) as Box<dyn Drafter>)
    }

    /// Names of its rescorers.
    pub fn terms(&self) -> impl Iterator<Item = &str> {
        self.rescorers.iter().map(|(name, _)| name.as_str())
    }

    /// Tells it from another with the same name and rescorers.
    pub fn identity(&self) -> String {
        format!("{:?}", self.drafting)
    }

    /// The same name, drafting as plain decoding does.
    pub fn switched_off(self) -> Self {
        Self { drafting: Drafting::Plain, ..self }
    }

    /// With another kind of trees, where it drafts trees.
    pub fn with_trees(self, trees: Selection) -> Self {
        if self.grows() { Self { drafting: Drafting::Search(trees), ..self } } else { self }
    }

    /// Whether it drafts trees of a size that can be chosen.
    pub fn grows(&self) -> bool {
        matches!(self.drafting, Drafting::Search(Selection::ExpectedTree(_)))
    }

    /// Whether its drafts have the longest expected accepted length.
    fn expects(&self) -> bool {
        matches!(self.drafting, Drafting::Search(Selection::ExpectedPath | Selection::ExpectedTree(_)))
    }

    /// What it uses under `settings`, for the cost model.
    pub fn uses<'b>(&'b self, heads: &'b FrozenHeads, settings: &Settings) -> evaluation::Drafting<'b> {
        let searches = matches!(self.drafting, Drafting::Search(_)) && settings.weighting.scale != 0.0;
        let rescorers = self.rescorers.iter().zip(&settings.shares).filter(|(_, share)| searches && **share != 0.0);
        evaluation::Drafting {
            heads: self.reads_heads().then_some(heads),
            rescorers: rescorers.map(|((_, rescorer), _)| *rescorer).collect(),
            candidates: settings.top_k,
            prefixes: if self.reads_prefix() { self.drafts() } else { 1 },
        }
    }

    /// Whether it chooses among the heads' candidates.
    pub fn reads_heads(&self) -> bool {
        self.drafting != Drafting::Lookup
    }

    /// Where the search begins: at scale and shares of the variant with one draft and the same rescorers, if it was tuned
    /// before, else with rescorers that have no say.
    pub fn start(&self, settings: &Settings, tuned: &BTreeMap<String, Settings>) -> Settings {
        let terms = self.rescorers.len();
        match tuned.get(&self.rescorer) {
            None => Settings { shares: vec![1.0 / terms.max(1) as f64; terms], ..settings.clone() },
            Some(single) => Settings {
                weighting: Weighting::from(single.weighting.scale),
                tempering: single.tempering,
                shares: single.shares.clone(),
                ..settings.clone()
            },
        }
    }

    /// p: the most drafts in a call; a tree counts as one for each of its leaves, which its nodes bound.
    pub fn drafts(&self) -> usize {
        match self.drafting {
            Drafting::Search(Selection::Paths(p)) => p,
            Drafting::Search(Selection::ExpectedTree(nodes)) => nodes,
            Drafting::Search(Selection::TimedTree(ref seconds)) => seconds.len(),
            Drafting::Plain | Drafting::Lookup | Drafting::Search(Selection::ExpectedPath) => 1,
        }
    }

    fn reads_prefix(&self) -> bool {
        self.rescorers.iter().any(|(_, rescorer)| rescorer.reads_prefix())
    }

    /// What is tuned. With a rescorer that reads the whole prefix every trial is a run of a model, so only weights are.
    pub fn axes(&self, top_k: usize, options: &TuningConfig) -> Vec<Axis> {
        // Of the weight of a single draft's rescorer the whole curve is wanted.
        let single = self.drafting == Drafting::Search(Selection::Paths(1));
        let axis = |coordinate, name: &str, values| Axis {
            coordinate,
            name: name.into(),
            values,
            climbs: !(single && coordinate == Coordinate::Scale),
        };
        let mut axes = Vec::new();
        // A single draft by head scores alone is the same at every temperature.
        let compares = matches!(self.drafting, Drafting::Search(_)) && (!single || !self.rescorers.is_empty());
        if compares && !self.reads_prefix() && !options.slot_tempering.is_empty() {
            let powers = [&[0.0], &options.slot_tempering[..]].concat();
            axes.push(axis(Coordinate::Tempering, "slot_tempering", powers));
        }
        if self.expects() {
            axes.push(axis(Coordinate::Temperature, "temperature", options.temperatures.clone()));
        }
        if !self.rescorers.is_empty() {
            axes.push(axis(Coordinate::Scale, "lm_scale", options.scales()));
            if self.rescorers.len() > 1 {
                for (term, (name, _)) in self.rescorers.iter().enumerate() {
                    axes.push(axis(Coordinate::Share(term), &format!("share of {name}"), options.shares.clone()));
                }
            }
            if single && !self.reads_prefix() {
                let decays = [&[1.0], &options.decays[..]].concat();
                axes.push(axis(Coordinate::Decay, "decay", decays));
                let fewer = |divisor: usize| (top_k / divisor).max(1) as f64;
                axes.push(axis(Coordinate::TopK, "top_k", vec![fewer(4), fewer(2), fewer(1)]));
                let gates = [&options.gates[..], &[f64::INFINITY]].concat();
                axes.push(axis(Coordinate::Gate, "gate", gates));
            }
        }
        if self.copies {
            // From none on, and last: so that they come on top of what the variant without them has found.
            axes.push(axis(Coordinate::LookupScale, "lookup", [&[0.0], &options.lookup[..]].concat()));
        }
        axes
    }
}

/// The variants of a run that its configuration asks for, plain decoding among them in any case.
pub(super) fn ways<'a>(config: &Config, fitted: &'a BTreeMap<String, FittedRescorer>) -> Vec<Way<'a>> {
    let wanted = &config.drafting.variants;
    let is_wanted = |way: &Way| wanted.is_empty() || way.drafting == Drafting::Plain || wanted.contains(&way.name);
    all_ways(config, fitted).into_iter().filter(is_wanted).collect()
}

/// Every variant of a run: single drafts first, plain decoding before all.
pub(super) fn all_ways<'a>(config: &Config, fitted: &'a BTreeMap<String, FittedRescorer>) -> Vec<Way<'a>> {
    let options = &config.drafting;
    let (paths, tree) = (Selection::Paths(options.paths), Selection::ExpectedTree(options.nodes));
    let include_top1 = options.include_top1;
    let way = |name: &str, drafting| {
        let (name, rescorer, rescorers) = (name.to_owned(), String::new(), Vec::new());
        Way { name, rescorer, drafting, rescorers, include_top1, copies: false }
    };
    let mut single = vec![way("bpd", Drafting::Plain), way("prompt-lookup", Drafting::Lookup)];
    let mut several =
        vec![way("pbest-0gram", Drafting::Search(paths.clone())), way("tree-0gram", Drafting::Search(tree.clone()))];
    for (name, kind) in &config.rescorer {
        let terms: Vec<&String> = match kind {
            RescorerConfig::Sum(sum) => sum.of.iter().collect(),
            _ => vec![name],
        };
        let rescorers: Vec<(String, &dyn Rescorer)> =
            terms.iter().map(|term| ((*term).clone(), &*fitted[*term].rescorer)).collect();
        let mut add = |prefix: &str, selection: Selection| {
            let list = if prefix.is_empty() || prefix == "path-" { &mut single } else { &mut several };
            list.push(Way {
                name: format!("{prefix}{name}"),
                rescorer: name.clone(),
                drafting: Drafting::Search(selection),
                rescorers: rescorers.clone(),
                include_top1,
                copies: false,
            });
        };
        add("", Selection::Paths(1));
        let beam = terms.iter().find_map(|term| match &config.rescorer[*term] {
            RescorerConfig::Neural(neural) => Some(neural.beam),
            _ => None,
        });
        match beam {
            Some(1) => {}
            Some(beam) => add("beam-", Selection::Paths(beam)),
            None => {
                add("path-", Selection::ExpectedPath);
                add("pbest-", paths.clone());
                add("tree-", tree.clone());
            }
        }
    }
    let ways = single.into_iter().chain(several);
    let lookup_scale = |way: Way<'a>| {
        let lookup_scale = way.expects() && !config.tuning.lookup.is_empty();
        let name = format!("{}{COPIES}", way.name);
        let second = lookup_scale.then(|| Way { name, copies: true, ..way.clone() });
        std::iter::once(way).chain(second)
    };
    ways.flat_map(lookup_scale).collect()
}
