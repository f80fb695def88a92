//! The command `generate`, which prints the backbone's text token by token or block by block.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Budget, Common, Format, GenerateOptions};
use super::{print, print_json, terminal};
use crate::backbone::{self, Backbone, Checkpoint, Precision, Sampler};
use crate::decoding::{Decoder, Decoding, Rule, TimedBatch, Verification, block_seconds};
use crate::device;
use crate::drafting::{DRAFT_DICE, Drafter, DrawnDrafter, Origin, StopRule};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::heads::Binding;
use crate::progress;
use crate::stages::OpenedRun;
use crate::text::Tokenizer;

pub fn generate(common: &Common, options: &GenerateOptions) -> Result<()> {
    if let Some(temperature) = options.temperature
        && !(temperature > 0.0 && temperature.is_finite())
    {
        bail!("--temperature {temperature}: it must be above 0; leave it out for greedy text.");
    }
    if !(options.top_p > 0.0 && options.top_p <= 1.0) {
        bail!("--top-p {}: it must be above 0 and at most 1.", options.top_p);
    }
    let prompt = match (&options.prompt, &options.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => files::read_text(file)?,
        (None, None) => unreachable!("one of them is required"),
    };
    let device = device::open(common.device.as_deref().unwrap_or("auto").parse()?)?;
    match (&options.run, &options.model) {
        (Some(run), _) => by_blocks(common, options, run, &prompt, &device.device),
        (None, Some(model)) => by_tokens(common, options, model, prompt, &device.device),
        (None, None) => unreachable!("one of them is required"),
    }
}

/// Encodes the prompt, which must leave room in the context.
fn encode(backbone: &Backbone, prompt: &str) -> Result<Vec<u32>> {
    let prompt = backbone.tokenizer.encode(prompt)?;
    let context = backbone.model.config().max_position_embeddings;
    if prompt.is_empty() || prompt.len() >= context {
        bail!("the prompt has {} tokens; it needs at least 1 and fewer than the context's {context}.", prompt.len());
    }
    Ok(prompt)
}

fn by_tokens(
    common: &Common,
    options: &GenerateOptions,
    model: &str,
    mut prompt: String,
    device: &burn::tensor::Device,
) -> Result<()> {
    let path = backbone::resolve(model)?;
    let mut backbone = Backbone::load(&path, Precision::AS_STORED, device)?;
    let template = if options.chat { Some("model") } else { options.chat_template.as_deref() };
    let template = Checkpoint::open(&path)?.chat_template(template.unwrap_or_default())?;
    if let Some(template) = template {
        prompt = template.render(&prompt)?;
        backbone.tokenizer = backbone.tokenizer.for_chat(&template.key());
    }
    let prompt = encode(&backbone, &prompt)?;
    let room = backbone.model.config().max_position_embeddings.min(prompt.len().saturating_add(options.max_new));
    backbone.model.require_memory(1, room, "Lower --max-new, or shorten the prompt.")?;
    let tokens = match options.temperature {
        None => backbone::generate(&backbone, &[&prompt], options.max_new),
        Some(temperature) => {
            let sampler = Sampler::new(temperature, options.top_p, options.seed);
            backbone::sample(&backbone, &[&prompt], options.max_new, &mut [sampler])
        }
    }?
    .remove(0);
    let text = backbone.tokenizer.decode(&tokens)?;
    match common.format {
        Format::Json => print_json(&json!({"token_ids": tokens, "text": text})),
        Format::Table => print(&format!("{text}\n")),
    }
}

