//! What `draftsmith doctor` looks at before anything long is started: the mistakes that otherwise show after hours, as heads that
//! accept little.
//!
//! Every check says what it found, and if it failed, what to do. Nothing is kept: what is tried lies in a temporary folder.

mod heads;
mod rehearsal;

use std::collections::{BTreeSet, HashMap};

use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::backbone::{Backbone, Feature, Span, generate};
use crate::error::{Error, Result};
use crate::evaluation::analyses::loops;
use crate::files;
use crate::nn::to_host;
use crate::stages::{TracesEstimate, Workspace, estimate_traces};
use crate::text::{ChatTemplate, Document, Split};

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub check: &'static str,
    /// Whether all is well.
    pub passed: bool,
    /// What was seen, and what to do if it is wrong.
    pub words: String,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// The checks, in order.
    pub checks: Vec<Finding>,
    /// A stretch of text as heads are trained on it.
    pub shown: Vec<ShownToken>,
    /// What the traces will take.
    pub traces: TracesEstimate,
}

/// A token of a text, and what head 2 learns there.
#[derive(Debug, Serialize)]
pub struct ShownToken {
    /// Its place in the text.
    pub place: usize,
    /// The token.
    pub token: String,
    /// The next one, which the backbone itself predicts: it is pinned.
    pub pinned: String,
    /// The token that head 2 is to predict here.
    pub target: String,
    /// Whether the target counts in training.
    pub counts: bool,
}

/// How many documents of each corpus are tokenised.
const READABLE: usize = 50;
/// How many documents a draft vocabulary is judged by, and the share of their tokens that it should hold.
const COUNTED: usize = 400;
const COVERED: f64 = 0.8;
/// How many texts are read for a check.
const TEXTS: usize = 4;
/// How many tokens of a text are read, and how many are written.
const READ: usize = 48;
const WRITTEN: usize = 32;
/// By how much states may differ where they need not have the same bits: on accelerators.
const TOLERANCE: f32 = 2e-2;

/// Looks at what can be told in seconds, before anything is computed: whether texts survive the tokenizer, what ends them, and
/// whether prompts fit.
///
/// # Errors
/// Returns an error if a text cannot be read.
pub fn quick(workspace: &Workspace) -> Result<Vec<Finding>> {
    let backbone = workspace.backbone();
    let of_corpus = workspace.corpora().iter().flat_map(|corpus| corpus.documents.iter().take(READABLE));
    let documents: Vec<&Document> = of_corpus.map(|(_, document)| document).collect();
    let template = workspace.inputs.template.as_deref();
    let ends = template.map(|template| ending(backbone, template)).transpose()?;
    let own = [round_trip(backbone, &documents)?, end_of_text(backbone)?, room(backbone, &documents)?];
    Ok(own.into_iter().chain(ends).collect())
}

/// Looks at everything that a run needs.
///
/// # Errors
/// Returns an error if a text cannot be read, or if the traces cannot be estimated.
pub fn doctor(workspace: &Workspace) -> Result<Findings> {
    let backbone = workspace.backbone();
    let documents: Vec<&Document> = workspace.corpora().iter().flat_map(|corpus| corpus.split(Split::Train)).collect();
    let first = documents.first().copied().ok_or_else(|| Error::new("no corpus has a document to train on."))?;
    let prompts = prompts(backbone, &documents)?;
    let written = written(backbone, &prompts)?;
    let mut checks = vec![device(workspace)];
    checks.extend(quick(workspace)?);
    checks.extend([first_choices(backbone, &prompts, &written), batches(backbone, &prompts), repeats(&written)]);
    checks.extend(heads::checks(workspace, &prompts, &written)?);
    checks.extend(vocabulary(workspace, &documents)?);
    let traces = estimate_traces(workspace)?;
    checks.push(disk(&traces));
    checks.extend(rehearsal::checks(workspace)?);
    Ok(Findings { checks, shown: shown(workspace, first)?, traces })
}

/// Where the backbone runs, and in which types.
fn device(workspace: &Workspace) -> Finding {
    let model = &workspace.backbone().model;
    let [weights, computed] = [model.weight_bytes(), model.state_bytes()].map(|bytes| 8 * bytes);
    let words = format!(
        "{}; weights of {weights} bits ({}), computed in {computed}",
        workspace.device.choice,
        HumanBytes((model.parameters() * model.weight_bytes()) as u64)
    );
    finding("device", true, words)
}

