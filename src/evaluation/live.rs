//! The live check: the same documents decoded for real, block by block, against the replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{ReplayText, Step};
use crate::backbone::{Backbone, generate};
use crate::decoding::{Decoder, Decoding};
use crate::drafting::Drafter;
use crate::error::Result;
use crate::heads::FrozenHeads;

/// The bound under which a decision is a floating-point near-tie in float32.
pub const NEAR_TIE: f64 = 1e-3;

/// What a live decode of some documents gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LiveOutcome {
    /// Documents that differ from the replay without a near-tie.
    pub mismatches: usize,
    /// Those of them whose text differs as well, not only the cuts between blocks.
    pub text_mismatches: usize,
    /// Documents whose first difference is a near-tie.
    pub near_ties: usize,
    /// The near-ties by kind.
    pub by_kind: BTreeMap<String, u64>,
    /// Tokens decoded.
    pub tokens: usize,
    /// Seconds from the first prompt to the last token, of all documents together.
    pub seconds: f64,
}

/// The live check of a data set.
pub struct LiveCheck {
    /// Documents decoded, each with every variant.
    pub documents: usize,
    /// Documents decoded side by side.
    pub batch: usize,
    /// What came of every variant, in their order.
    pub outcomes: Vec<Arc<LiveOutcome>>,
    /// Decoded tokens per second of the same documents one token a call.
    pub autoregressive_speed: f64,
}

impl LiveCheck {
    /// Documents that differ from replay without a near-tie, summed over variants.
    pub fn mismatches(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.mismatches as u64).sum()
    }

    /// Documents whose first difference is a near-tie, summed over variants.
    pub fn near_ties(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.near_ties as u64).sum()
    }

    /// [`LiveCheck::near_ties`] by the decision that was nearly tied.
    pub fn near_ties_by_kind(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (kind, count) in self.outcomes.iter().flat_map(|outcome| &outcome.by_kind) {
            *sums.entry(kind.as_str()).or_default() += count;
        }
        sums
    }
}

/// Decodes `texts` live with a drafter, `batch` of them side by side, and compares text and accepted lengths with `replayed`,
/// block by block. After a near-tie, a document goes on from the trace's token; after a mismatch it goes on by itself.
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
        for (document, block) in decoder.step()?.blocks {
            // After a mismatch the rest is decoded without help: is it at least the same text?
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

/// Tokens per second of plain greedy decoding, `batch` documents side by side and then the next ones.
pub fn autoregressive_speed(backbone: &Backbone, texts: &[&ReplayText], batch: usize) -> f64 {
    let started = Instant::now();
    let mut tokens = 0;
    for texts in texts.chunks(batch) {
        let prompts: Vec<&[u32]> = texts.iter().map(|text| &text.tokens[..text.prompt]).collect();
        // A limit below the greatest is the context's end, which ends a text in any case.
        let limit = texts.iter().map(|text| text.limit).max().unwrap_or(0);
        tokens += generate(backbone, &prompts, limit).iter().map(Vec::len).sum::<usize>();
    }
    tokens as f64 / started.elapsed().as_secs_f64()
}
