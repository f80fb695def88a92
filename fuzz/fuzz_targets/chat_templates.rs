//! Reads chat templates, and the `tokenizer_config.json` that holds one.

#![no_main]

draftsmith_fuzz::target!("chat_templates");
