//! What a kind of heads is: a section of the configuration and the network that it describes.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;

use super::saved::{load_network, load_to_train, save_heads};
use super::{Binding, DraftHeads, FrozenHeads, HeadTraining, TrainingText};
use crate::backbone::{Backbone, Feature, Model};
use crate::config::HeadsConfig;
use crate::error::Result;
use crate::nn::{Init, count_parameters};
use crate::progress;
use crate::training::{Replica, TrainingContext, train};

/// `[heads.architecture]` of one kind: checks itself and makes its network. How that is trained, stored and loaded is the same for
/// all kinds ([`AnyHeadKind`]).
pub trait HeadKind: Serialize {
    /// The `kind` of the section.
    const NAME: &'static str;
    /// What is trained and, frozen, drafts.
    type Network: DraftHeads + Module + 'static;

    /// Checks what types cannot.
    ///
    /// # Errors
    /// A value that is out of its range; the message names the key.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the backbone's states that the heads read: those of the network's [`DraftHeads::features`].
    fn features(&self) -> Vec<Feature> {
        vec![Feature::Last]
    }

    /// Whether every head has an unembedding of its own.
    fn owns_unembedding(&self) -> bool {
        false
    }

    /// Makes untrained heads. Unembeddings of their own are zero until [`DraftHeads::copy_unembedding`] or a file fills them.
    fn network(&self, shape: HeadShape, init: &mut Init) -> Self::Network;
}

/// The sizes of heads that are not their own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// H - 1
    pub count: usize,
    /// d: the width of the backbone's states.
    pub width: usize,
    /// V: tokens in the backbone's vocabulary.
    pub vocabulary: usize,
}

impl HeadShape {
    /// The shape of `count` heads above `model`.
    pub fn new(count: usize, model: &Model) -> Self {
        Self { count, width: model.config().hidden_size, vocabulary: model.config().vocab_size }
    }
}

/// What heads are trained with.
pub struct FitHeads<'a> {
    /// The frozen model below them.
    pub backbone: &'a Backbone,
    /// The same once more on every further device that they train on.
    pub elsewhere: &'a [Backbone],
    /// Their number, what they are to predict, and how they are trained.
    pub options: &'a HeadsConfig,
    /// Trained heads of the same kind and number to start from.
    pub from: Option<(&'a Path, Binding)>,
    /// Traces of the train split.
    pub train: &'a [TrainingText<'a>],
    /// Traces of the dev split.
    pub dev: &'a [TrainingText<'a>],
    /// The run's seed.
    pub seed: u64,
    /// Where they are written, and what messages call their training.
    pub place: TrainingContext<'a>,
}

/// A kind of heads, whichever it is.
pub trait AnyHeadKind {
    /// Returns the `kind` of the section.
    fn name(&self) -> &'static str;

    /// As [`HeadKind::validate`].
    ///
    /// # Errors
    /// As there.
    fn validate(&self) -> Result<()>;

    /// As [`HeadKind::features`].
    fn features(&self) -> Vec<Feature>;

    /// As [`HeadKind::owns_unembedding`].
    fn owns_unembedding(&self) -> bool;

    /// Returns the number of the heads' parameters, unembeddings of their own included.
    fn parameters(&self, shape: HeadShape, device: &Device) -> usize;

    /// Trains heads and writes them into the folder of `context.place`.
    ///
    /// # Errors
    /// Too little to train on, a training that diverges, an interrupt, a full disk; other heads than asked for in
    /// `context.from`.
    fn fit(&self, context: &FitHeads) -> Result<()>;

    /// Reads the file `weights` of trained heads, which draft from the ids `vocabulary` (ascending) or from all.
    ///
    /// # Errors
    /// A file that is missing, damaged or of other heads.
    fn load(
        &self,
        weights: &Path,
        count: usize,
        backbone: &Backbone,
        vocabulary: Option<Vec<u32>>,
    ) -> Result<FrozenHeads>;
}

impl<K: HeadKind> AnyHeadKind for K {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn validate(&self) -> Result<()> {
        HeadKind::validate(self)
    }

    fn features(&self) -> Vec<Feature> {
        HeadKind::features(self)
    }

    fn owns_unembedding(&self) -> bool {
        HeadKind::owns_unembedding(self)
    }

    fn parameters(&self, shape: HeadShape, device: &Device) -> usize {
        count_parameters(&self.network(shape, &mut Init::empty(device)))
    }

    fn fit(&self, context: &FitHeads) -> Result<()> {
        let FitHeads { backbone, options, seed, place, .. } = context;
        let (model, count) = (&backbone.model, options.block_size - 1);
        let device = model.device().clone().autodiff();
        let network = match context.from {
            Some(from) => load_to_train(self, from, backbone, count, &device)?,
            None => {
                let mut network = self.network(HeadShape::new(count, model), &mut Init::seeded(*seed, &device));
                if HeadKind::owns_unembedding(self) {
                    network.copy_unembedding(&model.unembedding());
                }
                network
            }
        };
        let task = |model| HeadTraining::new(context.train, context.dev, model, &network, options, *seed);
        let mut replicas = Vec::new();
        for Backbone { model, .. } in context.elsewhere {
            replicas.push(Replica { device: model.device().clone(), task: task(model)? });
        }
        let task = task(model)?;
        let parameters = count_parameters(&network);
        progress::say(format!("{}: {count} heads, {parameters} parameters, {}", place.title, task.words()));
        let network = train(network, &task, &replicas, &options.training, place)?;
        save_heads(place.folder, self, &network.valid(), task.draft_vocabulary(), backbone)
    }

    fn load(
        &self,
        weights: &Path,
        count: usize,
        backbone: &Backbone,
        vocabulary: Option<Vec<u32>>,
    ) -> Result<FrozenHeads> {
        let model = &backbone.model;
        let network = load_network(self, weights, HeadShape::new(count, model), model.device())?;
        Ok(FrozenHeads::new(network, model, vocabulary))
    }
}
