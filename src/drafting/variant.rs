//! Variants, which say which drafts are proposed for a block.
//!
//! A [`Variant`] is a plain value. Its name is how it is written in configurations, in tables and on the command line.
//! Its [`Settings`](super::Settings) are chosen on dev. A [`PreparedVariant`](super::PreparedVariant) brings a variant
//! together with the rescorers that it names.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use super::StopRule;
use crate::error::{Error, Result, bail};
use crate::files::serde_as_text;

/// Which drafts are proposed for a block.
///
/// Written as `bpd`, `prompt-lookup`, or `[SELECTION-]RESCORER[@SOURCE][+lookup][+STOP]`, where SELECTION is `greedy`, `pbest`, `beam`,
/// `path`, `tree`, `grown`, `fixed`, `chains`, `cape` or `graph` (none: the best path), RESCORER is a `[rescorer.NAME]` or `0gram` for head scores alone, SOURCE the
/// `[rescorer.NAME]` that proposes tokens in the place of the heads, and STOP a [`StopRule`]:
/// `tree-ngram+lookup`, `bpd+max-probability=0.1`.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(with = "String")]
pub struct Variant {
    /// Where candidates come from.
    pub source: Source,
    /// The name of the rescorer that scores them beside the heads; none for head scores alone.
    pub rescorer: Option<String>,
    /// What is taken from the scored lattice.
    pub selection: Selection,
    /// Whether copies of what followed the last tokens earlier in the text compete with the lattice.
    pub lookup: bool,
    /// Where blocks end early.
    pub stop: StopRule,
}

/// Where a variant's candidates come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The lattice of the heads.
    Heads,
    /// The text: the tokens that followed the latest earlier occurrence of its last tokens. This is the control that
    /// needs no training.
    Text,
    /// The named rescorer, a language model, whose most probable tokens are proposed behind each path.
    Rescorer(String),
}

/// What a variant takes from a scored lattice. The configuration sets the numbers of paths and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Selection {
    /// The best path. By head scores alone, this is every head's first choice.
    BestPath,
    /// The path that takes the best candidate of one slot after the other, given those before.
    GreedyPath,
    /// The p best paths.
    BestPaths,
    /// Several paths that a beam search grows from left to right.
    Beam,
    /// The path with the longest expected accepted length.
    ExpectedPath,
    /// The tree with the longest expected accepted length.
    ExpectedTree,
    /// The tree with the longest expected accepted length, grown from what the heads propose behind each path instead of
    /// being taken from the lattice.
    GrownTree,
    /// A grown tree of the same shape for every block, which has the longest accepted length expected of slots and ranks alone.
    FixedTree,
    /// The best whole paths, grown in the same way.
    Chains,
    /// The path of first choices, with more tokens beside each where the drafter is less confident.
    WidenedPath,
    /// The paths of a grown graph in which equal tokens are one node.
    Graph,
}

impl Selection {
    const ALL: [Self; 11] = [
        Self::BestPath,
        Self::GreedyPath,
        Self::BestPaths,
        Self::Beam,
        Self::ExpectedPath,
        Self::ExpectedTree,
        Self::GrownTree,
        Self::FixedTree,
        Self::Chains,
        Self::WidenedPath,
        Self::Graph,
    ];

    /// Returns the prefix that stands before the rescorer's name.
    fn prefix(self) -> &'static str {
        match self {
            Self::BestPath => "",
            Self::GreedyPath => "greedy-",
            Self::BestPaths => "pbest-",
            Self::Beam => "beam-",
            Self::ExpectedPath => "path-",
            Self::ExpectedTree => "tree-",
            Self::GrownTree => "grown-",
            Self::FixedTree => "fixed-",
            Self::Chains => "chains-",
            Self::WidenedPath => "cape-",
            Self::Graph => "graph-",
        }
    }

    /// Returns whether drafts are selected for the longest expected accepted length.
    pub fn is_expected(self) -> bool {
        matches!(self, Self::ExpectedPath | Self::ExpectedTree | Self::GrownTree | Self::FixedTree)
    }

    /// Returns whether drafts are grown from what the heads propose behind each path.
    pub fn grows(self) -> bool {
        matches!(self, Self::GrownTree | Self::FixedTree | Self::Chains | Self::WidenedPath | Self::Graph)
    }

    /// Returns whether there is only one draft per block.
    pub fn is_single(self) -> bool {
        matches!(self, Self::BestPath | Self::GreedyPath | Self::ExpectedPath)
    }

    /// Returns whether by head scores alone it is every head's first choice, as in plain decoding.
    fn is_first_choices_alone(self) -> bool {
        matches!(self, Self::BestPath | Self::GreedyPath)
    }
}

