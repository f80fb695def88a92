//! `[rescorer.NAME]`: what chooses among the heads' candidates.

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use super::{Config, LanguageModelConfig, OptimizationConfig, TraceText};
use crate::error::{Result, bail};
use crate::ngram::Smoothing;

/// `[rescorer.NAME]`, by its `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RescorerConfig {
    /// An n-gram language model: global rescoring.
    Ngram(NgramConfig),
    /// A small decoder-only language model: local rescoring.
    Neural(NeuralConfig),
    /// A bilinear score of neighbouring candidates, given the backbone's hidden state: global rescoring.
    Transition(LatticeRescorerConfig),
    /// Vocabulary attention with look-around, which adjusts each slot's scores by what its neighbours hold.
    Lava(LatticeRescorerConfig),
    /// A weighted sum of other rescorers.
    Sum(SumConfig),
}

/// Text that a rescorer is fitted on; always of the train split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextSource {
    /// The corpus's own text.
    Gold,
    /// The text that the backbone wrote itself: greedy and sampled traces.
    Traces,
}

/// `kind = "ngram"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NgramConfig {
    /// Longest n-gram, 1 to 6.
    pub order: usize,
    /// What is counted.
    pub text: Vec<TextSource>,
    /// "kneser-ney" or "katz".
    pub smoothing: Smoothing,
    /// Discounts for an order whose counts of counts are degenerate, as those of small texts are.
    pub discount_fallback: [f64; 3],
    /// n-grams that occur at most so often are left out: a number per order, unigrams first; the last stands for the rest.
    pub prune: Vec<u64>,
    /// Megabytes for sorting; what does not fit goes to temporary files in the run.
    pub memory_mb: usize,
}

impl Default for NgramConfig {
    fn default() -> Self {
        Self {
            order: 3,
            text: vec![TextSource::Gold, TextSource::Traces],
            smoothing: Smoothing::default(),
            discount_fallback: [0.5, 1.0, 1.5],
            prune: Vec::new(),
            memory_mb: 1024,
        }
    }
}

/// `kind = "neural"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeuralConfig {
    /// What it is trained on.
    pub text: Vec<TextSource>,
    /// Its size.
    pub model: LanguageModelConfig,
    /// Documents per training step.
    pub documents_per_step: usize,
    /// Prefixes that `beam-NAME` keeps: its drafts. 1: no such variant.
    pub beam: usize,
    /// What the log-probabilities by which a beam compares its prefixes are normalised over.
    pub normalise: Normalisation,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for NeuralConfig {
    fn default() -> Self {
        Self {
            text: vec![TextSource::Gold, TextSource::Traces],
            model: LanguageModelConfig {
                hidden: 128,
                layers: 2,
                heads: 4,
                kv_heads: 4,
                intermediate: 352,
                context: 512,
            },
            documents_per_step: 16,
            beam: 4,
            normalise: Normalisation::Vocabulary,
            training: OptimizationConfig { steps: 200, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

/// Whose probabilities sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// All tokens'.
    Vocabulary,
    /// The slot's candidates'.
    Candidates,
}

/// What a network of lattices learns from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatticeLoss {
    /// The cross-entropy of the true token over each slot's candidates, behind the true token before.
    #[default]
    CrossEntropy,
    /// The negative log-likelihood of the true path among all paths of the lattice: a linear-chain conditional random field
    /// (Lafferty et al. 2001).
    Crf,
}

impl LatticeLoss {
    /// What was fitted before there was a choice stays valid.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `kind = "transition"` and `kind = "lava"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatticeRescorerConfig {
    /// Width to which embeddings and hidden states are mapped.
    pub rank: usize,
    /// "cross-entropy" or, for "transition", "crf".
    #[serde(skip_serializing_if = "LatticeLoss::is_default")]
    pub loss: LatticeLoss,
    /// Blocks per training step.
    pub blocks_per_step: usize,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
}

impl Default for LatticeRescorerConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            loss: LatticeLoss::default(),
            blocks_per_step: 256,
            training: OptimizationConfig { steps: 300, learning_rate: 3e-3, ..OptimizationConfig::default() },
        }
    }
}

/// `kind = "sum"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SumConfig {
    /// Names of the rescorers that are summed, two or more; their shares are chosen on dev.
    pub of: Vec<String>,
}

/// Most n-gram models in a sum.
pub const MOST_NGRAMS: usize = 2;