/// What heads draft from must hold most of what the backbone writes. It is not known yet, so the corpora's own text stands for it:
/// the most frequent tokens of every second document, and how many of the other documents' tokens are among them.
fn vocabulary(workspace: &Workspace, documents: &[&Document]) -> Result<Option<Finding>> {
    let Some(vocabulary) = &workspace.config.heads.vocabulary else { return Ok(None) };
    let mut counts: HashMap<u32, [u64; 2]> = HashMap::new();
    for (number, document) in documents.iter().take(COUNTED).enumerate() {
        let text = format!("{}{}", document.prompt, document.completion);
        for token in workspace.backbone().tokenizer.encode_continuation(&text)? {
            counts.entry(token).or_default()[number % 2] += 1;
        }
    }
    let mut counts: Vec<[u64; 2]> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let sum = |counts: &[[u64; 2]]| counts.iter().map(|count| count[1]).sum::<u64>();
    let known = sum(&counts[..counts.len().min(vocabulary.size)]);
    let share = known as f64 / sum(&counts).max(1) as f64;
    let words = format!(
        "the {} most frequent tokens of every second document are {:.1} % of the others' tokens",
        vocabulary.size,
        100.0 * share
    );
    let passed = share >= COVERED;
    let advice = ". What is not drafted is never accepted: raise `heads.vocabulary.size`.";
    Ok(Some(finding("vocabulary", passed, if passed { words } else { words + advice })))
}

fn finding(check: &'static str, passed: bool, words: impl Into<String>) -> Finding {
    Finding { check, passed, words: words.into() }
}

/// Returns the first prompts that fit, cut to their last tokens.
fn prompts(backbone: &Backbone, documents: &[&Document]) -> Result<Vec<Vec<u32>>> {
    let most = READ.min(backbone.model.config().max_position_embeddings.saturating_sub(WRITTEN + 1));
    let mut prompts = Vec::new();
    for document in documents {
        let tokens = backbone.tokenizer.encode(&document.prompt).map_err(|e| e.within(&document.id))?;
        if tokens.len() > 1 && prompts.len() < TEXTS {
            prompts.push(tokens[tokens.len().saturating_sub(most)..].to_vec());
        }
    }
    if prompts.is_empty() {
        return Err(Error::new("no document has a prompt of two tokens or more."));
    }
    Ok(prompts)
}

fn written(backbone: &Backbone, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>> {
    generate(backbone, &prompts.iter().map(Vec::as_slice).collect::<Vec<_>>(), WRITTEN)
}

/// What is encoded and decoded again must be the same text.
fn round_trip(backbone: &Backbone, documents: &[&Document]) -> Result<Finding> {
    let tokenizer = &backbone.tokenizer;
    for document in documents {
        let text = format!("{}{}", document.prompt, document.completion);
        let again = tokenizer.decode(&tokenizer.encode_continuation(&text)?)?;
        // Special tokens of a template are not decoded, and some tokenizers begin with a space.
        let special = text.contains("<|") || text.contains("<s>") || text.contains("[INST]");
        if !special && again.trim() != text.trim() {
            let place = again.trim().chars().zip(text.trim().chars()).take_while(|(a, b)| a == b).count();
            return Ok(finding(
                "tokenizer",
                false,
                format!(
                    "{}: the text changes when it is encoded and decoded again, from character {place} on. Heads learn what the tokenizer makes of it: normalise the corpus, or take the tokenizer of this model.",
                    document.id
                ),
            ));
        }
    }
    Ok(finding("tokenizer", true, format!("{} texts are the same after encoding and decoding", documents.len())))
}

/// The files of a model must agree on what ends a text.
fn end_of_text(backbone: &Backbone) -> Result<Finding> {
    let ids = |name: &str| -> BTreeSet<u64> {
        let json: Map<String, Value> = files::read_json(&backbone.path.join(name)).unwrap_or_default();
        match json.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(one) => one.as_u64().into_iter().collect(),
            None => BTreeSet::new(),
        }
    };
    let [generation, config] = ["generation_config.json", "config.json"].map(ids);
    if backbone.end_of_text.is_empty() {
        return Ok(finding(
            "end of text",
            false,
            "no file of the model names a token that ends a text, so every text runs to its limit. Write `eos_token_id` into generation_config.json.",
        ));
    }
    if !generation.is_empty() && !config.is_empty() && generation.is_disjoint(&config) {
        return Ok(finding(
            "end of text",
            false,
            format!(
                "generation_config.json ends texts with {generation:?}, config.json with {config:?}; the first is obeyed. Make them agree."
            ),
        ));
    }
    let names: Vec<String> = backbone.end_of_text.iter().map(|&id| format!("{id} {:?}", token(backbone, id))).collect();
    Ok(finding("end of text", true, format!("texts end with {}", names.join(", "))))
}

/// What a chat template writes behind an answer must end a text.
fn ending(backbone: &Backbone, template: &ChatTemplate) -> Result<Finding> {
    let ending = match template.ending() {
        Ok(ending) => ending,
        Err(e) => return Ok(finding("template", true, format!("what ends an answer is not known: {e}"))),
    };
    let first = backbone.tokenizer.encode_continuation(ending.trim_start())?.first().copied();
    // Words that follow an answer do not end it; special tokens are those that are not decoded.
    let special = |id: &u32| backbone.tokenizer.decode(&[*id]).is_ok_and(|text| text.is_empty());
    Ok(match first.filter(special) {
        Some(id) if backbone.end_of_text.contains(&id) => {
            finding("template", true, format!("the chat template ends an answer with {id} {:?}", token(backbone, id)))
        }
        Some(id) => finding(
            "template",
            false,
            format!(
                "the chat template ends an answer with {id} {:?}, which does not end a text, so the model writes on behind its answers. Add it to `eos_token_id` in generation_config.json.",
                token(backbone, id)
            ),
        ),
        None => finding("template", true, "the chat template ends an answer with no special token"),
    })
}

