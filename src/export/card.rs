//! The model card of an exported checkpoint.

use std::path::Path;

use super::Format;
use crate::backbone::Backbone;
use crate::heads::PlainHeads;
use crate::storage_type::StorageType;

/// Returns the card, as Markdown with the fields that hubs read.
pub(super) fn card(
    format: &dyn Format,
    (heads, backbone): (&PlainHeads, &Backbone),
    (output, dtype): (&Path, StorageType),
    results: &str,
) -> String {
    let (folder, model) = (output.display().to_string(), backbone.path.display().to_string());
    let parameters: usize = heads.parameters.values().map(|(_, numbers)| numbers.len()).sum();
    let vocabulary = match &heads.vocabulary {
        None => "all tokens of the backbone".to_owned(),
        Some(ids) => format!("{} of the backbone's {} tokens", ids.len(), backbone.model.config().vocab_size),
    };
    let read = heads.architecture.kind().features(backbone.model.config()).unwrap_or_default();
    let features: Vec<String> = read.iter().map(ToString::to_string).collect();
    let architecture = serde_json::json!(heads.architecture);
    let serving = format.serving(&folder, &model, heads.count);
    format!(
        "---\nlibrary_name: draftsmith\nbase_model: {model}\nlicense: other\ntags: [speculative-decoding, draft-model]\n---\n\
# Draft heads\n\n\
These heads draft {count} tokens at once for the backbone `{model}`, whose text stays what it is: what they draft is checked by it.\n\n\
| | |\n|---|---|\n\
| format | {name}: {about} |\n\
| heads | `{architecture}` |\n\
| drafted | {count} tokens a block, from {vocabulary} |\n\
| parameters | {parameters}, as {dtype} |\n\
| reads | {features} (`layer-N`: the residual stream after N decoder layers) |\n\
| backbone | hash {hash:.16} |\n\n\
The licence is that of the backbone and of the text that the heads were trained on; whoever publishes them fills it in.\n\n\
## Serving\n\n    {serving}\n\n\
## Results\n\n{results}\n\n\
Block efficiency is the mean number of tokens that a forward of the backbone yields, the one that it always yields included.\n",
        count = heads.count,
        name = format.name(),
        about = format.about(),
        features = features.join(", "),
        dtype = serde_json::json!(dtype).as_str().unwrap_or_default(),
        hash = backbone.hash,
    )
}
