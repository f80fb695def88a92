//! Reads `tokenizer.json` of every model of tokens, and `tokenizer_config.json`.

#![no_main]

draftsmith_fuzz::target!("tokenizers");
