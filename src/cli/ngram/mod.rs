//! The command `ngram`, which makes and uses n-gram models.

mod args;
mod input;

use std::path::Path;

use serde_json::{Map, Value, json};

pub use args::NgramCommand;

use super::args::{Common, Format};
use super::{print, print_json};
use crate::cli::terminal;
use crate::error::{Error, Result, bail};
use crate::ngram::{
    Counter, Counts, DEFAULT_FALLBACK, Ending, Listing, Memory, Model, Options, PartialCount, Score, Vocabulary, arpa,
    estimate,
};
use crate::progress;
use args::{EstimateOptions, MemoryOption, TextOptions};
use input::{Input, for_each_line_of_ids};

pub fn ngram(common: &Common, command: &NgramCommand) -> Result<()> {
    let mut fields = match command {
        NgramCommand::Count { text, order, out, parquet, memory } => {
            count(text, *order, out, parquet.as_deref(), memory)?
        }
        NgramCommand::Merge { counts, out } => {
            Counts::open(counts)?.save(out)?;
            Fields::new()
        }
        NgramCommand::Estimate(options) => estimate_model(options)?,
        NgramCommand::Prune { model, threshold, held_out, out, memory } => {
            prune(model, *threshold, held_out.as_deref(), out, memory)?
        }
        NgramCommand::Convert { from, to, quantise, memory } => convert(from, to, *quantise, memory)?,
        NgramCommand::Score { arpa, model, token_ids } => {
            return score(common, arpa.as_deref(), model.as_deref(), token_ids);
        }
    };
    if let Some(bytes) = progress::peak_memory() {
        fields.push("peak_memory_bytes", json!(bytes), format!("peak memory {:.0} MB", bytes as f64 / 1e6));
    }
    match common.format {
        Format::Json => print_json(&Value::Object(fields.json)),
        Format::Table => print(&fields.lines),
    }
}

/// The result of a command, both as JSON and as lines of text.
struct Fields {
    json: Map<String, Value>,
    lines: String,
}

impl Fields {
    fn new() -> Self {
        Self { json: Map::new(), lines: String::new() }
    }

    fn push(&mut self, name: &str, value: Value, line: String) {
        self.json.insert(name.to_owned(), value);
        self.lines += &line;
        self.lines.push('\n');
    }

    fn sizes(&mut self, name: &str, sizes: &[u64]) {
        let line = sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        self.push(name, json!(sizes), format!("{} by order {line}", name.replace('_', " ")));
    }

    fn perplexity(&mut self, name: &str, of: Score) {
        let (all, known) = (of.perplexity(), of.perplexity_without_oov());
        let line = format!("{} {all:.4}, without OOV {known:.4}", name.replace('_', " "));
        self.push(name, json!({"perplexity": all, "perplexity_without_oov": known}), line);
    }
}

fn count(
    text: &TextOptions,
    order: usize,
    out: &Path,
    parquet: Option<&Path>,
    memory: &MemoryOption,
) -> Result<Fields> {
    terminal::listen_for_interrupt()?;
    let input = Input::open(text)?;
    let memory = memory.beside(out)?;
    let mut partial = PartialCount::open(out, &input.describe()?, order, input.vocabulary.clone(), &memory)?;
    if partial.documents_done() > 0 {
        progress::say(format!("going on after {} documents that were counted earlier", partial.documents_done()));
    }
    input.for_each(|tokens, ending| {
        if progress::interrupted() {
            partial.save()?;
            return Err(Error::interrupted(format!(
                "interrupted after {} documents. Start the same command again to go on.",
                partial.documents_done()
            )));
        }
        let before = partial.documents_done();
        partial.add(tokens, ending)?;
        if partial.documents_done() > before {
            progress::say(format!("{} documents, {} tokens counted", partial.documents_done(), partial.tokens()));
        }
        Ok(())
    })?;
    let mut fields = Fields::new();
    fields.push("tokens", json!(partial.tokens()), format!("{} tokens, </s> included", partial.tokens()));
    let counts = partial.finish().map_err(|e| e.within(input.place()))?;
    if let Some(folder) = parquet {
        counts.write_parquet(folder)?;
    }
    Ok(fields)
}

fn estimate_model(options: &EstimateOptions) -> Result<Fields> {
    let target = options.model.as_ref().or(options.arpa.as_ref()).expect("clap requires one");
    let memory = options.memory.beside(target)?;
    let counts = open_counts(options, &memory)?;
    let settings = Options {
        smoothing: options.smoothing,
        discount_fallback: match options.discount_fallback.as_deref() {
            None => None,
            Some([]) => Some(DEFAULT_FALLBACK),
            Some(&[d1, d2, d3]) => Some([d1, d2, d3]),
            Some(_) => bail!("--discount-fallback takes no number or three, for instance 0.5 1 1.5."),
        },
        prune: options.prune.clone(),
    };
    let estimated = estimate(&counts, &settings, &memory)?;
    if let Some(path) = &options.model {
        Model::write(&estimated.listing, path)?;
    }
    if let Some(path) = &options.arpa {
        arpa::save(&estimated.listing, path)?;
    }
    let mut fields = Fields::new();
    fields.sizes("ngrams", &estimated.listing.sizes());
    let discounts = &estimated.discounts;
    let lines = (1..).zip(discounts).map(|(n, d)| {
        let amounts: Vec<String> = d.amounts.iter().map(|amount| format!("{amount:.6}")).collect();
        format!("discounts of order {n}: {}{}", amounts.join(" "), if d.fallback { " (fallback)" } else { "" })
    });
    let lines = lines.collect::<Vec<_>>().join("\n");
    fields.push("discounts", json!(discounts.iter().map(|d| &d.amounts).collect::<Vec<_>>()), lines);
    if let Some(path) = &options.held_out {
        if options.prune.iter().any(|&threshold| threshold > 0) {
            let whole = estimate(&counts, &Options { prune: Vec::new(), ..settings }, &memory)?;
            fields.perplexity("perplexity_without_pruning", score_lines(&Model::compile(&whole.listing)?, path)?);
        }
        let model = match &options.model {
            Some(written) => Model::open(written)?,
            None => Model::compile(&estimated.listing)?,
        };
        fields.perplexity("perplexity_held_out", score_lines(&model, path)?);
    }
    Ok(fields)
}