/// The name of plain blockwise decoding.
const PLAIN: &str = "bpd";
/// The name of the control that copies from the text.
const TEXT: &str = "prompt-lookup";
/// The word in the place of a rescorer's name if there is no rescorer.
const NO_RESCORER: &str = "0gram";
/// The word that follows the name of a variant which also copies from the text.
const LOOKUP: &str = "lookup";

impl Variant {
    /// Returns the variant of plain blockwise parallel decoding (Stern et al. 2018), which drafts every head's first
    /// choice.
    pub fn plain() -> Self {
        Self {
            source: Source::Heads,
            rescorer: None,
            selection: Selection::BestPath,
            lookup: false,
            stop: StopRule::Never,
        }
    }

    /// Returns the variant of prompt lookup, which copies its drafts from the text alone.
    pub fn prompt_lookup() -> Self {
        Self { source: Source::Text, ..Self::plain() }
    }

    /// Makes a variant that takes `selection` from the heads' lattice, scored by the named rescorer or by head scores
    /// alone.
    pub fn new(selection: Selection, rescorer: Option<&str>) -> Self {
        Self { selection, rescorer: rescorer.map(str::to_owned), ..Self::plain() }
    }

    /// Returns whether this is plain decoding, which drafts every head's first choice and ends no block early. Gains
    /// are measured against it.
    pub fn is_plain(&self) -> bool {
        *self == Self::plain()
    }

    /// Returns whether the heads' candidates are read.
    pub fn reads_heads(&self) -> bool {
        self.source == Source::Heads
    }

    /// Returns whether a rescorer may be called `name`. Read as a variant, the name must stand for the best path under
    /// that rescorer.
    pub fn allows_rescorer(name: &str) -> bool {
        name.parse().is_ok_and(|variant: Self| variant == Self::new(Selection::BestPath, Some(name)))
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.rescorer, self.selection) {
            (Source::Text, ..) => f.write_str(TEXT)?,
            (Source::Heads, None, Selection::BestPath) => f.write_str(PLAIN)?,
            (_, rescorer, selection) => {
                write!(f, "{}{}", selection.prefix(), rescorer.as_deref().unwrap_or(NO_RESCORER))?;
            }
        }
        if let Source::Rescorer(source) = &self.source {
            write!(f, "@{source}")?;
        }
        if self.lookup {
            write!(f, "+{LOOKUP}")?;
        }
        if self.stop != StopRule::Never {
            write!(f, "+{}", self.stop)?;
        }
        Ok(())
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('+');
        let name = parts.next().unwrap_or_default();
        let (name, source) = name.split_once('@').map_or((name, None), |(name, source)| (name, Some(source)));
        let mut variant = match name {
            "" => bail!("a variant has a name, such as bpd, tree-0gram or pbest-NAME for a [rescorer.NAME]."),
            PLAIN => Self::plain(),
            TEXT => Self::prompt_lookup(),
            _ => {
                let prefixed = Selection::ALL.into_iter().filter(|selection| name.starts_with(selection.prefix()));
                let selection = prefixed.max_by_key(|selection| selection.prefix().len()).expect("the empty prefix");
                let rescorer = &name[selection.prefix().len()..];
                let rescorer = (rescorer != NO_RESCORER).then_some(rescorer);
                if rescorer == Some("") || (rescorer.is_none() && selection.is_first_choices_alone()) {
                    bail!("`{text}` is no variant: after {name} comes a rescorer's name, or 0gram behind a selection.");
                }
                Self::new(selection, rescorer)
            }
        };
        if let Some(source) = source {
            variant.source = Source::Rescorer(source.to_owned());
            if source.is_empty() || !variant.selection.grows() {
                bail!(
                    "`{text}` is no variant: behind `@` comes the rescorer that proposes tokens in the place of the heads, for drafts that grow, such as grown-0gram@NAME."
                );
            }
        }
        for part in parts {
            match part {
                LOOKUP if !variant.lookup => variant.lookup = true,
                _ if variant.stop == StopRule::Never => {
                    variant.stop = part.parse().map_err(|e: Error| e.within(format!("the variant `{text}`")))?;
                }
                _ => bail!("the variant `{text}` says `+{part}` twice or has two stop rules; say one of each."),
            }
        }
        if variant.lookup && !(variant.selection.is_expected() || variant.selection.grows()) {
            bail!(
                "the variant `{text}`: copies compete with the lattice where drafts have the longest expected accepted length; or grow; write path-NAME+lookup, tree-NAME+lookup or grown-NAME+lookup."
            );
        }
        if variant.source == Source::Text && variant.stop != StopRule::Never {
            bail!("the variant `{text}`: {TEXT} reads no heads, by whose confidence a stop rule ends blocks.");
        }
        if variant.selection.grows() && variant.stop != StopRule::Never {
            bail!(
                "the variant `{text}`: drafts that grow end where tokens are not probable enough; leave the stop rule out."
            );
        }
        Ok(variant)
    }
}

