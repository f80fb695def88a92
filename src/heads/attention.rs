//! `kind = "attention"`: decoder layers that attend to the text. Their rows are made from the backbone's residual stream and
//! from tokens. The layers may begin as copies of the backbone's uppermost ones, and may attend to the backbone's own keys
//! and values.

mod chimera;
mod dflash;
mod entry;
mod glide;
mod joined;
mod learning;
mod prefix;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod transfer;

use std::collections::BTreeSet;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_sum::scaled;
use super::network::{Differentiated, DraftedTokens, Learning, RowStates};
use super::unembedding::copy_unembedding;
use super::{Begun, Context, DraftHeads, FeatureSum, HeadKind, HeadShape, Rows, Starts};
use crate::backbone::{
    Biases, DecoderLayers, Departures, Feature, FeatureTensors, KvCache, Model, ModelConfig, NewRows, NormKind,
    Positions, RopeScaling, Rotary,
};
use crate::error::{Result, bail};
use crate::kernels::Activation;
use crate::nn::{Embedding, Init, Linear, Norm, Tokens, count_parameters, load_parameters};
use crate::storage_type::StorageType;
pub use chimera::ChimeraConfig;
pub use dflash::DflashConfig;
use entry::{Entry, ParallelEntry, SequentialEntry};
pub use glide::GlideConfig;
pub use joined::{Eagle1Config, Eagle3Config, MtpConfig};
use learning::AttentionLearning;
pub use prefix::PrefixLayerConfig;
pub use transfer::HiddenTransferConfig;

/// `kind = "attention"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionConfig {
    /// Whether a head reads the tokens that were drafted before it.
    pub rows: RowOrder,
    /// The number of decoder layers, which have the shape of the backbone's uppermost ones.
    #[schemars(range(min = 1, max = 1024))]
    pub layers: usize,
    /// Whether the layers and the norm behind them begin as copies of the backbone's uppermost ones. Otherwise they begin at
    /// random.
    pub warm_start: bool,
    /// The learning rate of the layers and of the norm behind them, as a share of `heads.training.learning_rate`. 0 keeps them
    /// as they are.
    #[schemars(range(min = 0.0))]
    pub layers_learning_rate: f64,
    /// What the layers attend to, besides the rows of their own block.
    pub context: AttentionContext,
    /// The backbone's states at the last token before a block, from which rows are made: the first as it is, the others projected
    /// and added to it, d x d parameters each. Empty: the input of the backbone's layer that the first of these layers stands for.
    #[schemars(extend("uniqueItems" = true))]
    pub input: Vec<Feature>,
}

/// Which rows a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RowOrder {
    /// A row for each drafted token, run behind the row of the token before it.
    Sequential,
    /// A row for each slot, all run at once. They see one another, and the pinned token alone.
    Parallel,
}

/// What decoder layers attend to in the text before a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttentionContext {
    /// The keys and values of the backbone's own layers, those that the layers stand for.
    Backbone,
    /// Keys and values that the layers make of these states of the backbone, projected to the width of one and normalised.
    Features(#[schemars(length(min = 1), extend("uniqueItems" = true))] Vec<Feature>),
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            rows: RowOrder::Sequential,
            layers: 1,
            warm_start: true,
            layers_learning_rate: 0.25,
            context: AttentionContext::Backbone,
            input: Vec::new(),
        }
    }
}

impl AttentionConfig {
    /// Returns the number of the backbone's layer that the first layer stands for.
    fn first(&self, backbone: &ModelConfig) -> usize {
        backbone.num_hidden_layers.saturating_sub(self.layers)
    }

    /// Returns the states that rows are made from, at least one.
    fn input(&self, backbone: &ModelConfig) -> Vec<Feature> {
        if self.input.is_empty() { vec![Feature::Layer(self.first(backbone))] } else { self.input.clone() }
    }
}

