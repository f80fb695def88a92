//! `generate`: the backbone's own text.

use serde_json::json;

use super::args::{Common, Format, GenerateOptions};
use super::{print, print_json};
use crate::backbone::{self, Backbone, Checkpoint, Precision, Sampler};
use crate::device;
use crate::error::{Result, bail};

pub fn generate(common: &Common, options: &GenerateOptions) -> Result<()> {
    let temperature = options.temperature.unwrap_or(1.0);
    if !(temperature > 0.0 && temperature.is_finite()) {
        bail!("--temperature {temperature}: it must be above 0; leave it out for greedy text.");
    }
    if !(options.top_p > 0.0 && options.top_p <= 1.0) {
        bail!("--top-p {}: it must be above 0 and at most 1.", options.top_p);
    }
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?;
    let path = backbone::resolve(&options.model)?;
    let mut backbone = Backbone::load(&path, Precision::AS_STORED, &device.device)?;
    let mut prompt = options.prompt.clone();
    let template = Checkpoint::open(&path)?.chat_template(options.chat_template.as_deref().unwrap_or_default())?;
    if let Some(template) = template {
        prompt = template.render(&prompt)?;
        backbone.tokenizer = backbone.tokenizer.for_chat(&template.key());
    }
    let prompt = backbone.tokenizer.encode(&prompt)?;
    let context = backbone.model.config().max_position_embeddings;
    if prompt.is_empty() || prompt.len() >= context {
        bail!("--prompt has {} tokens; it needs at least 1 and fewer than the context's {context}.", prompt.len());
    }
    let tokens = match options.temperature {
        None => backbone::generate(&backbone, &[&prompt], options.max_new),
        Some(temperature) => {
            let sampler = Sampler::new(temperature, options.top_p, options.seed);
            backbone::sample(&backbone, &[&prompt], options.max_new, &mut [sampler])
        }
    }
    .remove(0);
    let text = backbone.tokenizer.decode(&tokens)?;
    match common.format {
        Format::Json => print_json(&json!({"token_ids": tokens, "text": text})),
        Format::Table => print(&format!("{text}\n")),
    }
}
