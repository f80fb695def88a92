//! A variant together with what it needs: its rescorers, and the sizes that the configuration gives it.

use serde::Serialize;

use super::{Bpd, Drafter, PromptLookup, Rescoring, Selection, Settings, Source, Variant};
use crate::config::DraftingConfig;
use crate::lattice::Weighting;
use crate::rescorer::Rescorer;

/// What is taken from the lattice, with its size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum SizedSelection {
    /// The p best paths.
    Paths(usize),
    /// The path with the longest expected accepted length.
    ExpectedPath,
    /// The tree of so many nodes with the longest expected accepted length.
    ExpectedTree(usize),
    /// The tree that makes the most of its time, given the seconds of a block by its nodes (from 1) on this machine. What a
    /// second is worth is what the blocks before were expected to bring in theirs, so the tree is a function of the committed
    /// blocks and the given seconds, not of the clock.
    TimedTree(Vec<f64>),
}

/// A variant that is ready to draft once it has settings.
#[derive(Clone)]
pub struct PreparedVariant<'a> {
    /// The variant.
    pub variant: Variant,
    /// The terms of its rescorer by name: several for a sum, none for head scores alone.
    terms: Vec<(String, &'a dyn Rescorer)>,
    selection: SizedSelection,
    include_top1: bool,
    switched_off: bool,
}

impl<'a> PreparedVariant<'a> {
    /// A variant whose rescorer has the given `terms` (by name, in the order of its shares); `beam` is how many prefixes a
    /// [`Selection::Beam`] keeps.
    pub fn new(
        variant: Variant,
        terms: Vec<(String, &'a dyn Rescorer)>,
        options: &DraftingConfig,
        beam: usize,
    ) -> Self {
        let selection = match variant.selection {
            Selection::BestPath => SizedSelection::Paths(1),
            Selection::BestPaths => SizedSelection::Paths(options.paths),
            Selection::Beam => SizedSelection::Paths(beam),
            Selection::ExpectedPath => SizedSelection::ExpectedPath,
            Selection::ExpectedTree => SizedSelection::ExpectedTree(options.nodes),
        };
        Self { variant, terms, selection, include_top1: options.include_top1, switched_off: false }
    }

    /// Returns what drafts, with the given settings.
    pub fn drafter<'b>(&'b self, settings: &Settings) -> Box<dyn Drafter + 'b> {
        match self.variant.source {
            Source::Text => Box::new(PromptLookup),
            // Every head's first choice, found without a search.
            Source::Heads if self.is_first_choices() => Box::new(Bpd),
            Source::Heads => Box::new(self.rescoring(self.selection.clone(), self.include_top1, settings)),
        }
    }

    /// Returns what drafts the `p` best paths and no other, for a variant with [`Selection::BestPaths`] that is not switched
    /// off.
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

    /// Returns the same variant drafting as plain decoding does.
    #[must_use]
    pub fn switched_off(self) -> Self {
        Self { switched_off: true, ..self }
    }

    /// Returns the same variant with trees of another size; one that drafts no trees stays as it is.
    #[must_use]
    pub fn with_trees(self, trees: SizedSelection) -> Self {
        if self.drafts_trees() { Self { selection: trees, ..self } } else { self }
    }

    /// Whether it drafts trees, whose size is a matter of the machine's time.
    pub fn drafts_trees(&self) -> bool {
        self.variant.selection == Selection::ExpectedTree && !self.switched_off
    }

    /// Whether candidates are compared, so that their scores matter and not only their order.
    pub fn searches(&self) -> bool {
        self.variant.source == Source::Heads && !self.is_first_choices()
    }

    /// What is taken from the lattice.
    pub fn selection(&self) -> &SizedSelection {
        &self.selection
    }

    /// The terms of its rescorer by name.
    pub fn terms(&self) -> &[(String, &'a dyn Rescorer)] {
        &self.terms
    }

    /// Whether one of its rescorers reads the whole prefix, so that paths are searched from left to right.
    pub fn reads_prefix(&self) -> bool {
        self.terms.iter().any(|(_, rescorer)| rescorer.reads_prefix())
    }

    /// p: the most drafts in a call; a tree counts as one for each of its leaves, which its nodes bound.
    pub fn drafts(&self) -> usize {
        match &self.selection {
            _ if !self.searches() => 1,
            SizedSelection::Paths(p) => *p,
            SizedSelection::ExpectedTree(nodes) => *nodes,
            SizedSelection::TimedTree(seconds) => seconds.len(),
            SizedSelection::ExpectedPath => 1,
        }
    }

    /// Where the search for settings begins: at scale and shares of the best path under the same rescorer, if its settings are
    /// known (`single`), else with a rescorer that has no say. Everything else is as in `settings`.
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
