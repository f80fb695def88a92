//! Tokens, as networks read them.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Embedding, Init, Linear, indices};

/// Some tokens, for networks that read their ids or their embeddings.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Their ids, `[n]`.
    pub ids: Tensor<1, Int>,
    /// The backbone's embeddings of them, `[n, d]`.
    pub embeddings: Tensor<2>,
}

impl Tokens {
    /// Makes tokens of their ids and embeddings `[n, d]`.
    pub fn new(ids: &[u32], embeddings: Tensor<2>) -> Self {
        let device = embeddings.device().without_autodiff();
        Self { ids: indices(ids.iter().map(|&id| id as usize), &device), embeddings }
    }

    /// Returns their number.
    pub fn len(&self) -> usize {
        self.embeddings.dims()[0]
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the same tokens with embeddings that may stand beside what learns.
    #[must_use]
    pub fn autodiff(self) -> Self {
        Self { embeddings: self.embeddings.autodiff(), ..self }
    }
}

/// Returns the distinct ones of some ids in the order in which they come, and the place of each id among them.
pub fn distinct(ids: impl IntoIterator<Item = u32>) -> (Vec<u32>, Vec<usize>) {
    let (mut places, mut distinct) = (HashMap::new(), Vec::new());
    let place = |id: u32| {
        *places.entry(id).or_insert_with(|| {
            distinct.push(id);
            distinct.len() - 1
        })
    };
    let rows = ids.into_iter().map(place).collect();
    (distinct, rows)
}

/// What maps tokens to vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenVectors {
    /// A linear map of the backbone's embeddings.
    Embeddings,
    /// A vector for every token of the vocabulary.
    Codebooks,
}

/// A map from tokens to vectors `[n, rank]`.
#[derive(Module, Debug)]
pub enum TokenMap {
    /// Of their embeddings.
    Embeddings(Linear),
    /// Of their ids.
    Codebook(Embedding),
}

impl TokenMap {
    /// Makes a map to `rank` random numbers for each of `vocabulary` tokens, whose embeddings have width `d`. Numbers have a mean
    /// square of 1 where embeddings have.
    pub fn new(kind: TokenVectors, rank: usize, (d, vocabulary): (usize, usize), init: &mut Init) -> Self {
        match kind {
            TokenVectors::Embeddings => Self::Embeddings(init.linear(rank, d, (d as f32).powf(-0.5))),
            TokenVectors::Codebooks => Self::Codebook(Embedding { weight: init.matrix(vocabulary, rank, 1.0) }),
        }
    }

    /// Makes a map to zeros.
    pub fn zero(kind: TokenVectors, rank: usize, (d, vocabulary): (usize, usize), init: &mut Init) -> Self {
        match kind {
            TokenVectors::Embeddings => Self::Embeddings(init.zero_linear(rank, d)),
            TokenVectors::Codebooks => Self::Codebook(init.zero_embedding(vocabulary, rank)),
        }
    }

    /// Maps tokens to `[n, rank]`.
    pub fn forward(&self, tokens: &Tokens) -> Tensor<2> {
        match self {
            Self::Embeddings(map) => map.forward(tokens.embeddings.clone()),
            Self::Codebook(codebook) => codebook.weight.val().select(0, tokens.ids.clone()),
        }
    }

    /// Returns its linear layer, if it is one.
    pub fn linear(&mut self) -> Option<&mut Linear> {
        match self {
            Self::Embeddings(map) => Some(map),
            Self::Codebook(_) => None,
        }
    }
}
