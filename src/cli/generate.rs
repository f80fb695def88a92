//! `generate`: the backbone's own greedy text.

use serde_json::json;

use super::args::{Common, Format, GenerateOptions};
use super::{print, print_json};
use crate::backbone::{self, Backbone, Precision};
use crate::device;
use crate::error::{Result, bail};

pub fn generate(common: &Common, options: &GenerateOptions) -> Result<()> {
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?;
    let backbone = Backbone::load(&options.model, Precision::AS_STORED, &device.device)?;
    let prompt = backbone.tokenizer.encode(&options.prompt)?;
    let context = backbone.model.config().max_position_embeddings;
    if prompt.is_empty() || prompt.len() >= context {
        bail!("--prompt has {} tokens; it needs at least 1 and fewer than the context's {context}.", prompt.len());
    }
    let tokens = backbone::generate(&backbone, &[&prompt], options.max_new).remove(0);
    let text = backbone.tokenizer.decode(&tokens)?;
    match common.format {
        Format::Json => print_json(&json!({"token_ids": tokens, "text": text})),
        Format::Table => print(&format!("{text}\n")),
    }
}
