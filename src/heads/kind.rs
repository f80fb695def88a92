//! The interface of a kind of heads: its section of the configuration, and the network that this section describes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleDisplay, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::saved::{SavedKind, describe_heads, load_network, load_to_train, save_weights, section};
use super::{
    BiasConfig, BiasedHeads, Binding, DraftHeads, FrozenHeads, HeadTraining, HeadsConfig, SelectingHeads, TrainingText,
};
use crate::backbone::{Backbone, Feature, Model, ModelConfig};
use crate::error::{Result, bail};
use crate::nn::{Init, collect_parameters, count_parameters, from_host};
use crate::progress;
use crate::training::{Replica, TrainingContext, train};

/// The section `[heads.architecture]` of one kind. It validates itself and makes its network. Training, storing and
/// loading are the same for all kinds ([`AnyHeadKind`]).
pub trait HeadKind: Serialize {
    /// The section's value of `kind`.
    const NAME: &'static str;
    /// The network that is trained and, once frozen, drafts.
    type Network: DraftHeads + Module + ModuleDisplay + 'static;

    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// Returns an error if a value is out of its range. The message names the key.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the states of this backbone that the heads read, the same as the network's [`DraftHeads::features`].
    ///
    /// # Errors
    /// Returns an error if the backbone does not suit the section. The message names the key.
    fn features(&self, _backbone: &ModelConfig) -> Result<Vec<Feature>> {
        Ok(vec![Feature::Last])
    }

    /// Returns the id of a token that has a meaning of its own in these heads, and should not occur in any text.
    fn reserved_token(&self) -> Option<u32> {
        None
    }

    /// Returns whether every head has its own unembedding.
    fn owns_unembedding(&self) -> bool {
        false
    }

    /// Returns the width of the heads' states above this backbone.
    fn state_width(&self, backbone: &ModelConfig) -> usize {
        backbone.hidden_size
    }

    /// Returns whether heads read what was drafted before them.
    fn is_sequential(&self) -> bool {
        false
    }

    /// Makes untrained heads. What begins as a copy of the backbone's parameters is zero or random until
    /// [`DraftHeads::warm_start`] or a file fills it.
    fn network(&self, shape: HeadShape, init: &mut Init) -> Self::Network;
}

/// The most residual blocks that a head has, one behind the other.
const MOST_BLOCKS: usize = 1024;

/// Checks the number of a head's residual blocks, `heads.architecture.{key}`. Heads may come from anywhere, and blocks take time to
/// make even where memory has no room for them.
///
/// # Errors
/// Returns an error if there are too many.
pub(super) fn check_blocks(key: &str, blocks: usize) -> Result<()> {
    if blocks > MOST_BLOCKS {
        bail!("`heads.architecture.{key}` is {blocks}; it may be {MOST_BLOCKS} at most.");
    }
    Ok(())
}

/// The sizes of heads that follow from the block size and the backbone.
#[derive(Debug, Clone, Copy)]
pub struct HeadShape<'a> {
    /// The number of heads, H - 1.
    pub count: usize,
    /// The shape of the backbone.
    pub backbone: &'a ModelConfig,
    /// The number of tokens that heads draft from.
    pub drafted: usize,
}

impl<'a> HeadShape<'a> {
    /// Returns the shape of `count` heads above `model`, which draft from all tokens.
    pub fn new(count: usize, model: &'a Model) -> Self {
        Self::above(model.config(), count, None)
    }

    /// Returns the shape of `count` heads above a backbone of this shape, which draft from the ids `vocabulary`, or from all tokens.
    pub fn above(backbone: &'a ModelConfig, count: usize, vocabulary: Option<&[u32]>) -> Self {
        Self { count, backbone, drafted: vocabulary.map_or(backbone.vocab_size, <[u32]>::len) }
    }

    /// Returns the width d of the backbone's states.
    pub fn width(self) -> usize {
        self.backbone.hidden_size
    }
}

/// Everything that heads are trained with.
pub struct FitHeads<'a> {
    /// The frozen model below the heads.
    pub backbone: &'a Backbone,
    /// The same model on every further device that is used for training.
    pub elsewhere: &'a [Backbone],
    /// The number of heads, their targets, and the options of the training.
    pub options: &'a HeadsConfig,
    /// Trained heads of the same kind and number to start from, if any.
    pub from: Option<(&'a Path, Binding)>,
    /// Traces of the train split.
    pub train: &'a [TrainingText<'a>],
    /// Traces of the dev split.
    pub dev: &'a [TrainingText<'a>],
    /// The run's seed.
    pub seed: u64,
    /// The folder where the heads are written, and the title of the training in messages.
    pub place: TrainingContext<'a>,
}