impl HeadKind for AttentionConfig {
    const NAME: &'static str = "attention";
    type Network = AttentionHeads;

    fn features(&self, backbone: &ModelConfig) -> Result<Vec<Feature>> {
        let most = backbone.num_hidden_layers;
        if self.layers > most {
            bail!(
                "`heads.architecture.layers` is {}, but these layers stand for the backbone's uppermost ones, and it has {most}. Take fewer.",
                self.layers
            );
        }
        let of_context = match &self.context {
            AttentionContext::Backbone => (self.first(backbone)..most).map(Feature::Layer).collect(),
            AttentionContext::Features(features) => features.clone(),
        };
        Ok(union(self.input(backbone), of_context))
    }

    fn is_sequential(&self) -> bool {
        self.rows == RowOrder::Sequential
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> AttentionHeads {
        let (d, count, backbone) = (shape.width(), shape.count, shape.backbone);
        let (first, input) = (self.first(backbone), self.input(backbone));
        let inputs = FeatureSum::new(input[0], &input[1..], d, init);
        let entry = match self.rows {
            RowOrder::Sequential => Entry::Sequential(SequentialEntry::new(inputs, d, init)),
            RowOrder::Parallel => Entry::Parallel(ParallelEntry::new(inputs, count, d, init)),
        };
        let context = match &self.context {
            AttentionContext::Backbone => None,
            AttentionContext::Features(features) => Some(FeatureContext::new(features, false, d, init)),
        };
        let layers = first..backbone.num_hidden_layers;
        AttentionHeads {
            context,
            warm_start: self.warm_start,
            layers_learning_rate: self.layers_learning_rate,
            ..AttentionHeads::new(entry, count, backbone, layers, Departures::default(), init)
        }
    }
}

/// Decoder layers that attend to the text before a block. How the rows of a block are made depends on the section that describes
/// the heads ([`RowOrder`], [`DflashConfig`]); what leaves the layers is normalised and predicts a slot.
#[derive(Module, Debug)]
pub struct AttentionHeads {
    entry: Entry,
    context: Option<FeatureContext>,
    decoder: DecoderLayers,
    norm: Option<Norm>,
    /// What turns the heads' states into logits, if it is not the backbone's unembedding.
    unembedding: Option<Embedding>,
    #[module(skip)]
    count: usize,
    /// The number of the backbone's layer that the first layer stands for.
    #[module(skip)]
    first: usize,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    warm_start: bool,
    #[module(skip)]
    layers_learning_rate: f64,
}

/// What is attended to where it is not the backbone's own: `c = norm(P [f_1; f_2; ..])`.
#[derive(Module, Debug)]
struct FeatureContext {
    projection: Linear,
    norm: Norm,
    #[module(skip)]
    features: Vec<Feature>,
    /// Whether every f is scaled to a mean square of 1.
    #[module(skip)]
    scales: bool,
}

impl FeatureContext {
    fn new(features: &[Feature], scales: bool, d: usize, init: &mut Init) -> Self {
        let width = features.len() * d;
        Self {
            projection: init.linear(d, width, (width as f32).powf(-0.5)),
            norm: init.norm(d, false),
            features: features.to_vec(),
            scales,
        }
    }

    /// Returns c of texts of which these are the states, `[tokens, d]`.
    fn read(&self, states: &FeatureTensors, epsilon: f64) -> Tensor<2> {
        let scale = |state: Tensor<2>| if self.scales { scaled(state) } else { state };
        let states = self.features.iter().map(|&feature| scale(states.get(feature))).collect();
        self.norm.forward(self.projection.forward(Tensor::cat(states, 1)), epsilon)
    }
}

impl AttentionHeads {
    /// Makes `count` heads: layers in the style of `config` that stand for these `layers` of the backbone, between the rows that
    /// `entry` makes and a norm in the same style. They begin with random numbers, learn as fast as everything else, attend to what
    /// the backbone's own layers do, and predict through the backbone's unembedding.
    fn new(
        entry: Entry,
        count: usize,
        config: &ModelConfig,
        layers: Range<usize>,
        departures: Departures,
        init: &mut Init,
    ) -> Self {
        Self {
            entry,
            context: None,
            decoder: DecoderLayers::new(config, layers.clone(), departures, init),
            norm: Some(init.norm(config.hidden_size, config.norm == NormKind::Layer)),
            unembedding: None,
            count,
            first: layers.start,
            epsilon: config.norm_epsilon,
            warm_start: false,
            layers_learning_rate: 1.0,
        }
    }

