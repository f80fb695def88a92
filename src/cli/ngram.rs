//! `ngram`: n-gram models on files of token ids.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde_json::json;

use super::args::{Common, Format, NgramCommand};
use super::{print, print_json};
use crate::error::{Error, Result, bail};
use crate::rescorer::ngram::{Counter, DEFAULT_FALLBACK, Ending, Model, Score, Vocabulary, arpa, estimate};

pub fn ngram(common: &Common, command: &NgramCommand) -> Result<()> {
    match command {
        NgramCommand::Estimate { token_ids, arpa, order, discount_fallback } => {
            estimate_model(common, token_ids, arpa, *order, discount_fallback.as_deref())
        }
        NgramCommand::Score { arpa, token_ids } => score(common, arpa, token_ids),
    }
}

fn estimate_model(common: &Common, ids: &Path, arpa: &Path, order: usize, fallback: Option<&[f64]>) -> Result<()> {
    let fallback = match fallback {
        None => None,
        Some([]) => Some(DEFAULT_FALLBACK),
        Some(&[d1, d2, d3]) => Some([d1, d2, d3]),
        Some(_) => bail!("--discount-fallback takes no number or three, for instance 0.5 1 1.5."),
    };
    let mut counter = Counter::new(order, Vocabulary::default())?;
    for_each_document(ids, |tokens| counter.add(tokens, Ending::Complete))?;
    let counts = counter.finish().map_err(|e| e.within(ids.display()))?;
    let estimated = estimate(&counts, fallback)?;
    arpa::save(&estimated.table, arpa)?;
    let discounts: Vec<[f64; 3]> = estimated.discounts.iter().map(|d| d.amounts).collect();
    match common.format {
        Format::Json => print_json(&json!({"ngrams": counts.sizes(), "discounts": discounts})),
        Format::Table => {
            let line = |(n, (size, d)): (usize, (usize, [f64; 3]))| {
                format!("{}-grams {size:>10}   discounts {:.6} {:.6} {:.6}\n", n + 1, d[0], d[1], d[2])
            };
            print(&counts.sizes().into_iter().zip(discounts).enumerate().map(line).collect::<String>())
        }
    }
}

fn score(common: &Common, arpa: &Path, ids: &Path) -> Result<()> {
    let model = Model::new(&arpa::read(arpa, Vocabulary::default())?)?;
    let (mut sum, mut log10) = (Score::default(), Vec::new());
    for_each_document(ids, |tokens| {
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

/// Calls `each` with the token ids of every line; a blank line is an empty document.
fn for_each_document(path: &Path, mut each: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
    let file = BufReader::new(File::open(path).map_err(|e| Error::io("read", path, e))?);
    let zipped = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let lines: Box<dyn BufRead> =
        if zipped { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) };
    let mut tokens = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(|e| Error::io("read", path, e))?;
        tokens.clear();
        for word in line.split_ascii_whitespace() {
            match word.parse() {
                Ok(id) => tokens.push(id),
                Err(_) => bail!(
                    "{}: line {}: `{word}` is no token id; lines hold decimal ids separated by blanks.",
                    path.display(),
                    number + 1
                ),
            }
        }
        each(&tokens).map_err(|e| e.within(format!("{}: line {}", path.display(), number + 1)))?;
    }
    Ok(())
}
