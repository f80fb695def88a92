//! The live check, which decodes documents for real, block by block, and compares the result with the replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{ReplayText, Step, stop_if_interrupted};
use crate::backbone::{Backbone, DecodingSeconds, generate_timed};
use crate::decoding::{Decoder, Decoding};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::heads::FrozenHeads;

/// The margin in float32 below which a decision counts as a floating-point near-tie.
pub const NEAR_TIE: f64 = 1e-3;

/// How fast some documents were decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveSpeed {
    /// The number of tokens of their prompts.
    pub prompt_tokens: usize,
    /// The number of decoded tokens.
    pub tokens: usize,
    /// Where the time from the first prompt to the last token went, for all documents together.
    pub seconds: DecodingSeconds,
}

impl LiveSpeed {
    /// Takes in documents that were decoded from `started` to now, of which `prefill` went into their prompts.
    pub(super) fn ended(&mut self, started: Instant, prefill: Duration) {
        let decode = started.elapsed().saturating_sub(prefill);
        self.seconds.prefill += prefill.as_secs_f64();
        self.seconds.decode += decode.as_secs_f64();
    }

    /// Returns the decoded tokens per second of prefill and decode together.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / (self.seconds.prefill + self.seconds.decode)
    }

    /// Returns the tokens of prompts per second of prefill.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        self.prompt_tokens as f64 / self.seconds.prefill
    }

    /// Returns the decoded tokens per second of decode.
    pub fn decode_tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.seconds.decode
    }
}

impl<'a> std::iter::Sum<&'a Self> for LiveSpeed {
    /// The documents of all, one after the other.
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            prompt_tokens: sum.prompt_tokens + one.prompt_tokens,
            tokens: sum.tokens + one.tokens,
            seconds: DecodingSeconds {
                prefill: sum.seconds.prefill + one.seconds.prefill,
                decode: sum.seconds.decode + one.seconds.decode,
            },
        })
    }
}

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
    /// How fast they were decoded.
    pub speed: LiveSpeed,
}

/// The live check of a data set.
pub struct LiveCheck {
    /// The number of documents that were decoded, each with every variant.
    pub documents: usize,
    /// The number of documents that are decoded together.
    pub batch: usize,
    /// The results of each variant, in the order of the variants.
    pub outcomes: Vec<Arc<LiveOutcome>>,
    /// How fast the same documents are decoded when each call decodes one token.
    pub autoregressive: Arc<LiveSpeed>,
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
    let mut prefill = Duration::ZERO;
    while !decoder.finished() {
        stop_if_interrupted()?;
        let round = decoder.step()?;
        prefill += round.spent.prefill;
        for (document, block) in round.blocks {
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
    let mut outcome = LiveOutcome::default();
    outcome.speed.ended(started, prefill);
    for (document, (text, (tie, mismatch))) in texts.iter().zip(ties.into_iter().zip(mismatches)).enumerate() {
        let decoded = decoder.decoded(document);
        outcome.speed.prompt_tokens += text.prompt;
        outcome.speed.tokens += decoded.len();
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

/// Decodes `texts` with one token a call, `batch` of them together at a time, and returns how fast that was.
///
/// # Errors
/// Returns an error after an interrupt.
pub fn autoregressive_speed(backbone: &Backbone, texts: &[&ReplayText], batch: usize) -> Result<LiveSpeed> {
    let mut speed = LiveSpeed::default();
    for texts in texts.chunks(batch) {
        let prompts: Vec<&[u32]> = texts.iter().map(|text| &text.tokens[..text.prompt]).collect();
        // A text whose limit is below the largest one ends at the end of the context in any case.
        let limit = texts.iter().map(|text| text.limit).max().unwrap_or(0);
        let (continuations, seconds) = generate_timed(backbone, &prompts, limit)?;
        speed.prompt_tokens += prompts.iter().map(|prompt| prompt.len()).sum::<usize>();
        speed.tokens += continuations.iter().map(Vec::len).sum::<usize>();
        speed.seconds.prefill += seconds.prefill;
        speed.seconds.decode += seconds.decode;
    }
    Ok(speed)
}