fn by_blocks(
    common: &Common,
    options: &GenerateOptions,
    folder: &Path,
    prompt: &str,
    device: &burn::tensor::Device,
) -> Result<()> {
    let (rule, seed) = (options.rule, options.seed);
    if options.temperature.is_some() && !rule.samples() {
        bail!("--temperature is for rules that sample; add --rule sample, or leave it out for greedy text.");
    }
    if rule.drawn().is_some() && options.variant.is_some() {
        bail!(
            "--rule: this rule needs drafts that are drawn from the heads, so leave --variant out (--drafts says how many)."
        );
    }
    if options.drafts.contains(&0) {
        bail!("--drafts: at least one token is drawn behind every path, and 0 was given.");
    }
    terminal::listen_for_interrupt()?;
    let run = OpenedRun::open(folder, device, if options.accept_backbone { Binding::Accepted } else { Binding::Same })?;
    let template = run.template.as_ref();
    let prompt = template.map_or_else(|| Ok(prompt.to_owned()), |template| template.render(prompt))?;
    let prompt = encode(&run.backbone, &prompt)?;
    let (opened, settings) = run.variant(options.variant.as_ref(), options.data.as_deref())?;
    let (name, stop) = (opened.variant.to_string(), opened.variant.stop);
    // Under any other rule, the text depends on the trees. The same seed must give the same text, however busy the machine is.
    let timed = options.budget == Budget::Auto && opened.drafts_trees() && rule == Rule::Greedy;
    let sized = match options.budget {
        Budget::Auto | Budget::Run => opened,
        Budget::Nodes(nodes) => opened.with_nodes(nodes),
    };
    let temperature = options.temperature.unwrap_or(1.0);
    let (name, stop, drafter): (String, StopRule, Box<dyn Drafter>) = match rule.drawn() {
        None => (name, stop, sized.drafter(&settings)),
        Some(origin) => {
            let replacement = origin == Origin::Independent;
            let (branching, stop) = (options.drafts.clone(), run.config.drafting.stop);
            if !stop.knows_paths() {
                bail!(
                    "--rule: the run's `drafting.stop` is \"{stop}\", which looks at more than what is proposed behind one path. Decode with a run that has another."
                );
            }
            let numbers: Vec<String> = branching.iter().map(ToString::to_string).collect();
            let seed = seed ^ DRAFT_DICE;
            let drawn = DrawnDrafter { branching, temperature, replacement, stop, seed };
            (format!("{} drawn drafts", numbers.join(",")), StopRule::Never, Box::new(drawn))
        }
    };
    let decoding = Decoding {
        top_k: run.config.lattice.top_k,
        dtype: run.config.traces.dtype,
        stop,
        verification: Verification { rule, temperature, seed },
    };
    // How many times as long as a forward of one token that of a whole tree takes here, where trees are sized by that.
    let (nodes, mut slower, mut seconds) = (run.config.drafting.nodes, None, None);
    let documents = [(&prompt[..], options.max_new)];
    if timed {
        let frontier = drafter.grows().then_some(run.config.drafting.frontier);
        let batch = TimedBatch { prompts: &documents, documents: 1, nodes, frontier };
        let found = block_seconds(&run.backbone, &run.heads, &*drafter, decoding, batch)?;
        slower = Some(found.forward[nodes - 1] / found.forward[0]);
        seconds = Some(found);
    }
    let started = Instant::now();
    let mut decoder = Decoder::new(&run.backbone, &run.heads, &*drafter, decoding, &documents, 1)?;
    if let Some(seconds) = seconds {
        decoder = decoder.sized_by(seconds);
    }
    let mut stream = (common.format == Format::Table).then(|| Stream::new(&run.backbone.tokenizer));
    let (mut blocks, mut most, mut prefill) = (Vec::new(), 0, Duration::ZERO);
    while !decoder.finished() && !progress::interrupted() {
        let round = decoder.step()?;
        prefill += round.spent.prefill;
        for (_, block) in round.blocks {
            most = most.max(block.nodes);
            blocks.push(block.tokens.len());
        }
        if let Some(stream) = &mut stream {
            stream.show(decoder.decoded(0))?;
        }
    }
    let (tokens, elapsed) = (decoder.decoded(0), started.elapsed());
    let [seconds, prefill, decode] = [elapsed, prefill, elapsed.saturating_sub(prefill)].map(|time| time.as_secs_f64());
    let efficiency = tokens.len() as f64 / blocks.len().max(1) as f64;
    let speed = tokens.len() as f64 / seconds;
    // Of the prompt, and of what follows it.
    let (of_prefill, of_decode) = (prompt.len() as f64 / prefill, tokens.len() as f64 / decode);
    let lossless = if rule.is_lossless() { "lossless" } else { "lossy" };
    if let Some(stream) = stream {
        stream.end()?;
        progress::say(format!(
            "{name}: {} tokens in {} calls, {efficiency:.2} tokens a call, {speed:.1} tokens/s, {lossless}; prefill {} tokens in {prefill:.2} s, {of_prefill:.1} tokens/s; decode {decode:.2} s, {of_decode:.1} tokens/s",
            tokens.len(),
            blocks.len(),
            prompt.len()
        ));
        if let Some(slower) = slower.filter(|_| most < nodes) {
            progress::say(format!(
                "no tree had more than {most} of {nodes} nodes, because a forward of {nodes} takes {slower:.1} times as long as one of 1 on this machine; --budget run verifies whole trees."
            ));
        }
        return Ok(());
    }
    print_json(&json!({
        "token_ids": tokens,
        "text": run.backbone.tokenizer.decode(tokens)?,
        "variant": name,
        "lossless": rule.is_lossless(),
        "blocks": blocks,
        "block_efficiency": efficiency,
        "tokens_per_s": speed,
        "prompt_tokens": prompt.len(),
        "prefill_seconds": prefill,
        "prefill_tokens_per_s": of_prefill,
        "decode_seconds": decode,
        "decode_tokens_per_s": of_decode,
    }))
}

/// Prints text while it is decoded, block by block. On a terminal, the blocks alternate between two colours.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    shown: String,
    coloured: bool,
    blocks: usize,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, shown: String::new(), coloured: terminal::coloured(), blocks: 0 }
    }

    /// Prints the text that `tokens` add to what was printed before.
    fn show(&mut self, tokens: &[u32]) -> Result<()> {
        let text = self.tokenizer.decode(tokens)?;
        // The end of a block may cut a character. Its text is then printed with the next block.
        let whole = |new: &&str| !new.is_empty() && !new.ends_with('\u{FFFD}');
        let Some(new) = text.strip_prefix(&self.shown).filter(whole) else { return Ok(()) };
        self.blocks += 1;
        let colour = if self.blocks % 2 == 1 { "\x1b[36m" } else { "\x1b[33m" };
        let painted = if self.coloured { format!("{colour}{new}\x1b[0m") } else { new.to_owned() };
        write(&painted)?;
        self.shown = text;
        Ok(())
    }

    fn end(self) -> Result<()> {
        write("\n")
    }
}

/// Writes to standard output at once. It is not an error if the reader has gone away.
fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
