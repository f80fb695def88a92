//! Variants together with what they need to draft: their rescorers, and the sizes that the configuration sets.

use serde::Serialize;

use super::{
    Bpd, Drafter, DraftingConfig, Grown, GrowthLimits, GrowthPolicy, PromptLookup, Rescoring, Selection, Settings,
    Source, Sourced, StopRule, TunedStop, Variant,
};
use crate::lattice::Weighting;
use crate::rescorer::Rescorer;

/// What a variant takes from the lattice, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum SizedSelection {
    /// The p best paths.
    Paths(usize),
    /// The path that takes the best candidate of one slot after the other.
    GreedyPath,
    /// The path with the longest expected accepted length.
    ExpectedPath,
    /// The tree with the longest expected accepted length among those with the given number of nodes.
    ExpectedTree(usize),
    /// What is grown from what the heads propose behind each path.
    Grown(GrowthPolicy, GrowthLimits),
}

/// A variant that is ready to draft once it has settings.
#[derive(Clone)]
pub struct PreparedVariant<'a> {
    /// The variant.
    pub variant: Variant,
    /// The terms of its rescorer, each with its name. A sum has several, and head scores alone have none.
    terms: Vec<(String, &'a dyn Rescorer)>,
    /// What proposes tokens in the place of the heads.
    source: Option<Proposer<'a>>,
    selection: SizedSelection,
    include_top1: bool,
    switched_off: bool,
}

/// A rescorer that proposes tokens in the place of the heads.
#[derive(Clone, Copy)]
pub struct Proposer<'a> {
    /// The rescorer, a language model.
    pub rescorer: &'a dyn Rescorer,
    /// The number of tokens in its vocabulary.
    pub vocabulary: usize,
    /// The number of tokens proposed behind a path.
    pub k: usize,
}

