//! `[heads]`: the prediction heads, what they are to predict, their loss and their training.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schema::at_least;
use super::{Config, OptimizationConfig, TraceText};
use crate::error::{Result, bail};
use crate::heads::{Binding, HeadArchitecture};

/// `[heads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadsConfig {
    /// H: tokens proposed at once. Head 1 is the backbone's own prediction, H - 1 heads are trained.
    pub block_size: usize,
    /// What a head is made of.
    pub architecture: HeadArchitecture,
    /// A folder of trained heads of the same architecture and number to start from, such as `runs/first/heads`; empty for new
    /// ones. (A training that was cut off needs no key: the same command goes on with it.)
    pub init_from: String,
    /// Whether heads that were trained above another backbone of the same width and tokenizer are used all the same, with a warning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_backbone: bool,
    /// Heads per training step.
    pub loss: HeadLoss,
    /// How much each head counts in the loss.
    pub loss_weights: LossWeights,
    /// Share of the targets that is the backbone's own distribution at the predicted place, 0 to 1; the rest is the text's
    /// token. Above 0 it needs `traces.probabilities`.
    pub soft_targets: f64,
    /// How often positions of each kind of text are drawn, by `traces.train_text`'s names: numbers above 0, of which only
    /// ratios count. Empty: every position equally often.
    pub text: BTreeMap<TraceText, f64>,
    /// A part of the vocabulary to train on, and perhaps to draft from; all of it where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyConfig>,
    /// Positions per training step.
    pub positions_per_step: usize,
    /// Whether positions whose target lies in the prompt are trained on as well.
    pub prompt_positions: bool,
    /// What the best checkpoint, and `training.patience`, go by: "dev-loss" or "dev-block-efficiency".
    pub choose_by: ChooseBy,
    /// Keeps the weights at every multiple of `training.checkpoint_every` steps for `evaluate --all-checkpoints`, 4 bytes a
    /// parameter each; off, only the latest and the best checkpoint stay. The heads are the same with it and without.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_checkpoints: bool,
    /// Steps, learning rate and the rest.
    pub training: OptimizationConfig,
    /// Parts of the training, one after the other, each with data, targets and rate of its own; without any, it is all one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<HeadPhase>,
}

impl Default for HeadsConfig {
    fn default() -> Self {
        Self {
            block_size: 9,
            architecture: HeadArchitecture::default(),
            init_from: String::new(),
            accept_backbone: false,
            loss: HeadLoss::All,
            loss_weights: LossWeights::Constant,
            soft_targets: 0.0,
            text: BTreeMap::new(),
            vocabulary: None,
            positions_per_step: 1024,
            prompt_positions: false,
            choose_by: ChooseBy::DevLoss,
            keep_checkpoints: false,
            training: OptimizationConfig { steps: 200, learning_rate: 2e-3, ..OptimizationConfig::default() },
            stage: Vec::new(),
        }
    }
}

impl HeadsConfig {
    /// Which backbones heads from elsewhere may have been trained above.
    pub fn binding(&self) -> Binding {
        if self.accept_backbone { Binding::Accepted } else { Binding::Same }
    }
}

/// `[[heads.stage]]`: what is not given is as in `[heads]` and `[heads.training]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadPhase {
    /// Its steps; those of all stages make `heads.training.steps`.
    pub steps: usize,
    /// Corpora by name; all where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<String>>,
    /// As `heads.text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<BTreeMap<TraceText, f64>>,
    /// As `heads.soft_targets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_targets: Option<f64>,
    /// The stage's highest rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Steps of its own warm-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
}

/// `heads.vocabulary`: the tokens that are most frequent in the continuations of the train traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularyConfig {
    /// How many.
    pub size: usize,
    /// Whether the heads draft from these tokens alone: lattices are then cheaper, and other tokens are never proposed.
    pub drafting: bool,
}

/// What is best on dev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChooseBy {
    /// The lowest loss.
    DevLoss,
    /// The highest block efficiency of plain decoding (`bpd`), replayed.
    DevBlockEfficiency,
}

/// Which heads a training step covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "`loss` is \"all\", \"one-random\" or { annealed = 200 }")]
pub enum HeadLoss {
    /// The weighted mean cross-entropy of all heads.
    All,
    /// One head drawn uniformly, its loss times its weight over the mean weight: an unbiased estimate of that mean (Stern
    /// et al. 2018).
    OneRandom,
    /// `{ annealed = STEPS }`: all heads with a probability that grows from 0 to 1 over so many steps, else one drawn head.
    Annealed(usize),
}

/// How much each head counts: with mean cross-entropies L_2 .. L_H, the loss is `sum_j w_j L_j / sum_j w_j`, in
/// training and on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "lowercase",
    expecting = "`loss_weights` is \"constant\", { decay = 0.8 }, or a list with a number for each head"
)]
pub enum LossWeights {
    /// w_j = 1
    Constant,
    /// w_j = decay^(j - 2): 1 for head 2; above 0, at most 1. Medusa-1 takes 0.8.
    Decay(f64),
    /// w_2 .. w_H: H - 1 numbers above 0.
    #[serde(untagged)]
    List(Vec<f64>),
}