/// Prompts that fill the context are left out of traces.
fn room(backbone: &Backbone, documents: &[&Document]) -> Result<Finding> {
    let context = backbone.model.config().max_position_embeddings;
    let read = documents.len();
    let mut lengths = Vec::new();
    for document in documents {
        lengths.push(backbone.tokenizer.encode(&document.prompt)?.len());
    }
    lengths.sort_unstable();
    let (median, out) =
        (lengths.get(read / 2).copied().unwrap_or(0), lengths.iter().filter(|&&length| length >= context).count());
    let words = format!("{out} of {read} prompts fill the context of {context} tokens; the median has {median}");
    let passed = out * 10 <= read;
    let advice = ". They are left out: shorten the template, or take documents that fit.";
    Ok(finding("prompts", passed, if passed { words } else { words + advice }))
}

/// The states that are stored must give the tokens that decoding gives.
fn first_choices(backbone: &Backbone, prompts: &[Vec<u32>], written: &[Vec<u32>]) -> Finding {
    let (mut tokens, mut other) = (0, 0);
    for (prompt, text) in prompts.iter().zip(written) {
        let whole = [&prompt[..], text].concat();
        let states = backbone.model.features(&[Span::chain(&whole[..whole.len() - 1])], None, &[Feature::Last]);
        let best = backbone.model.projection().largest(states[0].clone(), 1, false);
        for (at, token) in text.iter().enumerate() {
            tokens += 1;
            other += usize::from(best[prompt.len() - 1 + at].first().0 != *token);
        }
    }
    let words = format!("of {tokens} decoded tokens, the states of the whole text predict {}", tokens - other);
    let passed = other == 0;
    let advice = ". Traces would not be what the model writes: this is a bug in draftsmith or in the device's backend; try another device.";
    finding("states", passed, if passed { words } else { words + advice })
}

/// States must not depend on the texts beside them.
fn batches(backbone: &Backbone, prompts: &[Vec<u32>]) -> Finding {
    let model = &backbone.model;
    let spans: Vec<Span> = prompts.iter().map(|prompt| Span::chain(prompt)).collect();
    let together = to_host(model.features(&spans, None, &[Feature::Last]).remove(0));
    let alone: Vec<f32> = spans
        .iter()
        .flat_map(|span| to_host(model.features(std::slice::from_ref(span), None, &[Feature::Last]).remove(0)))
        .collect();
    let largest = together.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let far = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let passed = far <= TOLERANCE * largest;
    let words = match far {
        0.0 => format!("{} texts have the same states alone and together, to the bit", prompts.len()),
        _ => format!("states alone and together differ by {far:.1e}, of {largest:.1}"),
    };
    let advice = ". Set `traces.batch` = 1, and report it.";
    finding("batches", passed, if passed { words } else { words + advice })
}

/// A model that repeats itself makes any heads look good.
fn repeats(written: &[Vec<u32>]) -> Finding {
    let looping = written.iter().filter(|text| loops(text)).count();
    let words = format!("{looping} of {} greedy texts repeat themselves within {WRITTEN} tokens", written.len());
    let passed = 2 * looping <= written.len();
    let advice = ". Block efficiency would measure the loops: give prompts that the model answers, in its chat template if it has one (`backbone.chat_template` = \"model\").";
    finding("loops", passed, if passed { words } else { words + advice })
}

fn disk(traces: &TracesEstimate) -> Finding {
    let (need, free) = (traces.bytes_at_most, traces.bytes_free);
    let mib = |bytes: u64| bytes >> 20;
    let words = format!(
        "the traces that are missing take {} MiB of disk at most, {} MiB are free, and about {:.0} s",
        mib(need),
        mib(free),
        traces.seconds
    );
    let advice = ". Set `traces.keep` = \"tokens\", take fewer documents, or another disk.";
    finding("disk", need < free, if need < free { words } else { words + advice })
}

fn token(backbone: &Backbone, id: u32) -> String {
    backbone.tokenizer.token(id).unwrap_or_else(|| format!("<{id}>"))
}

/// Returns ten tokens of a document around the end of its prompt, with what head 2 learns there.
fn shown(workspace: &Workspace, document: &Document) -> Result<Vec<ShownToken>> {
    let backbone = workspace.backbone();
    let mut tokens = backbone.tokenizer.encode(&document.prompt)?;
    let prompt = tokens.len();
    tokens.extend(generate(backbone, &[&tokens], 12)?.remove(0));
    let first = prompt.saturating_sub(6);
    let last = (first + 10).min(tokens.len().saturating_sub(2));
    let one = |place: usize| ShownToken {
        place,
        token: token(backbone, tokens[place]),
        pinned: token(backbone, tokens[place + 1]),
        target: token(backbone, tokens[place + 2]),
        counts: workspace.config.heads.prompt_positions || place + 1 >= prompt,
    };
    Ok((first..last).map(one).collect())
}
