//! Reads GGUF files: model, tokenizer and chat template.

#![no_main]

draftsmith_fuzz::target!("gguf");