serde_as_text!(Variant);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafting::StopMeasure;
    use proptest::prelude::*;

    fn variant() -> impl Strategy<Value = Variant> {
        let stop = prop::sample::select(vec![
            StopRule::Never,
            StopRule::Below(StopMeasure::MaxProbability, 0.1),
            StopRule::Below(StopMeasure::EntropyBound, 0.25),
            StopRule::Below(StopMeasure::MaxProbability, 1e-7),
            StopRule::Tuned(StopMeasure::Confidence),
            StopRule::Length(3),
            StopRule::Adaptive,
        ]);
        let source = prop::option::of("[a-z][a-z0-9_.-]{0,6}");
        let rescorer = prop::option::of("[a-z][a-z0-9_.-]{0,6}");
        let selection = prop::sample::select(Selection::ALL.to_vec());
        (any::<bool>(), rescorer, selection, any::<bool>(), stop, source)
            .prop_map(|(text, rescorer, selection, lookup, stop, source)| match text {
                true => Variant::prompt_lookup(),
                false => {
                    let lookup = lookup && (selection.is_expected() || selection.grows());
                    let stop = if selection.grows() { StopRule::Never } else { stop };
                    let source = source.filter(|_| selection.grows()).map_or(Source::Heads, Source::Rescorer);
                    Variant { source, lookup, stop, ..Variant::new(selection, rescorer.as_deref()) }
                }
            })
            .prop_filter("names of rescorers that are allowed", |variant| match &variant.rescorer {
                Some(name) => Variant::allows_rescorer(name),
                None => variant.selection != Selection::GreedyPath,
            })
    }

    proptest! {
        #[test]
        fn a_variant_is_what_its_name_says(variant in variant()) {
            prop_assert_eq!(variant.to_string().parse::<Variant>().unwrap(), variant);
        }
    }

    #[test]
    fn names_are_read() {
        let of = |text: &str| text.parse::<Variant>().unwrap();
        assert!(of("bpd").is_plain() && !of("bpd+entropy-bound=0.3").is_plain());
        assert_eq!(of("tree-0gram"), Variant::new(Selection::ExpectedTree, None));
        let sum = Variant::new(Selection::ExpectedPath, Some("my-sum"));
        assert_eq!(of("path-my-sum+lookup"), Variant { lookup: true, ..sum });
        for (wrong, expected) in [
            ("", "has a name"),
            ("0gram", "is no variant"),
            ("tree-", "is no variant"),
            ("greedy-0gram", "is no variant"),
            ("ngram+lookup", "longest expected"),
            ("tree-ngram+lookup+lookup", "is no stop rule"),
            ("bpd+max-probability=2", "between 0 and 1"),
            ("bpd+max-probability=0.1+entropy-bound=0.1", "two stop rules"),
            ("prompt-lookup+max-probability=0.1", "reads no heads"),
            ("bpd+fast", "`fast` is no stop rule"),
            ("grown-0gram+max-probability=0.1", "leave the stop rule out"),
            ("tree-0gram@small", "for drafts that grow"),
            ("grown-0gram@", "for drafts that grow"),
            ("bpd+length=0", "at least 1"),
        ] {
            let error = wrong.parse::<Variant>().unwrap_err().to_string();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
        for name in ["bpd", "prompt-lookup", "0gram", "tree-x", "pbest-", "a+b", ""] {
            assert!(!Variant::allows_rescorer(name), "{name}");
        }
        assert!(Variant::allows_rescorer("ngram") && Variant::allows_rescorer("trees"));
    }
}