/// What trained heads were made as, besides their kind.
pub struct Trained {
    /// The number of heads, H - 1.
    pub count: usize,
    /// Their bias by the tokens before a slot, if they have one.
    pub bias: Option<BiasConfig>,
    /// The ids that they draft from, ascending, or none for all.
    pub vocabulary: Option<Vec<u32>>,
}

/// Any kind of heads, as a trait object.
pub trait AnyHeadKind {
    /// Returns the `kind` of the section.
    fn name(&self) -> &'static str;

    /// Does the same as [`HeadKind::validate`].
    ///
    /// # Errors
    /// Returns the errors of [`HeadKind::validate`].
    fn validate(&self) -> Result<()>;

    /// Does the same as [`HeadKind::features`].
    ///
    /// # Errors
    /// Returns the errors of [`HeadKind::features`].
    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>>;

    /// Does the same as [`HeadKind::owns_unembedding`].
    fn owns_unembedding(&self) -> bool;

    /// Does the same as [`HeadKind::state_width`].
    fn state_width(&self, backbone: &ModelConfig) -> usize;

    /// Does the same as [`HeadKind::is_sequential`].
    fn is_sequential(&self) -> bool;

    /// Returns the number of the heads' parameters, including those of unembeddings of their own.
    fn parameters(&self, shape: HeadShape, device: &Device) -> usize;

    /// Trains heads and writes them into the folder of `context.place`.
    ///
    /// # Errors
    /// Returns an error if there is too little to train on, if the training diverges, after an interrupt, if the disk
    /// is full, or if `context.from` holds other heads than asked for.
    fn fit(&self, context: &FitHeads) -> Result<()>;

    /// Returns the shape of every parameter by its name, with a bias if they have one.
    fn parameter_shapes(
        &self,
        shape: HeadShape,
        bias: Option<BiasConfig>,
        device: &Device,
    ) -> BTreeMap<String, Vec<usize>>;

    /// Returns heads of random numbers, in which nothing is zero, to look at what they read.
    ///
    /// # Errors
    /// When the backbone has another shape.
    fn untrained(&self, shape: HeadShape, bias: Option<BiasConfig>, backbone: &Backbone) -> Result<FrozenHeads>;

    /// Reads trained heads from the file `weights`.
    ///
    /// # Errors
    /// Returns an error if the file is missing or damaged, or holds other heads.
    fn load(&self, weights: &Path, trained: Trained, backbone: &Backbone) -> Result<FrozenHeads>;
}