impl LossWeights {
    /// The weights of `count` heads, scaled to a mean of 1: a constant weight is then exactly 1.
    pub fn with_mean_one(&self, count: usize) -> Vec<f64> {
        let weights = match self {
            Self::Constant => vec![1.0; count],
            Self::Decay(decay) => (0..count).map(|head| decay.powi(head as i32)).collect(),
            Self::List(weights) => weights.clone(),
        };
        let mean = weights.iter().sum::<f64>() / count as f64;
        weights.into_iter().map(|weight| weight / mean).collect()
    }

    fn validate(&self, count: usize) -> Result<()> {
        let positive = |weight: &f64| *weight > 0.0 && weight.is_finite();
        match self {
            Self::Decay(decay) if !(*decay > 0.0 && *decay <= 1.0) => {
                bail!("`heads.loss_weights.decay` is {decay}; it must be above 0 and at most 1.")
            }
            Self::List(weights) if weights.len() != count => bail!(
                "`heads.loss_weights` has {} numbers, but `heads.block_size` = {} trains {count} heads; give one number for each of heads 2 to {}.",
                weights.len(),
                count + 1,
                count + 1
            ),
            Self::List(weights) if !weights.iter().all(positive) => {
                bail!("`heads.loss_weights` is {weights:?}; every number must be above 0.")
            }
            _ => Ok(()),
        }
    }
}

impl HeadsConfig {
    /// The stages with nothing left open; one where none is given.
    pub fn stages(&self) -> Vec<HeadPhase> {
        let whole = [HeadPhase {
            steps: self.training.steps,
            data: None,
            text: None,
            soft_targets: None,
            learning_rate: None,
            warmup_steps: None,
        }];
        let given = if self.stage.is_empty() { &whole[..] } else { &self.stage };
        let filled = |stage: &HeadPhase| HeadPhase {
            steps: stage.steps,
            data: stage.data.clone(),
            text: Some(stage.text.clone().unwrap_or_else(|| self.text.clone())),
            soft_targets: Some(stage.soft_targets.unwrap_or(self.soft_targets)),
            learning_rate: Some(stage.learning_rate.unwrap_or(self.training.learning_rate)),
            warmup_steps: Some(stage.warmup_steps.unwrap_or(self.training.warmup_steps)),
        };
        given.iter().map(filled).collect()
    }

    /// `whole` is what the heads' traces come from.
    pub(super) fn validate(&self, whole: &Config) -> Result<()> {
        at_least("heads.block_size", self.block_size, 2)?;
        self.architecture.kind().validate()?;
        self.loss_weights.validate(self.block_size - 1)?;
        at_least("heads.positions_per_step", self.positions_per_step, 1)?;
        self.training.validate("heads.training")?;
        if let Some(vocabulary) = &self.vocabulary {
            at_least("heads.vocabulary.size", vocabulary.size, 2)?;
            if self.architecture.kind().owns_unembedding() {
                bail!(
                    "`heads.vocabulary` is a part of the frozen unembedding, but `heads.architecture.unembedding` is \"own\". Take one or the other."
                );
            }
        }
        let steps: usize = self.stage.iter().map(|stage| stage.steps).sum();
        if !self.stage.is_empty() && steps != self.training.steps {
            bail!(
                "`heads.training.steps` is {}, but the stages of `[[heads.stage]]` have {steps} together. Make them equal.",
                self.training.steps
            );
        }
        for (index, stage) in self.stages().iter().enumerate() {
            let key = if self.stage.is_empty() { "heads".into() } else { format!("heads.stage {}", index + 1) };
            stage.validate(&key, whole)?;
        }
        Ok(())
    }
}

impl HeadPhase {
    fn validate(&self, key: &str, whole: &Config) -> Result<()> {
        at_least(&format!("{key}: steps"), self.steps, 1)?;
        for name in self.data.iter().flatten() {
            match whole.data.get(name) {
                None => bail!("`{key}`: `data` names `{name}`, but there is no [data.{name}]."),
                Some(data) if data.dev + data.test >= 1.0 => {
                    bail!("`{key}`: `data` names `{name}`, but [data.{name}] is all dev and test.")
                }
                Some(_) => {}
            }
        }
        if self.data.as_ref().is_some_and(Vec::is_empty) {
            bail!("`{key}`: `data` is empty; name a corpus, or leave the key out for all of them.");
        }
        for (text, weight) in self.text.iter().flatten() {
            if !whole.traces.train_text.contains(text) {
                bail!("`{key}`: `text` names \"{0}\", but `traces.train_text` does not; add it there.", text.name());
            }
            if !(*weight > 0.0 && weight.is_finite()) {
                bail!("`{key}`: `text.{}` is {weight}; it must be above 0.", text.name());
            }
        }
        let soft = self.soft_targets.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&soft) {
            bail!("`{key}`: `soft_targets` is {soft}; it is a share from 0 to 1.");
        }
        if soft > 0.0 && whole.traces.probabilities == 0 {
            bail!(
                "`{key}`: `soft_targets` needs the backbone's distributions; set `traces.probabilities` to how many tokens of each to keep, such as 32."
            );
        }
        if let Some(rate) = self.learning_rate
            && !(rate > 0.0 && rate.is_finite())
        {
            bail!("`{key}`: `learning_rate` is {rate}; it must be above 0.");
        }
        Ok(())
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
    }
}
