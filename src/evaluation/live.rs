//! The live check, which decodes documents for real, block by block, and compares the result with the replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{ReplayText, Step, stop_if_interrupted};
use crate::backbone::{Backbone, generate};
use crate::decoding::{Decoder, Decoding};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::heads::FrozenHeads;

/// The margin in float32 below which a decision counts as a floating-point near-tie.
pub const NEAR_TIE: f64 = 1e-3;

/// The results of decoding some documents live.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LiveOutcome {
    /// The number of documents that differ from the replay without a near-tie.
    pub mismatches: usize,
    /// The number of these whose text differs as well, not only the boundaries between blocks.
    pub text_mismatches: usize,
    /// The number of documents whose first difference is a near-tie.
    pub near_ties: usize,
    /// The near-ties by the kind of decision.
    pub by_kind: BTreeMap<String, u64>,
    /// The number of decoded tokens.
    pub tokens: usize,
    /// The seconds from the first prompt to the last token, for all documents together.
    pub seconds: f64,
}

/// The live check of a data set.
pub struct LiveCheck {
    /// The number of documents that were decoded, each with every variant.
    pub documents: usize,
    /// The number of documents that are decoded together.
    pub batch: usize,
    /// The results of each variant, in the order of the variants.
    pub outcomes: Vec<Arc<LiveOutcome>>,
    /// The decoded tokens per second for the same documents when each call decodes one token.
    pub autoregressive_speed: f64,
}

impl LiveCheck {
    /// Returns the number of documents that differ from the replay without a near-tie, summed over the variants.
    pub fn mismatches(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.mismatches as u64).sum()
    }

    /// Returns the number of documents whose first difference is a near-tie, summed over the variants.
    pub fn near_ties(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.near_ties as u64).sum()
    }

    /// Returns the [`LiveCheck::near_ties`] by the kind of decision that was nearly tied.
    pub fn near_ties_by_kind(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (kind, count) in self.outcomes.iter().flat_map(|outcome| &outcome.by_kind) {
            *sums.entry(kind.as_str()).or_default() += count;
        }
        sums
    }
}

/// Decodes `texts` live with a drafter, `batch` of them together. Compares tokens and accepted lengths with `replayed`,
/// block by block. After a near-tie, the document continues with the token of the trace; after a mismatch, it continues
/// with its own.
pub fn check_live(
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    options: Decoding,
    batch: usize,
    texts: &[&ReplayText],
    replayed: &[Vec<Step>],
) -> Result<LiveOutcome> {
    let started = Instant::now();
    let documents: Vec<(&[u32], usize)> = texts.iter().map(|text| (&text.tokens[..text.prompt], text.limit)).collect();
    let mut decoder = Decoder::new(backbone, heads, drafter, options, &documents, batch)?;
    let mut steps: Vec<_> = replayed.iter().map(|steps| steps.iter()).collect();
    let (mut ties, mut mismatches) = (vec![None; texts.len()], vec![false; texts.len()]);
    while !decoder.finished() {
        stop_if_interrupted()?;
        for (document, block) in decoder.step()?.blocks {
            // After a mismatch, the rest of the document is decoded without comparing blocks. Only its text is compared
            // at the end.
            let Some(step) = steps[document].next().filter(|_| !mismatches[document]) else { continue };
            let expected = &texts[document].continuation()[step.start..][..step.accepted];
            if block.tokens == expected {
                continue;
            }
            let tightest = block.tightest.or(step.tightest);
            if tightest.margin >= NEAR_TIE {
                mismatches[document] = true;
                continue;
            }
            ties[document].get_or_insert(tightest.decision.name());
            decoder.replace(document, step.start, expected);
        }
    }
    let mut outcome = LiveOutcome { seconds: started.elapsed().as_secs_f64(), ..LiveOutcome::default() };
    for (document, (text, (tie, mismatch))) in texts.iter().zip(ties.into_iter().zip(mismatches)).enumerate() {
        let decoded = decoder.decoded(document);
        outcome.tokens += decoded.len();
        let same_text = decoded == text.continuation();
        if mismatch || !same_text {
            outcome.mismatches += 1;
            outcome.text_mismatches += usize::from(!same_text);
        } else if let Some(kind) = tie {
            outcome.near_ties += 1;
            *outcome.by_kind.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(outcome)
}

/// Returns the tokens per second of plain greedy decoding, with `batch` documents together at a time.
///
/// # Errors
/// Returns an error after an interrupt.
pub fn autoregressive_speed(backbone: &Backbone, texts: &[&ReplayText], batch: usize) -> Result<f64> {
    let started = Instant::now();
    let mut tokens = 0;
    for texts in texts.chunks(batch) {
        let prompts: Vec<&[u32]> = texts.iter().map(|text| &text.tokens[..text.prompt]).collect();
        // A text whose limit is below the largest one ends at the end of the context in any case.
        let limit = texts.iter().map(|text| text.limit).max().unwrap_or(0);
        tokens += generate(backbone, &prompts, limit)?.iter().map(Vec::len).sum::<usize>();
    }
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}
