//! The analysis of sampling: what drafts that are drawn from the heads are worth where the text is a sample of the backbone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Analysis;
use crate::decoding::{Decoder, Decoding, Verification};
use crate::drafting::{DRAFT_DICE, DrawnDrafter, StopRule};
use crate::error::Result;
use crate::evaluation::bootstrap::{self, Counts};
use crate::evaluation::{Draws, EvaluatedSet, LiveSpeed, block_efficiency, stop_if_interrupted};
use crate::tables::{Record, Section, Table, record};

pub const ANALYSIS: Analysis =
    Analysis { id: "sampling", title: "Sampling", definition: SamplingRow::DEFINITION, fill };

record! {
    /// The first test documents decoded live as samples of the backbone's distribution, each of which a lossless rule leaves as it
    /// is. Drafts are drawn from the heads' distributions, the first row's one by one.
    pub struct SamplingRow in "sampling", each "rule and numbers of draws" {
        /// Decoded tokens divided by backbone calls, both summed over these documents. Sampled texts differ from greedy ones, so
        /// it is not to be compared with the other tables.
        block_efficiency: f64 = "block efficiency" as ThreeDecimals, compact;
        /// The 2.5 % and 97.5 % quantiles of block_efficiency under a bootstrap that resamples whole groups of documents.
        ci95: [f64; 2] = "95 % interval" as ThreeDecimals, compact;
        /// block_efficiency divided by that of the first row, minus 1; null in the first row.
        relative_gain: Option<f64> = "gain" as SignedPercent, compact;
        /// The 2.5 % and 97.5 % quantiles of relative_gain under the bootstrap of ci95, both rows resampled together.
        relative_gain_ci95: Option<[f64; 2]> = "gain, 95 % interval" as SignedPercent, compact;
        /// The mean number of draft nodes in a verification forward.
        verified_tokens_per_call: f64 = "verified / call" as OneDecimal, compact;
        /// Decoded tokens per second from the first prompt to the last token, one document after the other.
        tokens_per_s: f64 = "tokens/s" as OneDecimal;
        /// Tokens of prompts per second of prefill: the forwards over prompts, until the state of the last token of each.
        prefill_tokens_per_s: f64 = "prefill, tokens/s" as OneDecimal;
        /// Decoded tokens per second of decode: everything after prefill, drafting included.
        decode_tokens_per_s: f64 = "decode, tokens/s" as OneDecimal;
        /// The documents decoded.
        documents: u64 = "documents" as Count;
    }
}

/// What decoding the documents gave.
#[derive(Serialize, Deserialize)]
struct Sampled {
    documents: Vec<Counts>,
    nodes: u64,
    speed: LiveSpeed,
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let options = &set.evaluator.options.sampling;
    let documents = options.documents.min(set.texts.texts.len());
    if documents == 0 {
        return Ok(());
    }
    let groups = &set.texts.groups()[..documents];
    let mut found = Vec::new();
    for draws in [Draws::single()].iter().chain(options.draws.iter().filter(|draws| **draws != Draws::single())) {
        stop_if_interrupted()?;
        let findings = set.evaluator.findings;
        let key = findings.key("sampled", &(&set.variants[0].key, documents, draws, options.temperature.to_bits()));
        found.push((draws.to_string(), findings.find(&key, || sample(set, draws, documents))?));
    }
    let single = &found[0].1.documents;
    let rows = found.iter().enumerate().map(|(place, (name, sampled))| {
        let (resamples, seed) = (set.evaluator.options.bootstrap, set.evaluator.seed);
        let bands = bootstrap::intervals(groups, single, &sampled.documents, resamples, seed)?;
        let efficiency = block_efficiency(&sampled.documents);
        let calls = sampled.documents.iter().map(|counts| counts.calls).sum::<u64>();
        let row = SamplingRow {
            block_efficiency: efficiency,
            ci95: bands.ratio,
            relative_gain: (place > 0).then(|| efficiency / block_efficiency(single) - 1.0),
            relative_gain_ci95: (place > 0).then_some(bands.gain),
            verified_tokens_per_call: sampled.nodes as f64 / calls as f64,
            tokens_per_s: sampled.speed.tokens_per_s(),
            prefill_tokens_per_s: sampled.speed.prefill_tokens_per_s(),
            decode_tokens_per_s: sampled.speed.decode_tokens_per_s(),
            documents: documents as u64,
        };
        Ok((name.clone(), row))
    });
    section.tables.push(Table::of(rows.collect::<Result<Vec<_>>>()?));
    Ok(())
}

/// Decodes the first documents as samples.
fn sample(set: &EvaluatedSet, draws: &Draws, documents: usize) -> Result<Sampled> {
    let evaluator = set.evaluator;
    let (temperature, seed) = (evaluator.options.sampling.temperature, evaluator.seed);
    let drafter = DrawnDrafter {
        branching: draws.drafts.clone(),
        temperature,
        replacement: draws.rule.replacement(),
        stop: StopRule::Never,
        seed: seed ^ DRAFT_DICE,
    };
    let decoding = Decoding {
        top_k: evaluator.top_k,
        dtype: evaluator.dtype,
        stop: StopRule::Never,
        verification: Verification { rule: draws.rule.rule(), temperature, seed },
    };
    let prompts = set.texts.texts[..documents].iter().map(|text| (&text.tokens[..text.prompt], text.limit));
    let (prompts, started): (Vec<(&[u32], usize)>, _) = (prompts.collect(), Instant::now());
    let mut decoder = Decoder::new(evaluator.backbone, evaluator.heads, &drafter, decoding, &prompts, 1)?;
    let mut sampled = Sampled { documents: vec![Counts::default(); documents], nodes: 0, speed: LiveSpeed::default() };
    sampled.speed.prompt_tokens = prompts.iter().map(|(prompt, _)| prompt.len()).sum();
    let mut prefill = Duration::ZERO;
    while !decoder.finished() {
        let round = decoder.step()?;
        prefill += round.spent.prefill;
        for (document, block) in round.blocks {
            sampled.speed.tokens += block.tokens.len();
            sampled.documents[document].tokens += block.tokens.len() as u64;
            sampled.documents[document].calls += 1;
            sampled.nodes += block.nodes as u64;
        }
    }
    sampled.speed.ended(started, prefill);
    Ok(sampled)
}
