//! The live check: the same documents decoded for real, block by block, against the replay.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{ReplayText, Step};
use crate::backbone::{Backbone, generate};
use crate::decoding::{Decoder, Decoding};
use crate::error::Result;
use crate::heads::FrozenHeads;
use crate::rescorer::Drafter;

/// The bound under which a decision is a floating-point near-tie in float32.
pub const NEAR_TIE: f64 = 1e-3;

/// What a live decode of some documents gave.
#[derive(Debug, Clone, Default)]
pub struct LiveOutcome {
    /// Documents that differ from the replay without a near-tie.
    pub mismatches: usize,
    /// Those of them whose text differs as well, not only the cuts between blocks.
    pub text_mismatches: usize,
    /// Documents whose first difference is a near-tie.
    pub near_ties: usize,
    /// The near-ties by kind.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Tokens decoded.
    pub tokens: usize,
    /// Seconds spent decoding.
    pub seconds: f64,
}

/// Decodes `texts` live with a drafter and compares text and accepted lengths with `replayed`, block by block. After a
/// near-tie, decoding goes on from the trace's token; after a mismatch it goes on by itself.
pub fn check_live(
    backbone: &Backbone,
    heads: &FrozenHeads,
    drafter: &dyn Drafter,
    options: Decoding,
    texts: &[&ReplayText],
    replayed: &[Vec<Step>],
) -> Result<LiveOutcome> {
    let mut outcome = LiveOutcome::default();
    for (text, steps) in texts.iter().zip(replayed) {
        let started = Instant::now();
        let prompt = &text.tokens[..text.prompt];
        let mut decoder = Decoder::new(backbone, heads, drafter, options, prompt, text.limit)?;
        let (mut tie, mut mismatch) = (None, false);
        for step in steps {
            let expected = &text.continuation()[step.start..][..step.accepted];
            let block = decoder.step()?;
            if block.tokens == expected {
                continue;
            }
            let closest = block.closest.or(step.closest);
            if closest.margin >= NEAR_TIE {
                mismatch = true;
                break;
            }
            tie.get_or_insert(closest.decision.name());
            decoder.replace(step.start, expected);
        }
        // After a mismatch the rest is decoded without help: is it at least the same text?
        while !decoder.finished() {
            decoder.step()?;
        }
        outcome.tokens += decoder.decoded().len();
        outcome.seconds += started.elapsed().as_secs_f64();
        let same_text = decoder.decoded() == text.continuation();
        if mismatch || !same_text {
            outcome.mismatches += 1;
            outcome.text_mismatches += usize::from(!same_text);
        } else if let Some(kind) = tie {
            outcome.near_ties += 1;
            *outcome.by_kind.entry(kind).or_default() += 1;
        }
    }
    Ok(outcome)
}

/// Tokens per second of plain greedy decoding, one document at a time.
pub fn autoregressive_speed(backbone: &Backbone, texts: &[&ReplayText]) -> Result<f64> {
    let started = Instant::now();
    let mut tokens = 0;
    for text in texts {
        tokens += generate(backbone, &[&text.tokens[..text.prompt]], text.limit)[0].len();
    }
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}
