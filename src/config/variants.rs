//! The variants of a run: those that follow from its rescorers, or those that it asks for.

use super::Config;
use crate::drafting::{Selection, Source, StopRule, Variant};
use crate::error::{Result, bail};
use crate::rescorer::RescorerConfig;

impl Config {
    /// The variants to evaluate, plain decoding first: all that the rescorers give rise to, or of these and others those that
    /// `drafting.variants` names.
    pub fn variants(&self) -> Vec<Variant> {
        let (wanted, all) = (&self.drafting.variants, self.default_variants());
        if wanted.is_empty() {
            return all;
        }
        let asked: Vec<Variant> =
            all.iter().filter(|variant| variant.is_plain() || wanted.contains(variant)).cloned().collect();
        let others = wanted.iter().filter(|variant| !all.contains(variant)).cloned();
        asked.into_iter().chain(others).collect()
    }

    /// Those that follow from the configured rescorers: variants with one draft first, plain decoding before all; each that can
    /// copy from the text is followed by the one that does.
    fn default_variants(&self) -> Vec<Variant> {
        let mut single = Vec::new();
        let mut several = vec![Variant::new(Selection::BestPaths, None), Variant::new(Selection::ExpectedTree, None)];
        several.extend(self.grows().then(|| Variant::new(Selection::GrownTree, None)));
        for name in self.rescorer.keys() {
            let selections: &[Selection] = match self.beam(name) {
                Some(1) => &[Selection::BestPath],
                Some(_) => &[Selection::BestPath, Selection::Beam],
                None => &[Selection::BestPath, Selection::ExpectedPath, Selection::BestPaths, Selection::ExpectedTree],
            };
            let grown = (self.grows() && self.scores_paths(name)).then_some(Selection::GrownTree);
            for selection in selections.iter().copied().chain(grown) {
                let list = if selection.is_single() { &mut single } else { &mut several };
                list.push(Variant::new(selection, Some(name)));
            }
        }
        let copying = |variant: Variant| {
            let copies = variant.selection.is_expected() && !self.tuning.lookup.is_empty();
            let second = copies.then(|| Variant { lookup: true, ..variant.clone() });
            std::iter::once(variant).chain(second)
        };
        let stop = self.drafting.stop;
        let stopping = |variant: Variant| match variant.selection {
            selection if selection.grows() => variant,
            _ => Variant { stop, ..variant },
        };
        let searched = single.into_iter().chain(several).flat_map(copying).map(stopping);
        let stopped = (stop != StopRule::Never).then(|| Variant { stop, ..Variant::plain() });
        [Variant::plain()].into_iter().chain(stopped).chain([Variant::prompt_lookup()]).chain(searched).collect()
    }

    /// The terms of the rescorer `name`: a sum's, else itself.
    pub fn terms<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        self.rescorer[name].terms(name)
    }

    /// How many prefixes the beam of the rescorer `name` keeps, if it reads the whole prefix: of several terms that do, the most
    /// that one of them asks for.
    pub fn beam(&self, name: &str) -> Option<usize> {
        self.terms(name).into_iter().filter_map(|term| self.rescorer[term].kind()?.beam()).max()
    }

    /// Whether trees are grown by default: the heads read what was drafted before them.
    fn grows(&self) -> bool {
        self.heads.is_sequential()
    }

    /// Whether all terms of the rescorer `name` score the candidates behind any path.
    fn scores_paths(&self, name: &str) -> bool {
        let scores = |term: &str| self.rescorer[term].kind().is_some_and(|kind| kind.scores_paths());
        self.terms(name).into_iter().all(scores)
    }

    /// Checks that no variant ends blocks by a confidence that the heads do not know.
    ///
    /// # Errors
    /// Fails if one does and the heads are not `confident`.
    pub fn check_confidence(&self, confident: bool) -> Result<()> {
        let by_confidence = |variant: &Variant| variant.stop.reads_confidence();
        match self.variants().into_iter().find(by_confidence).filter(|_| !confident) {
            None => Ok(()),
            Some(variant) => bail!(
                "`{variant}` ends blocks by the heads' confidence, which these do not know. Set `heads.bias.confidence`, or take another rule."
            ),
        }
    }

    /// Checks that the named variants can be made of the configured rescorers.
    pub(super) fn validate_variants(&self) -> Result<()> {
        self.check_confidence(self.heads.bias.is_some_and(|bias| bias.confidence))?;
        for variant in &self.drafting.variants {
            let known = || self.default_variants().iter().map(Variant::to_string).collect::<Vec<_>>().join(", ");
            let beam = match &variant.rescorer {
                None => None,
                Some(name) if self.rescorer.contains_key(name) => self.beam(name),
                Some(name) => bail!(
                    "`drafting.variants` names `{variant}`, but there is no [rescorer.{name}]; the variants here are {}.",
                    known()
                ),
            };
            if let Source::Rescorer(name) = &variant.source {
                let kind = self.rescorer.get(name).and_then(RescorerConfig::kind);
                if !kind.is_some_and(|kind| kind.is_language_model()) {
                    bail!(
                        "`drafting.variants` names `{variant}`, but `{name}` is no rescorer that knows the probabilities of all tokens; only an n-gram or a neural rescorer can propose tokens in the place of the heads."
                    );
                }
            }
            let by_ranks = variant.source == Source::Heads && variant.rescorer.is_none();
            if variant.selection == Selection::FixedTree && !by_ranks {
                bail!(
                    "`drafting.variants` names `{variant}`, but the shape of such a tree is measured on the heads' own ranks; write fixed-0gram, or grown-NAME for a tree that rescorers shape."
                );
            }
            if variant.selection == Selection::Graph
                && variant.source == Source::Heads
                && self.drafting.graph.merge
                && !self.heads.is_sequential()
            {
                bail!(
                    "`drafting.variants` names `{variant}`, but these heads propose the same tokens behind every path, so there is nothing to merge; set `drafting.graph.merge = false`, or take heads that read what was drafted before them."
                );
            }
            if let (true, Some(name)) = (variant.selection.grows(), &variant.rescorer)
                && !self.scores_paths(name)
            {
                bail!(
                    "`drafting.variants` names `{variant}`, but `{name}` scores the candidates of a lattice, and drafts that grow have none; n-gram, neural and transition rescorers score any path. The variants here are {}.",
                    known()
                );
            }
            let possible = match variant.selection {
                Selection::BestPath => true,
                selection if selection.grows() => true,
                Selection::Beam => beam.is_some_and(|beam| beam > 1),
                _ => beam.is_none(),
            };
            if !possible {
                bail!(
                    "`drafting.variants` names `{variant}`, but a rescorer that reads the whole prefix is searched from left to right, by itself or (beam-NAME) by a beam of more than 1, and no other is; the variants here are {}.",
                    known()
                );
            }
        }
        Ok(())
    }
}
