//! `kind = "hydra"`: heads of residual blocks, each of which reads all tokens that were drafted before it.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attention::{AttentionHeads, PrefixLayerConfig};
use super::carried::{self, Carries, OfHeadsBelow};
use super::kind::check_blocks;
use super::network::{Differentiated, DraftedTokens, Learning};
use super::unembedding::copy_unembedding;
use super::{Begun, DraftHeads, HeadKind, HeadShape, HeadUnembedding, Starts};
use crate::backbone::{Feature, FeatureTensors, KvCache, Model};
use crate::error::Result;
use crate::nn::{Embedding, Init, Linear, Tokens};
use crate::storage_type::StorageType;

/// `kind = "hydra"`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HydraConfig {
    /// How often the residual block behind a head's first one is applied.
    pub repeats: usize,
    /// The matrix that turns a head's state into logits.
    pub unembedding: HeadUnembedding,
    /// A decoder layer over the text, whose output the heads read in place of the backbone's state (Hydra++), such as
    /// `{ warm_start = true }`, or `{}` for a random one. Without it, the heads read the state.
    pub prefix_layer: Option<PrefixLayerConfig>,
}

impl Default for HydraConfig {
    fn default() -> Self {
        Self { repeats: 3, unembedding: HeadUnembedding::Frozen, prefix_layer: None }
    }
}

impl HeadKind for HydraConfig {
    const NAME: &'static str = "hydra";
    type Network = HydraHeads;

    fn validate(&self) -> Result<()> {
        check_blocks("repeats", self.repeats)
    }

    fn owns_unembedding(&self) -> bool {
        self.unembedding == HeadUnembedding::Own
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn network(&self, shape: HeadShape, init: &mut Init) -> HydraHeads {
        let (d, vocabulary) = (shape.width(), shape.backbone.vocab_size);
        let head = |number: usize| {
            let inputs = (number + 2) * d;
            // The map of all inputs passes the backbone's state on.
            let pass = (0..d * inputs).map(|at| if at % inputs == at / inputs { 1.0 } else { 0.0 });
            let mut first = init.zero_linear(d, inputs).with_bias(init);
            first.weight = init.given(pass.collect(), [d, inputs]);
            HydraHead {
                first,
                change: init.zero_linear(d, inputs).with_bias(init),
                block: (self.repeats > 0).then(|| init.zero_linear(d, d).with_bias(init)),
                unembedding: self.unembedding.table(vocabulary, d, init),
            }
        };
        let heads = (0..shape.count).map(head).collect();
        let prefix = self.prefix_layer.map(|layer| layer.network(shape, init));
        HydraHeads { prefix, heads, repeats: self.repeats }
    }
}

/// Hydra (Ankner et al. 2024, arXiv 2402.05109; zankner/Hydra). Head j reads `z = [h; e(x_1); ..; e(x_j)]`, the backbone's state and
/// its embeddings of the pinned token and all that were drafted before, and computes `y = L z + silu(M z)`, then a few times
/// `y + silu(B y)`, always with the same B. All maps have biases. L passes h on at first, and M and B are zero; in the original, L is
/// random.
///
/// In Hydra++, h is what a decoder layer makes of the backbone's states of the whole text ([`PrefixLayerConfig`]).
#[derive(Module, Debug)]
pub struct HydraHeads {
    /// The layer, as heads with a single state.
    prefix: Option<AttentionHeads>,
    heads: Vec<HydraHead>,
    #[module(skip)]
    repeats: usize,
}

#[derive(Module, Debug)]
struct HydraHead {
    /// L.
    first: Linear,
    /// M.
    change: Linear,
    /// B.
    block: Option<Linear>,
    unembedding: Option<Embedding>,
}

impl Carries for HydraHeads {
    fn row(
        &self,
        head: usize,
        read: Vec<Tensor<2>>,
        carried: Option<Tensor<2>>,
        tokens: Tokens,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let hidden = read[0].clone();
        let HydraHead { first, change, block, .. } = &self.heads[head];
        let read = Tensor::cat(vec![carried.unwrap_or(hidden), tokens.embeddings], 1);
        let first = first.forward(read.clone()) + silu(change.forward(read.clone()));
        let blocks = block.iter().flat_map(|block| std::iter::repeat_n(block, self.repeats));
        (blocks.fold(first, |y, block| y.clone() + silu(block.forward(y))), Some(read))
    }
}

/// Every head reads the one state below.
fn of_prefix<'a>() -> OfHeadsBelow<'a> {
    Box::new(|_, below| vec![below(0)])
}

impl DraftHeads for HydraHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        let of_head = |head| {
            let HydraHead { first, change, block, .. }: &mut HydraHead = head;
            [first, change].into_iter().chain(block)
        };
        let of_prefix = self.prefix.iter_mut().flat_map(AttentionHeads::linears);
        self.heads.iter_mut().flat_map(of_head).chain(of_prefix).collect()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let (hidden, pinned) = (starts.states.get(Feature::Last), starts.pinned.clone());
        let below = match &self.prefix {
            Some(prefix) => prefix.begin(starts),
            None => Begun::Parallel(Box::new(move |_| hidden.clone())),
        };
        carried::begin_above(self, below, of_prefix(), pinned)
    }

    fn learn<'a>(&'a self, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Box<dyn Learning + 'a> {
        match &self.prefix {
            Some(prefix) => carried::learn_above(self, prefix.learn(starts, drafted), of_prefix(), drafted),
            None => Box::new(Differentiated::new(self.begin(starts).chains(drafted))),
        }
    }

    fn pack(&mut self, weights: StorageType) {
        self.linears().into_iter().for_each(|linear| linear.freeze(weights));
        self.prefix.iter_mut().for_each(|prefix| prefix.pack(weights));
    }

    fn cache(&self, texts: usize, tokens: usize) -> Option<KvCache> {
        self.prefix.as_ref()?.cache(texts, tokens)
    }

    fn read(&self, model: &Model, cache: &mut KvCache, counts: &[usize], states: &FeatureTensors) {
        let prefix = self.prefix.as_ref().expect("heads that attend");
        prefix.read(model, cache, counts, states);
    }

    fn unembedding(&self, head: usize) -> Option<Tensor<2>> {
        self.heads[head].unembedding.as_ref().map(|table| table.weight.val())
    }

    fn products(&self, parameters: usize) -> usize {
        let block = self.heads[0].block.as_ref().map_or(0, |block| block.weight.val().dims().iter().product());
        parameters + self.heads.len() * self.repeats.saturating_sub(1) * block
    }

    fn warm_start(&mut self, model: &Model) -> Result<()> {
        self.prefix.iter_mut().try_for_each(|prefix| prefix.warm_start(model))?;
        copy_unembedding(self.heads.iter_mut().filter_map(|head| head.unembedding.as_mut()), model);
        Ok(())
    }

    fn rate_factors(&self) -> Vec<(String, f64)> {
        let of_prefix = self.prefix.iter().flat_map(DraftHeads::rate_factors);
        of_prefix.map(|(path, factor)| (format!("prefix.{path}"), factor)).collect()
    }
}