impl<K: HeadKind> AnyHeadKind for K {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn validate(&self) -> Result<()> {
        HeadKind::validate(self)
    }

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        HeadKind::features(self, backbone)
    }

    fn owns_unembedding(&self) -> bool {
        HeadKind::owns_unembedding(self)
    }

    fn state_width(&self, backbone: &ModelConfig) -> usize {
        HeadKind::state_width(self, backbone)
    }

    fn is_sequential(&self) -> bool {
        HeadKind::is_sequential(self)
    }

    fn parameters(&self, shape: HeadShape, device: &Device) -> usize {
        count_parameters(&self.network(shape, &mut Init::empty(device)))
    }

    fn parameter_shapes(
        &self,
        shape: HeadShape,
        bias: Option<BiasConfig>,
        device: &Device,
    ) -> BTreeMap<String, Vec<usize>> {
        let init = &mut Init::empty(device);
        let heads = self.network(shape, init);
        let values = match bias {
            None => collect_parameters(&heads),
            Some(bias) => collect_parameters(&BiasedHeads::new(heads, bias, (shape.backbone, shape.drafted), init)),
        };
        values.into_iter().map(|(name, (shape, _))| (name, shape)).collect()
    }

    fn untrained(&self, shape: HeadShape, bias: Option<BiasConfig>, backbone: &Backbone) -> Result<FrozenHeads> {
        let model = &backbone.model;
        let init = &mut Init::seeded(1, model.device());
        let mut heads = self.network(shape, init);
        heads.warm_start(model)?;
        Ok(match bias {
            None => FrozenHeads::new(heads.map(&mut Stir(0)), model, None),
            Some(bias) => {
                let heads = BiasedHeads::new(heads, bias, (shape.backbone, shape.drafted), init);
                FrozenHeads::new(heads.map(&mut Stir(0)), model, None)
            }
        })
    }

    fn fit(&self, context: &FitHeads) -> Result<()> {
        let FitHeads { backbone, options, seed, place, .. } = context;
        let (model, count) = (&backbone.model, options.block_size - 1);
        let init = &mut Init::seeded(*seed, &model.device().clone().autodiff());
        let saved = SavedKind { architecture: section(self), bias: options.bias, selector: options.selector };
        let heads = self.network(HeadShape::new(count, model), init);
        if let Some(token) = self.reserved_token() {
            warn_of(token, context);
        }
        let drafted = options.vocabulary.as_ref().map_or(model.config().vocab_size, |part| part.size);
        let cure = "Make them smaller (`heads.architecture`, `heads.bias`, `heads.selector`), or train them where there is more.";
        let room = |init: &Init| init.require_room("the heads, their gradients and the optimizer's moments", cure);
        let vocabulary = match (options.bias, options.selector) {
            (None, None) => {
                room(init)?;
                fit(heads, &saved, context)?
            }
            (None, Some(selector)) => {
                let heads = SelectingHeads::new(heads, selector, model.config(), init);
                room(init)?;
                fit(heads, &saved, context)?
            }
            (Some(bias), _) => {
                let heads = BiasedHeads::new(heads, bias, (model.config(), drafted), init);
                room(init)?;
                fit(heads, &saved, context)?
            }
        };
        describe_heads(place.folder, saved, count, vocabulary, backbone)
    }

    fn load(
        &self,
        weights: &Path,
        Trained { count, bias, vocabulary }: Trained,
        backbone: &Backbone,
    ) -> Result<FrozenHeads> {
        let model = &backbone.model;
        let init = &mut Init::empty(model.device());
        let shape = HeadShape::above(model.config(), count, vocabulary.as_deref());
        let heads = self.network(shape, init);
        init.require_room("the heads", "Use them where there is more.").map_err(|e| e.within(weights.display()))?;
        Ok(match bias {
            None => FrozenHeads::new(load_network(heads, weights)?, model, vocabulary),
            Some(bias) => {
                let heads = BiasedHeads::new(heads, bias, (shape.backbone, shape.drafted), init);
                FrozenHeads::new(load_network(heads, weights)?, model, vocabulary)
            }
        })
    }
}

/// Adds a little to every number, which depends on its place.
struct Stir(usize);

impl ModuleMapper for Stir {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let (shape, device) = (old.dims(), old.device());
            let size: usize = shape.iter().product();
            let more = (self.0..self.0 + size).map(|place| 0.02 * (place as f32 * 0.7).sin()).collect();
            self.0 += size;
            old + from_host(more, shape, &device)
        })
    }
}

/// Trains a network and writes its weights. Returns the ids that it drafts from, or none for all.
fn fit<N: DraftHeads + Module + 'static>(
    mut network: N,
    saved: &SavedKind,
    context: &FitHeads,
) -> Result<Option<Vec<u32>>> {
    let FitHeads { backbone, options, seed, place, .. } = context;
    let (model, count) = (&backbone.model, options.block_size - 1);
    match context.from {
        Some(from) => network = load_to_train(network, saved, from, backbone, count)?,
        None => network.warm_start(model)?,
    }
    let task = |model| HeadTraining::new(context.train, context.dev, model, &network, options, *seed);
    let mut replicas = Vec::new();
    for Backbone { model, .. } in context.elsewhere {
        replicas.push(Replica { device: model.device().clone(), task: task(model)? });
    }
    let task = task(model)?;
    let parameters = count_parameters(&network);
    progress::say(format!("{}: {count} heads, {parameters} parameters, {}", place.title, task.words()));
    let network = train(network, &task, &replicas, &options.training, place)?;
    save_weights(place.folder, &network.valid())?;
    Ok(task.draft_vocabulary())
}

/// Says where the text to train on holds a token that the heads reserve.
fn warn_of(token: u32, context: &FitHeads) {
    for TrainingText { corpus, trace } in context.train {
        let documents = trace.documents();
        let uses = documents.iter().filter(|document| trace.tokens(document).contains(&token)).count();
        if uses > 0 {
            progress::say(format!(
                "{}: {uses} of {} documents of `{corpus}` hold token {token}, which `heads.architecture.mask_token` gives another meaning; take an id that no text uses.",
                context.place.title,
                documents.len()
            ));
        }
    }
}
