//! `[heads]`: the prediction heads, what they are to predict, their loss and their training.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{BiasConfig, Binding, HeadArchitecture, SelectorConfig};
use crate::bounds::above_zero;
use crate::error::{Result, bail};
use crate::nn::Criterion;
use crate::storage_type::StorageType;
use crate::traces::TraceText;
use crate::training::OptimizationConfig;

/// `[heads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadsConfig {
    /// H: the number of tokens proposed at once. Head 1 is the backbone's own prediction; H - 1 heads are trained.
    #[schemars(range(min = 2))]
    pub block_size: usize,
    /// What a head is made of.
    pub architecture: HeadArchitecture,
    /// A bias of every slot's logits by the tokens before it, for parallel heads without an unembedding of their own. Their
    /// candidates then depend on the path, as those of sequential heads do.
    pub bias: Option<BiasConfig>,
    /// A scorer of neighbouring candidates that learns with parallel heads without an unembedding of their own (DFlash2). A rescorer
    /// of kind "selector" drafts with it.
    pub selector: Option<SelectorConfig>,
    /// A folder with trained heads of the same architecture and number to start from, such as `runs/first/heads`. Empty: new
    /// heads. (A training that was interrupted needs no key: the same command continues it.)
    pub init_from: String,
    /// Whether heads that were trained above another backbone of the same width and tokenizer are used all the same, with a
    /// warning.
    pub accept_backbone: bool,
    /// Heads that are there already, to be evaluated in place of trained ones: a folder of heads or of a run, the checkpoint of another
    /// project in a format that `draftsmith export` knows, or a model of the hub (`org/name`). Empty: heads are trained.
    pub from: String,
    /// The type of the heads' matrices that the CPU drafts with. They are trained and saved as float32, and accelerators draft
    /// with them so.
    pub weights: StorageType,
    /// What heads that read the tokens drafted before them are given in training. On dev it is always the text's tokens: what
    /// follows a wrong one is never accepted.
    pub feed: Feed,
    /// Which heads a training step covers.
    pub loss: HeadLoss,
    /// What the loss of a head measures. All but the cross-entropy go by the overlap of the head's distribution with its
    /// target's, which is to be the backbone's own: then `heads.soft_targets` is 1. The loss on dev is always the cross-entropy.
    pub criterion: Criterion,
    /// By how much a head's loss grows with the distance of its state from the backbone's own last state at the same place: the mean
    /// over the numbers of a state of the smooth L1 loss (half the square of a difference below 1, and a half less than the
    /// difference beyond it). EAGLE trains with 10 times as much of it as of the cross-entropy. In training only.
    #[schemars(range(min = 0.0))]
    pub feature_loss: f64,
    /// In training, the width of uniform noise that is added to the states that heads read, times 512 / T for a text of T tokens.
    /// EAGLE takes 0.2. Embeddings are left as they are.
    #[schemars(range(min = 0.0))]
    pub feature_noise: f64,
    /// By how much the loss of a `lava` head grows with the mean loss of what it predicts for the slots beside its own. In training
    /// only.
    #[schemars(range(min = 0.0))]
    pub neighbour_loss: f64,
    /// How much each head counts: with mean losses L_2 .. L_H, the loss is `sum_j w_j L_j / sum_j w_j`, in training and on dev.
    pub loss_weights: LossWeights,
    /// The share of the targets that is the backbone's own distribution at the predicted position; the rest is the token of the
    /// text. The distribution is computed anew from the state `last`, over the tokens that heads are trained on; where
    /// `traces.probabilities` is above 0, it is that of the tokens kept.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub soft_targets: f64,
    /// How often positions of each kind of text in `traces.train_text` are drawn; only the ratios of the numbers count. Empty:
    /// every position is equally likely.
    #[schemars(schema_with = "text_weights")]
    pub text: BTreeMap<TraceText, f64>,
    /// A part of the vocabulary to train on, and perhaps to draft from: the tokens that are most frequent in the continuations
    /// of the train traces. Without it, heads are trained on the whole vocabulary.
    pub vocabulary: Option<VocabularyConfig>,
    /// The number of positions per training step.
    #[schemars(range(min = 1))]
    pub positions_per_step: usize,
    /// How many positions of a step are drawn from the same document; it divides `heads.positions_per_step`. Of a document, heads
    /// that attend to the text read everything before its last position, and so do traces whose states are computed anew: then
    /// more positions a document are cheaper.
    #[schemars(range(min = 1, max = 65_536))]
    pub positions_per_document: usize,
    /// Whether positions whose target lies in the prompt are trained on as well.
    pub prompt_positions: bool,
    /// What the best checkpoint, and `heads.training.patience`, go by.
    pub choose_by: ChooseBy,
    /// Whether the weights at every multiple of `heads.training.checkpoint_every` steps are kept for `evaluate
    /// --all-checkpoints`, at 4 bytes a parameter each. Otherwise only the latest and the best checkpoint stay. The heads are the same
    /// with it and without.
    pub keep_checkpoints: bool,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
    /// Consecutive phases of the training, each with data, targets and a learning rate of its own. What a phase leaves out is as
    /// in `[heads]` and `[heads.training]`. Without phases, the training is one whole.
    pub phase: Vec<HeadPhase>,
}