    /// Returns where rows stand that are made behind some columns of each text.
    fn new_rows<'c>(&self, columns: &'c [Vec<usize>]) -> NewRows<'c> {
        match self.entry.block(self.count) {
            None => NewRows::After(columns),
            Some(block) => NewRows::Blocks(columns, block),
        }
    }

    /// Returns the states `[n, d]` of one of the heads of n blocks, whose rows were all run at once.
    fn slot(&self, states: &Tensor<2>, n: usize, head: usize) -> Tensor<2> {
        let [rows, d] = states.dims();
        let row = rows / n - self.count + head;
        states.clone().reshape([n, rows / n, d]).narrow(1, row, 1).reshape([n, d])
    }

    /// Returns the heads' states `[rows, d]` of rows and of what left the layers, `[rows, d]`.
    fn states(&self, rows: &Tensor<2>, left: Tensor<2>) -> Tensor<2> {
        let left = self.norm.as_ref().map_or(left.clone(), |norm| norm.forward(left, self.epsilon));
        match &self.entry {
            Entry::Trigram(entry) => entry.state(rows, left),
            _ => left,
        }
    }

    /// Returns what enters the layers of rows, which may carry more on.
    fn entering(&self, rows: &Tensor<2>) -> Tensor<2> {
        let ([_, all], width) = (rows.dims(), self.decoder.row_width());
        if all == width { rows.clone() } else { rows.clone().narrow(1, 0, width) }
    }

    /// Returns the states that are kept of the tokens before the starts, if rows are made of them.
    fn before_starts(&self, states: &FeatureTensors, cache: &KvCache, places: &[(usize, usize)]) -> Option<Tensor<2>> {
        let kept = self.entry.kept()?;
        Some(cache.kept_before(places, 1, &states.get(kept)))
    }

    /// Returns whether the layers attend to what is made of states of the text, rather than to what the backbone's own do.
    fn makes_context(&self) -> bool {
        let entry = &self.entry;
        self.context.is_some()
            || matches!(entry, Entry::Joined(_) | Entry::Prefix(_) | Entry::Trigram(_) | Entry::Token(_))
    }

    /// Returns what the layers attend to in texts of which these are the states, if they make it of them. `before` turns states of
    /// tokens into those of the tokens before each. Where tokens have two columns, so has this two rows for each.
    fn context(&self, states: &FeatureTensors, before: impl FnMut(&Tensor<2>) -> Tensor<2>) -> Option<Tensor<2>> {
        match (&self.entry, &self.context) {
            (Entry::Joined(entry), _) => Some(entry.context(states, before, &self.decoder)),
            (Entry::Prefix(_), _) => Some(self.decoder.normed(states.get(Feature::Last))),
            (Entry::Trigram(entry), _) => Some(self.decoder.normed(entry.context(states, before))),
            (Entry::Token(_), _) => Some(self.decoder.normed(states.get(Feature::Layer(0)))),
            (_, context) => Some(context.as_ref()?.read(states, self.epsilon)),
        }
    }
}

impl DraftHeads for AttentionHeads {
    fn count(&self) -> usize {
        self.count
    }

    fn features(&self) -> Vec<Feature> {
        let of_context = match &self.context {
            None if self.makes_context() => Vec::new(),
            None => (self.first..self.first + self.decoder.len()).map(Feature::Layer).collect(),
            Some(context) => context.features.clone(),
        };
        union(self.entry.features(), of_context)
    }

