//! The cost of a forward, from the model's shape alone. Norms, activations, rotations, biases and lookups are left out:
//! together they are a small part of one per cent.

use super::ModelConfig;

impl ModelConfig {
    /// Returns the number of weights in the matrices of all layers. Each is multiplied once for every token.
    pub fn layer_weights(&self) -> usize {
        let (d, queries) = (self.hidden_size, self.num_attention_heads * self.head_dim);
        let keys_and_values = 2 * self.num_key_value_heads * self.head_dim;
        let mlp = if self.gated { 3 } else { 2 } * self.intermediate_size;
        self.num_hidden_layers * d * (2 * queries + keys_and_values + mlp)
    }

    /// Returns the number of weights in the unembedding. Each is multiplied once for every token whose logits are
    /// computed.
    pub fn unembedding_weights(&self) -> usize {
        self.vocab_size * self.hidden_size
    }

    /// Returns the number of multiplications in the attention of one token to `context` tokens: scores and weighted
    /// sums, over all layers.
    pub fn attention_products(&self, context: usize) -> usize {
        2 * self.num_attention_heads * self.head_dim * self.attended_tokens(context)
    }

    /// Returns how many numbers of the KV cache such a token reads, over all layers.
    pub fn cached_numbers(&self, context: usize) -> usize {
        2 * self.num_key_value_heads * self.head_dim * self.attended_tokens(context)
    }

    /// Returns the number of tokens that a token attends to, summed over the layers.
    fn attended_tokens(&self, context: usize) -> usize {
        (0..self.num_hidden_layers).map(|layer| self.window(layer).map_or(context, |window| window.min(context))).sum()
    }
}
