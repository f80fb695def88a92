//! Models of the Llama family in llama.cpp's GGUF files: weights, configuration, tokenizer.

mod file;
mod format;
pub mod llama;
mod quants;
pub mod tokenizer;

#[cfg(test)]
mod tests;

pub use file::GgufFile;
pub use format::Tensor;
