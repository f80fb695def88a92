//! The analysis of how long things took, which is the only part that differs between two evaluations of the same
//! inputs.

use super::{Analysis, by_variant};
use crate::error::Result;
use crate::evaluation::{EvaluatedSet, LiveSpeed};
use crate::tables::{Cell, Format, Record, Section, Table, format, record};

pub const ANALYSIS: Analysis = Analysis { id: "timing", title: "Timing", definition: TimingRow::DEFINITION, fill };

record! {
    /// Seconds and speeds on one machine with all its threads, the only numbers that differ between two evaluations of the same
    /// inputs.
    pub struct TimingRow in "timing", each "variant" {
        /// True where replay runs a language model, whose forwards are then part of replay_seconds; every other variant is
        /// replayed from stored lattices by table look-ups and a small network at most.
        neural: bool = "neural" as Words;
        /// Wall-clock seconds in which the variant walked all documents of the evaluated split once, from lattices in memory and
        /// at its final settings, on all threads; candidates_seconds, lattices_seconds and the search on dev are not in it.
        replay_seconds: f64 = "replay (s)" as ThreeDigits;
        /// decoded_tokens divided by replay_seconds.
        replay_tokens_per_s: f64 = "replay, tokens/s" as Scaled;
        /// Decoded tokens of the documents decoded live, all together, divided by the wall-clock seconds from the first prompt to
        /// the last token, prefill and drafting included; null where nothing was decoded live.
        tokens_per_s: Option<f64> = "live, tokens/s" as Scaled;
        /// Tokens of the prompts of the documents decoded live, divided by the wall-clock seconds of prefill: the forwards over
        /// prompts, until the state of the last token of each; where a forward also verifies drafts of other documents, its time
        /// is divided by its tokens of either kind.
        prefill_tokens_per_s: Option<f64> = "live prefill, tokens/s" as Scaled;
        /// Decoded tokens of the documents decoded live divided by the wall-clock seconds of decode: everything after prefill,
        /// drafting included.
        decode_tokens_per_s: Option<f64> = "live decode, tokens/s" as Scaled;
        /// tokens_per_s divided by autoregressive_tokens_per_s.
        live_over_autoregressive: Option<f64> = "live / autoregressive" as Times;
        /// decode_tokens_per_s divided by autoregressive_decode_tokens_per_s.
        decode_over_autoregressive: Option<f64> = "live / autoregressive, decode" as Times;
        /// replay_tokens_per_s divided by tokens_per_s of the same variant on the same machine: how many times faster replay is
        /// than decoding.
        replay_over_live: Option<f64> = "replay / live" as Times;
    }
}

