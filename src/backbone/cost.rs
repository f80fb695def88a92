//! What a forward costs by the model's shape alone. Norms, activations, rotations, biases and lookups are left out: they are
//! a small part of one per cent.

use super::ModelConfig;

impl ModelConfig {
    /// Weights in the matrices of all layers; each is multiplied once for every token.
    pub fn layer_weights(&self) -> usize {
        let (d, queries) = (self.hidden_size, self.num_attention_heads * self.head_dim);
        let keys_and_values = 2 * self.num_key_value_heads * self.head_dim;
        let mlp = if self.gated { 3 } else { 2 } * self.intermediate_size;
        self.num_hidden_layers * d * (2 * queries + keys_and_values + mlp)
    }

    /// Weights in the unembedding; each is multiplied once for every token whose logits are asked for.
    pub fn unembedding_weights(&self) -> usize {
        self.vocab_size * self.hidden_size
    }

    /// Multiplications in the attention of one token that sees `context` others: scores and weighted sums, over all layers.
    pub fn attention_products(&self, context: usize) -> usize {
        2 * self.num_attention_heads * self.head_dim * self.tokens_seen(context)
    }

    /// Numbers in the keys and values that such a token reads, over all layers.
    pub fn cached_numbers(&self, context: usize) -> usize {
        2 * self.num_key_value_heads * self.head_dim * self.tokens_seen(context)
    }

    /// Tokens seen, summed over the layers.
    fn tokens_seen(&self, context: usize) -> usize {
        (0..self.num_hidden_layers).map(|layer| self.window(layer).map_or(context, |window| window.min(context))).sum()
    }
}