impl<'a> PreparedVariant<'a> {
    /// Prepares a variant. `terms` are those of its rescorer, each with its name, in the order of the shares. `beam` is
    /// the number of prefixes that a [`Selection::Beam`] keeps.
    pub fn new(
        variant: Variant,
        terms: Vec<(String, &'a dyn Rescorer)>,
        options: &DraftingConfig,
        beam: usize,
    ) -> Self {
        let limits = GrowthLimits { nodes: options.nodes, frontier: options.frontier };
        let selection = match variant.selection {
            Selection::BestPath => SizedSelection::Paths(1),
            Selection::GreedyPath => SizedSelection::GreedyPath,
            Selection::BestPaths => SizedSelection::Paths(options.paths),
            Selection::Beam => SizedSelection::Paths(beam),
            Selection::ExpectedPath => SizedSelection::ExpectedPath,
            Selection::ExpectedTree => SizedSelection::ExpectedTree(options.nodes),
            Selection::GrownTree => SizedSelection::Grown(GrowthPolicy::MostProbable, limits),
            Selection::FixedTree => SizedSelection::Grown(GrowthPolicy::FixedShape, limits),
            Selection::Chains => {
                let (branching, paths) = (options.branching.clone(), options.paths);
                SizedSelection::Grown(GrowthPolicy::WholePaths { branching, paths }, limits)
            }
            Selection::WidenedPath => {
                let widths = options.confidence_widths.clone();
                SizedSelection::Grown(GrowthPolicy::WidenedPath { widths }, limits)
            }
            Selection::Graph => SizedSelection::Grown(GrowthPolicy::Graph(options.graph.clone()), limits),
        };
        Self { variant, terms, source: None, selection, include_top1: options.include_top1, switched_off: false }
    }

    /// Returns the drafter of this variant with the given settings.
    pub fn drafter<'b>(&'b self, settings: &Settings) -> Box<dyn Drafter + 'b> {
        let inner: Box<dyn Drafter + 'b> = match &self.selection {
            _ if self.variant.source == Source::Text => Box::new(PromptLookup),
            // The best path by head scores is every head's first choice, which needs no search.
            _ if self.is_first_choices() => Box::new(Bpd),
            SizedSelection::Grown(policy, limits) => {
                let grown = Grown {
                    rescorers: self.terms.iter().map(|(_, rescorer)| *rescorer).collect(),
                    policy: policy.clone(),
                    limits: *limits,
                    settings: settings.clone(),
                };
                match self.source {
                    None => Box::new(grown),
                    Some(Proposer { rescorer, vocabulary, k }) => Box::new(Sourced {
                        source: rescorer,
                        vocabulary,
                        k,
                        frontier: limits.frontier,
                        inner: Box::new(grown),
                    }),
                }
            }
            _ => Box::new(self.rescoring(self.selection.clone(), self.include_top1, settings)),
        };
        match (self.variant.stop.measure(), settings.stop_bound) {
            (Some(measure), Some(bound)) => {
                let follows = self.variant.stop == StopRule::Adaptive;
                Box::new(TunedStop { inner, measure, bound, follows })
            }
            _ => inner,
        }
    }

    /// Returns the same variant with tokens proposed by a rescorer, as [`Source::Rescorer`] asks.
    #[must_use]
    pub fn proposed_by(self, source: Proposer<'a>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Returns a drafter of exactly the `p` best paths, or `None` unless this variant has [`Selection::BestPaths`] and
    /// is not switched off.
    pub fn best_paths<'b>(&'b self, p: usize, settings: &Settings) -> Option<Box<dyn Drafter + 'b>> {
        let applies = self.variant.selection == Selection::BestPaths && !self.switched_off;
        applies.then(|| Box::new(self.rescoring(SizedSelection::Paths(p), false, settings)) as Box<dyn Drafter>)
    }

    fn rescoring(&self, selection: SizedSelection, include_top1: bool, settings: &Settings) -> Rescoring<'_> {
        let rescorers = self.terms.iter().map(|(_, rescorer)| *rescorer).collect();
        Rescoring { rescorers, selection, include_top1, settings: settings.clone() }
    }

    fn is_first_choices(&self) -> bool {
        self.switched_off || (self.variant.rescorer.is_none() && self.variant.selection == Selection::BestPath)
    }

    /// Returns the same variant, switched off: it drafts as plain decoding does.
    #[must_use]
    pub fn switched_off(self) -> Self {
        Self { switched_off: true, ..self }
    }

    /// Returns the same variant with trees of `nodes` nodes. A variant that drafts no trees is returned unchanged.
    #[must_use]
    pub fn with_nodes(self, nodes: usize) -> Self {
        let selection = match self.selection {
            SizedSelection::ExpectedTree(_) => SizedSelection::ExpectedTree(nodes),
            SizedSelection::Grown(policy, limits) => SizedSelection::Grown(policy, GrowthLimits { nodes, ..limits }),
            other => other,
        };
        Self { selection, ..self }
    }

    /// Returns whether this variant drafts trees from the heads. How large they should be depends on the speed of the machine.
    pub fn drafts_trees(&self) -> bool {
        let trees = matches!(self.variant.selection, Selection::ExpectedTree | Selection::GrownTree);
        trees && self.variant.source == Source::Heads && !self.switched_off
    }

    /// Returns whether drafting compares the scores of candidates. If not, only the order of candidates matters, or
    /// none are read.
    pub fn searches(&self) -> bool {
        self.variant.source != Source::Text && !self.is_first_choices()
    }

    /// Returns whether drafts are grown from what is proposed behind each path.
    pub fn grows(&self) -> bool {
        self.variant.selection.grows() && !self.switched_off
    }

    /// Returns what this variant takes from the lattice.
    pub fn selection(&self) -> &SizedSelection {
        &self.selection
    }

    /// Returns the terms of its rescorer, each with its name.
    pub fn terms(&self) -> &[(String, &'a dyn Rescorer)] {
        &self.terms
    }

    /// Returns the names of all its rescorers: the terms, and the one that proposes tokens.
    pub fn rescorers(&self) -> impl Iterator<Item = &str> {
        let source = match &self.variant.source {
            Source::Rescorer(name) => Some(&**name),
            Source::Heads | Source::Text => None,
        };
        self.terms.iter().map(|(name, _)| &**name).chain(source)
    }

    /// Returns the rescorer that proposes tokens in the place of the heads, if one does.
    pub fn source(&self) -> Option<&'a dyn Rescorer> {
        self.source.filter(|_| !self.switched_off).map(|source| source.rescorer)
    }

    /// Returns whether one of its rescorers reads the whole prefix. If so, paths are searched from left to right.
    pub fn reads_prefix(&self) -> bool {
        self.terms.iter().any(|(_, rescorer)| rescorer.reads_prefix())
    }

    /// Returns the largest number of drafts for a block. A tree has one draft per leaf, so its number of nodes is the
    /// bound.
    pub fn drafts(&self) -> usize {
        match &self.selection {
            _ if !self.searches() => 1,
            SizedSelection::Paths(p) => *p,
            SizedSelection::Grown(GrowthPolicy::WholePaths { paths, .. }, _) => *paths,
            SizedSelection::ExpectedTree(nodes) | SizedSelection::Grown(_, GrowthLimits { nodes, .. }) => *nodes,
            SizedSelection::GreedyPath | SizedSelection::ExpectedPath => 1,
        }
    }

    /// Returns the settings from which the search for better ones begins.
    ///
    /// `single` are the settings of the best path under the same rescorer, if they are known. The scale, the tempering
    /// and the shares are taken from there. Otherwise the shares are equal. Everything else is as in `settings`.
    pub fn start(&self, settings: &Settings, single: Option<&Settings>) -> Settings {
        let terms = self.terms.len();
        match single {
            None => Settings { shares: vec![1.0 / terms.max(1) as f64; terms], ..settings.clone() },
            Some(single) => Settings {
                weighting: Weighting::from(single.weighting.scale),
                tempering: single.tempering,
                shares: single.shares.clone(),
                ..settings.clone()
            },
        }
    }
}