/// Returns the schema of `heads.text`: numbers above 0 by the kind of text.
fn text_weights(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": TraceText::json_schema(generator),
        "additionalProperties": { "type": "number", "exclusiveMinimum": 0 },
    })
}

impl Default for HeadsConfig {
    fn default() -> Self {
        Self {
            block_size: 9,
            architecture: HeadArchitecture::default(),
            bias: None,
            selector: None,
            init_from: String::new(),
            accept_backbone: false,
            from: String::new(),
            weights: StorageType::Float32,
            feed: Feed::Text,
            loss: HeadLoss::All,
            criterion: Criterion::CrossEntropy,
            feature_loss: 0.0,
            feature_noise: 0.0,
            neighbour_loss: 0.0,
            loss_weights: LossWeights::Constant,
            soft_targets: 0.0,
            text: BTreeMap::new(),
            vocabulary: None,
            positions_per_step: 1024,
            positions_per_document: 1,
            prompt_positions: false,
            choose_by: ChooseBy::DevLoss,
            keep_checkpoints: false,
            training: OptimizationConfig { steps: 200, learning_rate: 2e-3, ..OptimizationConfig::default() },
            phase: Vec::new(),
        }
    }
}

impl HeadsConfig {
    /// Returns whether candidates depend on what was drafted before them.
    pub fn is_sequential(&self) -> bool {
        self.bias.is_some() || self.architecture.kind().is_sequential()
    }

    /// Which backbones heads from elsewhere may have been trained above.
    pub fn binding(&self) -> Binding {
        if self.accept_backbone { Binding::Accepted } else { Binding::Same }
    }
}

/// `[[heads.phase]]`: what is not given is as in `[heads]` and `[heads.training]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadPhase {
    /// The number of steps of the phase; those of all phases add up to `heads.training.steps`.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// The names of the corpora to train on; all corpora where it is not given.
    #[schemars(length(min = 1))]
    pub data: Option<Vec<String>>,
    /// As `heads.text`.
    #[schemars(schema_with = "optional_text_weights")]
    pub text: Option<BTreeMap<TraceText, f64>>,
    /// As `heads.soft_targets`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub soft_targets: Option<f64>,
    /// The highest learning rate of the phase.
    #[schemars(transform = above_zero)]
    pub learning_rate: Option<f64>,
    /// The number of steps of the phase's own warm-up.
    pub warmup_steps: Option<usize>,
}

fn optional_text_weights(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = text_weights(generator);
    schema.insert("type".into(), serde_json::json!(["object", "null"]));
    schema
}

/// `heads.vocabulary`: the tokens that are most frequent in the continuations of the train traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabularyConfig {
    /// The number of tokens.
    #[schemars(range(min = 2))]
    pub size: usize,
    /// Whether the heads draft from these tokens only: lattices are then cheaper, and other tokens are never proposed.
    pub drafting: bool,
}

/// What is best on dev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChooseBy {
    /// The lowest loss.
    DevLoss,
    /// The highest block efficiency of plain decoding (`bpd`), replayed.
    DevBlockEfficiency,
}

/// What heads that read the tokens drafted before them are given in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// The text's tokens, as if everything before had been accepted.
    Text,
    /// The heads' own first choices, right or wrong. What is to be predicted stays the text.
    Drafted,
}

/// Which heads a training step covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeadLoss {
    /// The weighted mean loss of all heads.
    All,
    /// One head drawn uniformly, its loss times its weight over the mean weight: an unbiased estimate of that mean (Stern
    /// et al. 2018).
    OneRandom,
    /// All heads with a probability that grows from 0 to 1 over this many steps, else one head drawn as above.
    Annealed(#[schemars(range(min = 1))] usize),
}