impl RescorerConfig {
    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ngram(_) => "ngram",
            Self::Neural(_) => "neural",
            Self::Transition(_) => "transition",
            Self::Lava(_) => "lava",
            Self::Sum(_) => "sum",
        }
    }

    /// Itself without what only drafting reads: two of them that are equal are fitted alike.
    pub fn fitted(&self) -> Self {
        match self {
            Self::Neural(neural) => {
                let NeuralConfig { beam, normalise, .. } = NeuralConfig::default();
                Self::Neural(NeuralConfig { beam, normalise, ..neural.clone() })
            }
            other => other.clone(),
        }
    }

    /// Whether it is fitted on what the heads propose.
    pub fn reads_lattices(&self) -> bool {
        matches!(self, Self::Transition(_) | Self::Lava(_))
    }

    /// What text it is fitted on, where the configuration says it.
    fn text(&self) -> Option<&[TextSource]> {
        match self {
            Self::Ngram(ngram) => Some(&ngram.text),
            Self::Neural(neural) => Some(&neural.text),
            Self::Transition(_) | Self::Lava(_) | Self::Sum(_) => None,
        }
    }

    /// `whole` is what its traces and the other rescorers come from.
    pub(super) fn validate(&self, key: &str, whole: &Config) -> Result<()> {
        if let Some(text) = self.text() {
            if text.is_empty() {
                bail!("`{key}.text` is empty; name at least one source: \"gold\" or \"traces\".");
            }
            if text == [TextSource::Traces] && whole.traces.train_text == [TraceText::Corpus] {
                bail!(
                    "`{key}.text` is the backbone's own text alone, but `traces.train_text` has none. Add \"greedy\" or \"sampled\" to the latter, or \"gold\" to the former."
                );
            }
        }
        match self {
            Self::Ngram(ngram) => {
                if !(1..=6).contains(&ngram.order) {
                    bail!("`{key}.order` is {}; orders 1 to 6 are supported.", ngram.order);
                }
                if !ngram.prune.is_sorted() || ngram.prune.len() > ngram.order {
                    bail!(
                        "`{key}.prune` is {:?}; it takes at most one number per order, none smaller than the one before.",
                        ngram.prune
                    );
                }
                at_least(&format!("{key}.memory_mb"), ngram.memory_mb, 16)
            }
            Self::Neural(neural) => {
                neural.model.validate(&format!("{key}.model"))?;
                at_least(&format!("{key}.documents_per_step"), neural.documents_per_step, 1)?;
                at_least(&format!("{key}.beam"), neural.beam, 1)?;
                neural.training.validate(&format!("{key}.training"))
            }
            Self::Transition(lattice) | Self::Lava(lattice) => {
                if matches!(self, Self::Lava(_)) && lattice.loss == LatticeLoss::Crf {
                    bail!(
                        "`{key}.loss` is \"crf\", but a \"lava\" rescorer scores every slot by itself: over its paths that is \"cross-entropy\". Leave it out, or use kind \"transition\"."
                    );
                }
                at_least(&format!("{key}.rank"), lattice.rank, 1)?;
                at_least(&format!("{key}.blocks_per_step"), lattice.blocks_per_step, 1)?;
                lattice.training.validate(&format!("{key}.training"))
            }
            Self::Sum(sum) => sum.validate(key, whole),
        }
    }
}

impl SumConfig {
    fn validate(&self, key: &str, whole: &Config) -> Result<()> {
        at_least(&format!("{key}: the number of names in `of`"), self.of.len(), 2)?;
        let (mut ngrams, mut neural) = (0, 0);
        for (index, name) in self.of.iter().enumerate() {
            match whole.rescorer.get(name) {
                None => bail!("`{key}.of` names `{name}`, but there is no [rescorer.{name}]."),
                Some(RescorerConfig::Sum(_)) => {
                    bail!("`{key}.of` names `{name}`, which is a sum itself; name its terms instead.")
                }
                Some(RescorerConfig::Ngram(_)) => ngrams += 1,
                Some(RescorerConfig::Neural(_)) => neural += 1,
                Some(RescorerConfig::Transition(_) | RescorerConfig::Lava(_)) => {}
            }
            if self.of[..index].contains(name) {
                bail!("`{key}.of` names `{name}` twice.");
            }
        }
        if ngrams > MOST_NGRAMS || neural > 1 {
            bail!(
                "`{key}.of` names {ngrams} n-gram models and {neural} neural ones; a sum takes at most {MOST_NGRAMS} and 1."
            );
        }
        Ok(())
    }
}