    fn begin<'a>(&'a self, Starts { states, pinned, context, .. }: Starts<'a>) -> Begun<'a> {
        let Context { cache, places, .. } = context.expect("heads that attend are given a context");
        let before = self.before_starts(&states, cache, &places);
        let (n, first) = (places.len(), self.entry.first_rows(&states, before, pinned.embeddings, self.count));
        if self.entry.is_sequential() {
            let [inputs, outputs] = [RowStates::new(), RowStates::new()];
            let root = first.clone();
            let mut rows = AttentionRows { heads: self, cache, places: Vec::new(), inputs, outputs, root };
            rows.root = rows.run(first, &places);
            return Begun::Sequential(Box::new(rows));
        }
        let after = by_text(cache.texts(), &places);
        let left = self.decoder.run(first.clone(), self.new_rows(&after), cache);
        let states = self.states(&first, left);
        Begun::Parallel(Box::new(move |head| self.slot(&states, n, head)))
    }

    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Box<dyn Learning + 'a> {
        if self.decoder.trains_on_host() {
            Box::new(AttentionLearning::new(self, starts, drafted))
        } else {
            Box::new(Differentiated::new(self.begin(starts).chains(drafted)))
        }
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let mut linears = self.entry.linears();
        linears.extend(self.context.as_mut().map(|context| &mut context.projection));
        linears
    }

    fn pack(&mut self, weights: StorageType) {
        self.linears().into_iter().for_each(|linear| linear.freeze(weights));
        self.decoder.pack(weights);
    }

    fn unembedding(&self, _: usize) -> Option<Tensor<2>> {
        self.unembedding.as_ref().map(|table| table.weight.val())
    }

    fn shares_unembedding(&self) -> bool {
        true
    }

    fn cache(&self, texts: usize, tokens: usize) -> Option<KvCache> {
        let paired = matches!(self.entry, Entry::Trigram(_));
        Some(self.decoder.cache(texts, tokens).with_columns(self.entry.hidden_columns(), paired))
    }

    fn read(&self, model: &Model, cache: &mut KvCache, counts: &[usize], states: &FeatureTensors) {
        let kept = self.entry.kept().map(|kept| states.get(kept));
        kept.iter().for_each(|kept| cache.keep_states(counts, kept));
        let mut distance = 0;
        let before = |of_tokens: &Tensor<2>| {
            // What was kept is asked for one token further back each time.
            distance += 1;
            match &kept {
                Some(kept) => cache.kept_before(&cache.next_places(counts), distance, kept),
                None => cache.states_before(counts, of_tokens),
            }
        };
        if let Some(context) = self.context(states, before) {
            let crossed = self.decoder.crosses().map(|layer| (model, states.get(Feature::Layer(layer))));
            return self.decoder.remember(&context, crossed, counts, cache);
        }
        let layers = self.first..self.first + self.decoder.len();
        let states: Vec<Tensor<2>> = layers.map(|layer| states.get(Feature::Layer(layer))).collect();
        model.remember(self.first, &states, counts, cache);
        if self.decoder.learns() {
            cache.autodiff();
        }
    }

    fn products(&self, _: usize) -> usize {
        let rows = self.entry.block(self.count).map_or(self.count, |block| block.count);
        // The context of one more token.
        let context = self.context.as_ref().map_or(0, count_parameters);
        let logits = self.unembedding.as_ref().map_or(0, |table| self.count * count_parameters(table));
        self.entry.products(self.count) + rows * count_parameters(&self.decoder) + context + logits
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        self.entry.warm_start(model, self.warm_start.then_some(self.first))?;
        copy_unembedding(&mut self.unembedding, model);
        if self.warm_start {
            self.decoder = self.decoder.clone().copied_from(model)?;
            let norm = self.norm.take().map(|norm| load_parameters(norm, model.norm_parameters()));
            self.norm = norm.transpose()?;
        }
        Ok(())
    }

    fn rate_factors(&self) -> Vec<(String, f64)> {
        let of_layers = ["decoder.", "norm."].map(|of_layers| (of_layers, self.layers_learning_rate));
        let all = self.entry.rate_factors().into_iter().chain(of_layers);
        all.map(|(path, factor)| (path.to_owned(), factor)).collect()
    }
}