/// How much each head counts: with mean losses L_2 .. L_H, the loss is `sum_j w_j L_j / sum_j w_j`, in training and on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossWeights {
    /// w_j = 1.
    Constant,
    /// w_j = decay^(j - 2), which is 1 for head 2. Medusa-1 takes 0.8.
    Decay(#[schemars(range(max = 1.0), transform = above_zero)] f64),
    /// w_j = e^(-(j - 2) / exp), which is 1 for head 2. DFlash takes 4 to 7.
    Exp(#[schemars(transform = above_zero)] f64),
    /// By block, from how sure its heads are of the text (D-PACE, arXiv 2605.18810): with the probability q_j that head j gives
    /// to the text's token and `c_j = (1 - pace) q_j + pace`, `w_j = sum_(i >= j) prod_(m <= i) c_m`, over the slots of the block
    /// that have a target. It counts as a constant, and weights are scaled to a mean of 1 in each step; on dev, w_j = 1. The
    /// authors take 0.5.
    Pace(#[schemars(range(min = 0.0, max = 1.0))] f64),
    /// w_2 .. w_H: one number for each of the H - 1 trained heads.
    #[serde(untagged)]
    List(#[schemars(transform = above_zero)] Vec<f64>),
}

impl LossWeights {
    /// The weights of `count` heads, scaled to a mean of 1: a constant weight is then exactly 1. Where blocks have weights of
    /// their own, these come on top.
    pub fn with_mean_one(&self, count: usize) -> Vec<f64> {
        let weights = match self {
            Self::Constant | Self::Pace(_) => vec![1.0; count],
            Self::Decay(decay) => (0..count).map(|head| decay.powi(head as i32)).collect(),
            Self::Exp(slots) => (0..count).map(|head| (-(head as f64) / slots).exp()).collect(),
            Self::List(weights) => weights.clone(),
        };
        let mean = weights.iter().sum::<f64>() / count as f64;
        weights.into_iter().map(|weight| weight / mean).collect()
    }
}

impl HeadsConfig {
    /// The phases with nothing left open; one where none is given.
    pub fn phases(&self) -> Vec<HeadPhase> {
        let whole = [HeadPhase {
            steps: self.training.steps,
            data: None,
            text: None,
            soft_targets: None,
            learning_rate: None,
            warmup_steps: None,
        }];
        let given = if self.phase.is_empty() { &whole[..] } else { &self.phase };
        let filled = |phase: &HeadPhase| HeadPhase {
            steps: phase.steps,
            data: phase.data.clone(),
            text: Some(phase.text.clone().unwrap_or_else(|| self.text.clone())),
            soft_targets: Some(phase.soft_targets.unwrap_or(self.soft_targets)),
            learning_rate: Some(phase.learning_rate.unwrap_or(self.training.learning_rate)),
            warmup_steps: Some(phase.warmup_steps.unwrap_or(self.training.warmup_steps)),
        };
        given.iter().map(filled).collect()
    }

    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Returns an error if values are out of range or contradict each other. The message names the key.
    pub(crate) fn validate(&self) -> Result<()> {
        self.architecture.kind().validate()?;
        let count = self.block_size - 1;
        if let LossWeights::List(weights) = &self.loss_weights
            && weights.len() != count
        {
            bail!(
                "`heads.loss_weights` has {} numbers, but `heads.block_size` = {} trains {count} heads; give one number for each of heads 2 to {}.",
                weights.len(),
                self.block_size,
                self.block_size
            );
        }
        if self.feed == Feed::Drafted && !self.is_sequential() {
            bail!(
                "`heads.feed` is \"drafted\", but heads of this kind read no drafted tokens. Leave it out, or take sequential heads."
            );
        }
        if self.feed == Feed::Drafted && self.loss != HeadLoss::All {
            bail!(
                "`heads.feed` is \"drafted\", but `heads.loss` leaves heads out, and then there is no choice of theirs to read. Set `heads.loss` to \"all\"."
            );
        }
        let own_unembedding = self.architecture.kind().owns_unembedding();
        let paced = matches!(self.loss_weights, LossWeights::Pace(_));
        let biased = (self.bias.is_some(), "`heads.bias`. Leave one of them out");
        if paced {
            if self.loss != HeadLoss::All {
                bail!(
                    "`heads.loss_weights` = {{ pace = ... }} goes by all heads of a block, but `heads.loss` leaves some out. Set `heads.loss` to \"all\"."
                );
            }
            if own_unembedding {
                bail!(
                    "`heads.loss_weights` = {{ pace = ... }} weighs the rows of the frozen unembedding, but these heads have their own. Take other weights, or `heads.architecture.unembedding` = \"shared\"."
                );
            }
        }
        if self.feature_loss > 0.0 {
            let others = [
                biased,
                (
                    own_unembedding,
                    "heads with an unembedding of their own, whose states are not the backbone's. Leave it out",
                ),
                (paced, "`heads.loss_weights` = { pace = ... }. Leave one of them out"),
            ];
            refuse_with("heads.feature_loss", others)?;
        }
        if self.neighbour_loss > 0.0 {
            let looks = matches!(&self.architecture, HeadArchitecture::Lava(kind) if kind.look_around);
            if !looks || self.bias.is_some() {
                bail!(
                    "`heads.neighbour_loss` is {}, but only heads of kind \"lava\" with `look_around` and without `heads.bias` predict the slots beside their own. Leave it out, or take such heads.",
                    self.neighbour_loss
                );
            }
        }
        let sequential = self.architecture.kind().is_sequential();
        let read_anyway = (sequential, "heads that read what was drafted anyway. Leave it out, or take parallel ones");
        let owned = (
            own_unembedding,
            "heads with an unembedding of their own. Set `heads.architecture.unembedding` to \"shared\"",
        );
        if self.bias.is_some() {
            let undrafted = self.vocabulary.as_ref().is_some_and(|part| !part.drafting);
            let others = [
                read_anyway,
                owned,
                (
                    self.criterion != Criterion::CrossEntropy,
                    "`heads.criterion` other than \"cross-entropy\". Leave one of them out",
                ),
                (paced, "`heads.loss_weights` = { pace = ... }. Take other weights"),
                (undrafted, "`heads.vocabulary` that is not drafted from. Set `heads.vocabulary.drafting`"),
            ];
            refuse_with("heads.bias", others)?;
        }
        if self.selector.is_some() {
            let others = [
                biased,
                read_anyway,
                owned,
                (self.loss != HeadLoss::All, "`heads.loss` that leaves heads out. Set it to \"all\""),
            ];
            refuse_with("heads.selector", others)?;
        }
        if let Some(phase) = self.phases().iter().find(|phase| phase.soft_targets < Some(1.0))
            && self.criterion != Criterion::CrossEntropy
        {
            bail!(
                "`heads.criterion` goes by the overlap with the backbone's distribution, but `heads.soft_targets` is {}. Set it to 1.",
                phase.soft_targets.unwrap_or_default()
            );
        }
        if self.vocabulary.is_some() && own_unembedding {
            bail!(
                "`heads.vocabulary` is a part of the frozen unembedding, but `heads.architecture.unembedding` is \"own\". Take one or the other."
            );
        }
        if !self.positions_per_step.is_multiple_of(self.positions_per_document) {
            bail!(
                "`heads.positions_per_step` is {}, which is no multiple of `heads.positions_per_document` = {}. Make it one.",
                self.positions_per_step,
                self.positions_per_document
            );
        }
        let steps: usize = self.phase.iter().map(|phase| phase.steps).sum();
        if !self.phase.is_empty() && steps != self.training.steps {
            bail!(
                "`heads.training.steps` is {}, but the phases of `[[heads.phase]]` have {steps} together. Make them equal.",
                self.training.steps
            );
        }
        Ok(())
    }
}

/// Refuses a key if any of these choices beside it was made. What is said of the first one names it and ends with what to do.
fn refuse_with<const N: usize>(key: &str, others: [(bool, &str); N]) -> Result<()> {
    match others.into_iter().find(|(made, _)| *made) {
        Some((_, with)) => bail!("`{key}` cannot be had with {with}."),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_mean_of_one_and_constant_ones_are_exactly_one() {
        for count in 1..60 {
            assert_eq!(LossWeights::Constant.with_mean_one(count), vec![1.0; count]);
        }
        assert_eq!(LossWeights::List(vec![3.0, 1.0]).with_mean_one(2), [1.5, 0.5]);
        assert_eq!(LossWeights::Decay(0.5).with_mean_one(3), [12.0 / 7.0, 6.0 / 7.0, 3.0 / 7.0]);
        let (exp, decay) = (LossWeights::Exp(4.0), LossWeights::Decay((-0.25f64).exp()));
        let pairs = exp.with_mean_one(8).into_iter().zip(decay.with_mean_one(8));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-12));
    }
}