record! {
    /// Seconds and speeds that are not about one variant.
    pub struct TimingTotalsRow in "timing-totals", each "data set" {
        /// Wall-clock seconds in which the heads' candidates were computed from the stored hidden states at every position of the
        /// evaluated split, whenever that was; replay reads them from disk.
        candidates_seconds: Option<f64> = "candidates (s)" as ThreeDigits;
        /// Wall-clock seconds in which the stored candidates were read and the lattices of every position built, once for all
        /// variants.
        lattices_seconds: f64 = "lattices (s)" as ThreeDigits;
        /// Decoded tokens of the live check over all its variants together, divided by its wall-clock seconds; null without one.
        tokens_per_s: Option<f64> = "live, tokens/s" as OneDecimal;
        /// Tokens of the prompts of the live check over all its variants together, divided by its seconds of prefill.
        prefill_tokens_per_s: Option<f64> = "live prefill, tokens/s" as OneDecimal;
        /// Decoded tokens of the live check over all its variants together, divided by its seconds of decode.
        decode_tokens_per_s: Option<f64> = "live decode, tokens/s" as OneDecimal;
        /// Decoded tokens divided by wall-clock seconds, prefill included, when the same documents are decoded one token a call
        /// on the same device, batch of them at a time.
        autoregressive_tokens_per_s: Option<f64> = "autoregressive, tokens/s" as OneDecimal;
        /// Tokens of the prompts divided by the seconds of prefill when the documents are decoded one token a call; the pass over a
        /// prompt chooses the first token as well.
        autoregressive_prefill_tokens_per_s: Option<f64> = "autoregressive prefill, tokens/s" as OneDecimal;
        /// Decoded tokens divided by the seconds of decode, which is everything after prefill, when the documents are decoded one
        /// token a call.
        autoregressive_decode_tokens_per_s: Option<f64> = "autoregressive decode, tokens/s" as OneDecimal;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let (live, tokens) = (set.live.as_ref(), set.texts.tokens() as f64);
    let together = live.map(|live| live.outcomes.iter().map(|outcome| &outcome.speed).sum::<LiveSpeed>());
    let alone = live.map(|live| *live.autoregressive);
    let totals = TimingTotalsRow {
        candidates_seconds: set.test.candidates.seconds(),
        lattices_seconds: set.texts.seconds,
        tokens_per_s: together.map(|speed| speed.tokens_per_s()),
        prefill_tokens_per_s: together.map(|speed| speed.prefill_tokens_per_s()),
        decode_tokens_per_s: together.map(|speed| speed.decode_tokens_per_s()),
        autoregressive_tokens_per_s: alone.map(|speed| speed.tokens_per_s()),
        autoregressive_prefill_tokens_per_s: alone.map(|speed| speed.prefill_tokens_per_s()),
        autoregressive_decode_tokens_per_s: alone.map(|speed| speed.decode_tokens_per_s()),
    };
    section.notes.push(sentence(&totals));
    if let Some(live) = live {
        let names = set.variants.iter().map(|variant| variant.name());
        let speeds = names.zip(live.outcomes.iter().map(|outcome| outcome.speed.tokens_per_s()));
        let alone = live.autoregressive.tokens_per_s();
        section.claims.extend(slower(&set.name, live.documents, &speeds.collect::<Vec<_>>(), set.best(), alone));
    }
    section.tables.push(by_variant(set, |place| {
        let variant = &set.variants[place];
        let replay_tokens_per_s = tokens / variant.result.seconds;
        let speed = live.map(|live| live.outcomes[place].speed);
        let over = |of: fn(&LiveSpeed) -> f64| speed.zip(alone).map(|(live, alone)| of(&live) / of(&alone));
        Ok(TimingRow {
            neural: variant.runs_language_model(),
            replay_seconds: variant.result.seconds,
            replay_tokens_per_s,
            tokens_per_s: speed.map(|speed| speed.tokens_per_s()),
            prefill_tokens_per_s: speed.map(|speed| speed.prefill_tokens_per_s()),
            decode_tokens_per_s: speed.map(|speed| speed.decode_tokens_per_s()),
            live_over_autoregressive: over(LiveSpeed::tokens_per_s),
            decode_over_autoregressive: over(LiveSpeed::decode_tokens_per_s),
            replay_over_live: speed.map(|speed| replay_tokens_per_s / speed.tokens_per_s()),
        })
    })?);
    section.tables.push(Table::of([(set.name.clone(), totals)]).detail());
    Ok(())
}

/// Says how many variants decode slower live than the backbone alone, and how fast the one at `best` is, by names and
/// tokens/s. Returns none if all are as fast as `alone`, which is autoregressive decoding.
fn slower(set: &str, documents: usize, speeds: &[(String, f64)], best: usize, alone: f64) -> Option<String> {
    let count = speeds.iter().filter(|(_, speed)| *speed < alone).count();
    let (name, speed) = &speeds[best];
    (count > 0).then(|| {
        format!(
            "Live on this machine, {count} of {} {} slower than the backbone alone, token by token: on {set}, {name} makes {} \
             tokens/s, the backbone {} ({}, {}).",
            format::counted(speeds.len() as u64, "variant", "variants"),
            if count == 1 { "is" } else { "are" },
            format::three_digits(*speed),
            format::three_digits(alone),
            Format::Times.text(&Cell::Number(speed / alone)),
            format::counted(documents as u64, "document", "documents"),
        )
    })
}

fn sentence(totals: &TimingTotalsRow) -> String {
    let seconds = |x| format!("{} s", format::three_digits(x));
    let computed =
        totals.candidates_seconds.map(|x| format!("The heads' candidates took {} to compute and the ", seconds(x)));
    let mut text = format!(
        "{}lattices {} to build, once for all variants; replay begins there, on all threads.",
        computed.unwrap_or_else(|| "The ".into()),
        seconds(totals.lattices_seconds)
    );
    if let (Some(together), Some(alone)) = (totals.tokens_per_s, totals.autoregressive_tokens_per_s) {
        text += &format!(
            " Live, all variants together decode {} tokens/s, autoregressive decoding {}.",
            format::fixed(together, 1),
            format::fixed(alone, 1)
        );
    }
    if let (Some(together), Some(alone)) = (totals.decode_tokens_per_s, totals.autoregressive_decode_tokens_per_s) {
        text += &format!(
            " Without the seconds of prompts that is {} and {} tokens/s.",
            format::fixed(together, 1),
            format::fixed(alone, 1)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slower_than_the_backbone_alone_is_said() {
        let speeds = [("bpd".to_owned(), 41.0), ("neural".to_owned(), 22.0)];
        assert_eq!(
            slower("tales", 4, &speeds, 1, 30.5).unwrap(),
            "Live on this machine, 1 of 2 variants is slower than the backbone alone, token by token: on tales, neural makes 22.0 \
             tokens/s, the backbone 30.5 (0.721×, 4 documents)."
        );
        assert!(slower("tales", 4, &speeds, 0, 30.5).unwrap().contains("bpd makes 41.0 tokens/s"));
        assert_eq!(slower("tales", 4, &speeds, 0, 22.0), None);
    }

    #[test]
    fn what_is_about_no_variant_is_said_in_words() {
        let mut totals = TimingTotalsRow {
            candidates_seconds: Some(61.25),
            lattices_seconds: 0.75,
            tokens_per_s: Some(41.25),
            prefill_tokens_per_s: Some(420.0),
            decode_tokens_per_s: Some(50.25),
            autoregressive_tokens_per_s: Some(30.5),
            autoregressive_prefill_tokens_per_s: Some(430.0),
            autoregressive_decode_tokens_per_s: Some(35.5),
        };
        let text = sentence(&totals);
        assert!(
            text.starts_with("The heads' candidates took 61.2 s to compute and the lattices 0.750 s to build"),
            "{text}"
        );
        let live = "all variants together decode 41.2 tokens/s, autoregressive decoding 30.5. Without the seconds of prompts that is 50.2 and 35.5 tokens/s.";
        assert!(text.ends_with(live), "{text}");
        (totals.candidates_seconds, totals.tokens_per_s, totals.decode_tokens_per_s) = (None, None, None);
        let text = sentence(&totals);
        assert!(text.starts_with("The lattices 0.750 s") && text.ends_with("on all threads."), "{text}");
    }
}
