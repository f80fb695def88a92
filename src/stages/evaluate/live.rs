//! The live check of a sample, and the speeds it gives.

use std::collections::BTreeMap;

use super::{Evaluation, Found, Walked};
use crate::decoding::{Decoding, Verification};
use crate::error::Result;
use crate::evaluation::{LiveOutcome, ReplayText, autoregressive_speed, check_live};
use crate::progress::{self, Progress};
use crate::report::{Dataset, Live, LiveVariant};

impl Evaluation<'_> {
    /// Decodes the first test documents with every variant and puts what came of it into `set`, which has everything else.
    pub(super) fn live(
        &self,
        texts: &[ReplayText],
        walked: &[Walked],
        set: &mut Dataset,
        bar: &mut Progress,
    ) -> Result<()> {
        let config = &self.workspace.config;
        let options = &config.evaluation;
        let sample: Vec<&ReplayText> = texts.iter().take(options.live_documents).collect();
        if sample.is_empty() {
            return Ok(());
        }
        let backbone = &self.workspace.backbone;
        let mut live = Live {
            documents: sample.len() as u64,
            batch: options.live_batch.min(sample.len()) as u64,
            mismatches: 0,
            near_ties: 0,
            near_ties_by_kind: BTreeMap::new(),
            variants: Vec::new(),
        };
        let alone = autoregressive_speed(backbone, &sample, options.live_batch);
        let timing = set.timing.get_or_insert_default();
        let mut sum = LiveOutcome::default();
        for Walked { way, found } in walked {
            let (Found { settings, steps, .. }, name) = (&**found, way.variant.to_string());
            progress::stop_if_interrupted("evaluating")?;
            bar.advance(|| format!("live {name}"));
            let drafter = way.drafter(settings);
            let decoding = Decoding {
                top_k: config.lattice.top_k,
                dtype: config.traces.dtype,
                stop: way.variant.stop,
                verification: Verification::GREEDY,
            };
            let heads = &self.heads.heads;
            let (batch, steps) = (options.live_batch, &steps[..sample.len()]);
            let outcome = check_live(backbone, heads, &*drafter, decoding, batch, &sample, steps)?;
            live.mismatches += outcome.mismatches as u64;
            live.near_ties += outcome.near_ties as u64;
            for (kind, n) in outcome.by_kind {
                *live.near_ties_by_kind.entry(kind.to_owned()).or_default() += n;
            }
            sum.tokens += outcome.tokens;
            sum.seconds += outcome.seconds;
            if outcome.text_mismatches > 0
                && let Some(variant) = set.variants.iter_mut().find(|v| v.name == name)
            {
                variant.lossless = false;
            }
            live.variants.push(LiveVariant {
                name: name.clone(),
                mismatches: outcome.mismatches as u64,
                near_ties: outcome.near_ties as u64,
            });
            timing.set_live(&name, outcome.tokens as f64 / outcome.seconds);
        }
        timing.autoregressive_tokens_per_s = Some(alone);
        timing.tokens_per_s = Some(sum.tokens as f64 / sum.seconds);
        set.live = Some(live);
        Ok(())
    }
}