/// Returns the shape of decoder layers of their own style above a backbone: of its sizes, with root-mean-square norms, rotary
/// positions, and a gated MLP without biases, as Llama's and, with norms of queries and keys, as Qwen3's are.
fn own_style(backbone: &ModelConfig, query_key_norm: bool) -> ModelConfig {
    let rotary = Rotary { theta: 10_000.0, width: backbone.head_dim, scaling: RopeScaling::None };
    ModelConfig {
        norm: NormKind::RootMeanSquare,
        positions: match &backbone.positions {
            Positions::Learned => Positions::Rotary(rotary),
            rotary => rotary.clone(),
        },
        activation: Activation::Silu,
        gated: true,
        biases: Biases::default(),
        query_key_norm,
        parallel_residual: false,
        windows: vec![None; backbone.num_hidden_layers],
        ..backbone.clone()
    }
}

/// Returns the features that rows are made from or that the context is made of, by depth.
fn union(input: Vec<Feature>, of_context: Vec<Feature>) -> Vec<Feature> {
    input.into_iter().chain(of_context).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns where rows stand that are run behind the places `after`, one each, in texts that have `columns` columns.
fn following(after: &[(usize, usize)], mut columns: Vec<usize>) -> Vec<(usize, usize)> {
    let next = |&(text, _): &(usize, usize)| {
        columns[text] += 1;
        (text, columns[text] - 1)
    };
    after.iter().map(next).collect()
}

/// Returns the columns of the places in each of `texts` texts.
fn by_text(texts: usize, places: &[(usize, usize)]) -> Vec<Vec<usize>> {
    assert!(places.is_sorted_by_key(|place| place.0), "rows are in the order of their texts");
    let mut columns = vec![Vec::new(); texts];
    places.iter().for_each(|&(text, column)| columns[text].push(column));
    columns
}

/// The rows of sequential heads.
struct AttentionRows<'a> {
    heads: &'a AttentionHeads,
    cache: &'a mut KvCache,
    /// The text and the column of each row.
    places: Vec<(usize, usize)>,
    /// What entered the layers, and what left them.
    inputs: RowStates,
    outputs: RowStates,
    /// The states of the rows behind the pinned tokens.
    root: Tensor<2>,
}

impl AttentionRows<'_> {
    /// Runs rows that enter the layers as `r` `[m, d]`, each behind a column of a text, and returns their states.
    fn run(&mut self, r: Tensor<2>, after: &[(usize, usize)]) -> Tensor<2> {
        let columns = by_text(self.cache.texts(), after);
        let lengths = (0..columns.len()).map(|text| self.cache.len(text)).collect();
        self.places.extend(following(after, lengths));
        let output = self.heads.decoder.run(self.heads.entering(&r), self.heads.new_rows(&columns), self.cache);
        let states = self.heads.states(&r, output.clone());
        self.inputs.push(r);
        self.outputs.push(output);
        states
    }
}

impl Rows for AttentionRows<'_> {
    fn root(&self) -> Tensor<2> {
        self.root.clone()
    }

    fn expand(&mut self, parents: &[usize], tokens: Tokens) -> Tensor<2> {
        let after: Vec<(usize, usize)> = parents.iter().map(|&row| self.places[row]).collect();
        let made = self.heads.entry.next(self.inputs.at(parents), self.outputs.at(parents), tokens.embeddings);
        self.run(made, &after)
    }
}