fn open_counts(options: &EstimateOptions, memory: &Memory) -> Result<Counts> {
    match options.counts.as_slice() {
        [] => {
            let input = Input::open(&options.text)?;
            let mut counter = Counter::new(options.order.unwrap_or(4), input.vocabulary.clone(), memory)?;
            input.for_each(|tokens, ending| counter.add(tokens, ending))?;
            counter.finish().map_err(|e| e.within(input.place()))
        }
        [folder] if folder.is_dir() => Counts::read_parquet(folder, Input::vocabulary(&options.text)?.1, memory),
        files => Counts::open(files),
    }
}

fn prune(path: &Path, threshold: f64, held_out: Option<&Path>, out: &Path, memory: &MemoryOption) -> Result<Fields> {
    let memory = memory.beside(out)?;
    let model = open_model(path, &memory)?;
    let pruned = model.prune(threshold, &memory)?;
    write_model(&pruned, out)?;
    let mut fields = Fields::new();
    fields.sizes("ngrams_before", model.sizes());
    fields.sizes("ngrams", &pruned.sizes());
    if let Some(held_out) = held_out {
        fields.perplexity("perplexity_before", score_lines(&model, held_out)?);
        fields.perplexity("perplexity_after", score_lines(&Model::compile(&pruned)?, held_out)?);
    }
    Ok(fields)
}

fn convert(from: &Path, to: &Path, quantise: bool, memory: &MemoryOption) -> Result<Fields> {
    let memory = memory.beside(to)?;
    let mut fields = Fields::new();
    if quantise {
        if is_arpa(to) {
            bail!(
                "--quantise makes a model file smaller; {} is to be ARPA text. Leave one of the two out.",
                to.display()
            );
        }
        let cost = open_model(from, &memory)?.write_quantised(to)?;
        for (name, what, rms, largest) in [
            ("probabilities", "log10 probabilities", cost.probs_rms, cost.probs_largest),
            ("backoffs", "log10 back-off weights", cost.backoffs_rms, cost.backoffs_largest),
        ] {
            let line = format!("{what}: root mean square error {rms:.6}, largest {largest:.6}");
            fields.push(name, json!({"rms_error": rms, "largest_error": largest}), line);
        }
    } else if is_arpa(from) {
        write_model(&arpa::read(from, Vocabulary::default(), &memory)?, to)?;
    } else {
        write_model(&open_model(from, &memory)?.listing(&memory)?, to)?;
    }
    Ok(fields)
}

fn is_arpa(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.ends_with(".arpa") || name.ends_with(".arpa.gz")
}

fn open_model(path: &Path, memory: &Memory) -> Result<Model> {
    if is_arpa(path) {
        Model::compile(&arpa::read(path, Vocabulary::default(), memory)?)
    } else {
        let model = Model::open(path)?;
        model.verify().map_err(|e| e.within(path.display()))?;
        Ok(model)
    }
}

fn write_model(listing: &Listing, path: &Path) -> Result<()> {
    if is_arpa(path) { arpa::save(listing, path) } else { Model::write(listing, path) }
}

fn score(common: &Common, arpa: Option<&Path>, model: Option<&Path>, ids: &Path) -> Result<()> {
    let model = match (arpa, model) {
        (Some(path), _) => Model::compile(&arpa::read(path, Vocabulary::default(), &Memory::usual())?)?,
        (None, Some(path)) => open_model(path, &Memory::usual())?,
        (None, None) => unreachable!("clap requires one"),
    };
    let (mut sum, mut log10) = (Score::default(), Vec::new());
    for_each_line_of_ids(ids, |tokens| {
        let score = model.score(tokens, Ending::Complete);
        log10.push(score.log10);
        sum += score;
        Ok(())
    })?;
    if sum.tokens == 0 {
        bail!("{}: no document to score.", ids.display());
    }
    match common.format {
        Format::Json => print_json(&json!({
            "log10": log10, "perplexity": sum.perplexity(), "perplexity_without_oov": sum.perplexity_without_oov(),
            "tokens": sum.tokens, "oov": sum.tokens - sum.known_tokens,
        })),
        Format::Table => print(&format!(
            "{} documents, {} tokens with ends, {} OOV: log10 {:.4}, perplexity {:.4}, without OOV {:.4}\n",
            log10.len(),
            sum.tokens,
            sum.tokens - sum.known_tokens,
            sum.log10,
            sum.perplexity(),
            sum.perplexity_without_oov()
        )),
    }
}

/// Returns the score of all lines of a file together.
fn score_lines(model: &Model, ids: &Path) -> Result<Score> {
    let mut sum = Score::default();
    for_each_line_of_ids(ids, |tokens| {
        sum += model.score(tokens, Ending::Complete);
        Ok(())
    })?;
    Ok(sum)
}
