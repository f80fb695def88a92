//! The block efficiency of every variant: the main table, and the claims that a page opens with.
//!
//! The claims are the only place where numbers become "best" and "gain", so they are the only place that could
//! overstate them. What is best is chosen on dev, and its numbers are from test.

use super::{Analysis, TOKENS_PER_CALL, same_starts};
use crate::drafting::Source;
use crate::error::Result;
use crate::evaluation::{Coordinate, EvaluatedSet, EvaluatedVariant, Tally, oracle_lengths_with, replay_oracle};
use crate::tables::{
    BASELINE, Bar, BarRow, Bars, Figure, LengthAxis, ORACLE, Record, Reference, Section, Table, format, record,
};

pub const ANALYSIS: Analysis =
    Analysis { id: "block-efficiency", title: "Block efficiency", definition: VariantRow::DEFINITION, fill };

record! {
    /// Every variant by its decoded tokens per backbone call on the evaluated split, with the settings that dev chose for it, and
    /// the oracle, a bound that knows the answer: at each step it takes, from the lattice of every head's top_k candidates,
    /// the path with the longest accepted prefix.
    pub struct VariantRow in "block-efficiency", each "variant" {
        /// Decoded tokens divided by backbone calls, both summed over the whole set (a ratio of sums); autoregressive
        /// decoding has 1, and block_size is the most.
        block_efficiency: f64 = "block efficiency" as ThreeDecimals, compact;
        /// The 2.5 % and 97.5 % quantiles of block_efficiency under a bootstrap that resamples whole groups of documents.
        ci95: [f64; 2] = "95 % interval" as ThreeDecimals, compact;
        /// block_efficiency divided by that of plain bpd on the same documents, minus 1: 0.14 is 14 % more; null for plain bpd.
        relative_gain: Option<f64> = "gain" as SignedPercent, compact;
        /// The 2.5 % and 97.5 % quantiles of relative_gain under the bootstrap of ci95, variant and bpd resampled together.
        relative_gain_ci95: Option<[f64; 2]> = "gain, 95 % interval" as SignedPercent;
        /// block_efficiency over the documents that do not loop: those in whose text no n-gram of at most 16 tokens repeats
        /// three times or more in a row; null where all do.
        block_efficiency_without_loops: Option<f64> = "without loops" as ThreeDecimals, compact;
        /// The unweighted mean over documents of each document's decoded tokens divided by its backbone calls.
        block_efficiency_document_mean: f64 = "doc mean" as ThreeDecimals;
        /// The mean number of draft nodes in a verification forward; a prefix that several drafts share in a tree counts
        /// once.
        verified_tokens_per_call: f64 = "verified / call" as OneDecimal, compact;
        /// The largest number of draft nodes in one verification forward.
        verified_tokens_per_call_max: u64 = "at most" as Count;
        /// p: the drafts verified in one backbone call.
        drafts: u64 = "drafts" as Count;
        /// a: the weight of the rescorer, whose score a path receives as (1-a) times the head score plus a times the
        /// rescorer's; chosen on dev only, null without a rescorer.
        lm_scale: Option<f64> = "lm_scale" as TwoDecimals, compact;
        /// (block_efficiency - that of plain bpd) / (oracle - that of plain bpd), with the oracle of this top_k; for variants that
        /// copy from the text, with an oracle that may take their copy as well, or its beginning. Null where the oracle gains
        /// nothing, and for variants that draft what no lattice of first choices holds: drafts that grow, and tokens that a
        /// language model proposes.
        headroom_closed: Option<f64> = "headroom" as Percent;
        /// block_efficiency of the same variant on dev with the settings that test uses; null for the oracle.
        dev_block_efficiency: Option<f64> = "dev" as ThreeDecimals;
        /// Of all pairs of neighbouring tokens in the variant's first drafts at the starts that its walk and that of plain bpd
        /// both visit, the share whose two tokens are equal; null for the oracle.
        repetition: Option<f64> = "repeats" as Percent, compact;
        /// Of the slots behind the pinned one in the blocks drafted, the share that were left more than one candidate by
        /// top_k and the tuned gate; null where no heads are read.
        choice_share: Option<f64> = "open slots" as Percent;
        /// Verification forwards of the backbone over the whole set, one for each block; the forward over a prompt is
        /// counted apart, in prefill_calls.
        backbone_calls: u64 = "calls" as Count;
        /// Forwards over prompts, one for each document; not part of block_efficiency.
        prefill_calls: u64 = "prefills" as Count;
        /// True when the variant emits the backbone's own greedy text (or samples its own distribution), whatever the draft
        /// says.
        lossless: bool = "lossless" as Words;
    }
}

fn fill(set: &EvaluatedSet, section: &mut Section) -> Result<()> {
    let mut rows = Vec::new();
    for (place, variant) in set.variants.iter().enumerate() {
        rows.push((variant.name(), of_variant(set, place, variant)?));
    }
    rows.push((ORACLE.to_owned(), row(set, &set.oracle, 1, Some(set.oracle.block_efficiency()))?));
    let best = set.best();
    let place =
        format!("On {} (test, {})", set.name, format::counted(set.texts.texts.len() as u64, "document", "documents"));
    let mismatches = set.live.as_ref().map_or(0, |live| live.mismatches());
    section.claims.push(claim(&place, &rows[..set.variants.len()], best, mismatches));
    section.figures.push(bars(set, &rows));
    let lossy: Vec<bool> = rows.iter().map(|(_, row)| !row.lossless).collect();
    section
        .tables
        .push(Table::of(rows).marked("lossy", |place| lossy[place]).best((set.variants.len() > 1).then_some(best)));
    section.brief = true;
    Ok(())
}

fn of_variant(set: &EvaluatedSet, place: usize, variant: &EvaluatedVariant) -> Result<VariantRow> {
    let EvaluatedVariant { prepared, result, tally, axes, .. } = variant;
    let scale = if result.switched_off { 0.0 } else { result.settings.weighting.scale };
    let is_plain = place == 0;
    let row = row(set, tally, prepared.drafts() as u64, ceiling(set, variant)?)?;
    Ok(VariantRow {
        relative_gain: row.relative_gain.filter(|_| !is_plain),
        relative_gain_ci95: row.relative_gain_ci95.filter(|_| !is_plain),
        lm_scale: axes.iter().any(|axis| axis.coordinate == Coordinate::Scale).then_some(scale),
        dev_block_efficiency: Some(result.dev_block_efficiency),
        repetition: Some(same_starts::measure(set, place)?.repetition()),
        choice_share: prepared.variant.reads_heads().then(|| choice_share(set, variant)),
        lossless: set.is_lossless(place),
        ..row
    })
}

/// Returns the block efficiency of the oracle that may take whatever the variant may draft: candidates of the lattice, and the
/// variant's copies. None where the variant drafts what neither holds.
fn ceiling(set: &EvaluatedSet, variant: &EvaluatedVariant) -> Result<Option<f64>> {
    let EvaluatedVariant { prepared, result, .. } = variant;
    let from_text = prepared.variant.source == Source::Text;
    if prepared.grows() || !(from_text || prepared.variant.reads_heads()) {
        return Ok(None);
    }
    if !(from_text || prepared.variant.lookup) {
        return Ok(Some(set.oracle.block_efficiency()));
    }
    let drafter = prepared.drafter(&result.settings);
    let mut walks = Vec::new();
    for text in &set.texts.texts {
        let copies: Vec<Vec<u32>> = if from_text {
            let starts = 0..text.lattices.len();
            let blocks: Vec<_> = starts.map(|start| text.block_context(start, &text.lattices[start])).collect();
            let drafts = drafter.session().drafts(&text.tokens, &blocks)?;
            drafts.into_iter().flat_map(|drafts| drafts.paths).collect()
        } else {
            let copy = |start: usize| {
                let (before, slots) = (&text.tokens[..text.prompt + start], text.lattices[start].slots());
                let copied = result.settings.confidence.copied(before, text.continuation()[start], slots);
                copied.into_iter().map(|copied| copied.token).collect()
            };
            (0..text.lattices.len()).map(copy).collect()
        };
        walks.push(replay_oracle(text, &oracle_lengths_with(text, set.evaluator.top_k, |start| copies[start].clone())));
    }
    Ok(Some(Tally::of(&walks).block_efficiency()))
}

/// Computes what follows from the walks alone, and from what an oracle reaches.
fn row(set: &EvaluatedSet, tally: &Tally, drafts: u64, most: Option<f64>) -> Result<VariantRow> {
    let base = &set.plain().tally;
    let bands = set.intervals(&base.documents, &tally.documents)?;
    let (efficiency, plain) = (tally.block_efficiency(), base.block_efficiency());
    let (mean_nodes, most_nodes) = tally.verified();
    Ok(VariantRow {
        block_efficiency: efficiency,
        ci95: bands.ratio,
        relative_gain: Some(efficiency / plain - 1.0),
        relative_gain_ci95: Some(bands.gain),
        block_efficiency_without_loops: set.without_loops(&tally.documents),
        block_efficiency_document_mean: tally.document_mean(),
        verified_tokens_per_call: mean_nodes,
        verified_tokens_per_call_max: most_nodes as u64,
        drafts,
        lm_scale: None,
        headroom_closed: most.filter(|most| *most > plain).map(|most| (efficiency - plain) / (most - plain)),
        dev_block_efficiency: None,
        repetition: None,
        choice_share: None,
        backbone_calls: tally.total().calls,
        prefill_calls: tally.documents.len() as u64,
        // Greedy exact match emits the backbone's own text, whatever the drafts are.
        lossless: true,
    })
}

/// Returns the share of slots at which the variant could choose between several candidates. It covers the visited
/// blocks without their pinned slots.
fn choice_share(set: &EvaluatedSet, variant: &EvaluatedVariant) -> f64 {
    let settings = &variant.result.settings;
    let (mut open, mut all) = (0u64, 0u64);
    let lattices = set.texts.lattices(variant.prepared.variant.stop);
    for (lattices, steps) in lattices.iter().zip(&variant.result.steps) {
        for lattice in steps.iter().map(|step| &lattices[step.start]) {
            for scores in (1..lattice.slots()).map(|slot| lattice.scores(slot)) {
                let second = scores.get(1).filter(|_| settings.top_k > 1);
                open += u64::from(second.is_some_and(|second| f64::from(scores[0] - second) <= settings.gate));
                all += 1;
            }
        }
    }
    open as f64 / all.max(1) as f64
}

fn bars(set: &EvaluatedSet, rows: &[(String, VariantRow)]) -> Figure {
    let row = |(place, (name, row)): (usize, &(String, VariantRow))| {
        let bar = Bar { value: row.block_efficiency, interval: row.ci95, colour: set.colour(place) };
        BarRow { label: name.clone(), bars: vec![bar] }
    };
    let bars = Bars::new(LengthAxis::Efficiency(TOKENS_PER_CALL.into()), rows.iter().enumerate().map(row).collect());
    let caption = "Whiskers are 95 % bootstrap intervals over groups of documents.";
    let bars = bars.references(vec![Reference::autoregressive()]);
    Figure::new("block-efficiency", "Block efficiency by variant", caption, bars)
}

/// States what the variant at `best`, which dev chose, reaches on test: its gain over the first one, plain decoding, with
/// all caveats.
///
/// The claim says how many variants were compared on dev, and which one would have been chosen on test. It also says if
/// the interval includes zero, if the text is not the backbone's own, and if the live check failed.
fn claim(place: &str, variants: &[(String, VariantRow)], best: usize, mismatches: u64) -> String {
    let (name, row) = &variants[best];
    let chosen = match (variants.len(), row.dev_block_efficiency) {
        (2.., Some(dev)) => {
            format!(", the best of {} variants on dev ({} there),", variants.len(), format::efficiency(dev))
        }
        _ => String::new(),
    };
    let rate = format!(
        "{place}, {name}{chosen} decodes {} tokens per backbone call",
        format::efficiency(row.block_efficiency)
    );
    let claim = if best == 0 {
        format!("{rate} (95 % interval {}).", format::interval(row.ci95))
    } else {
        format!("{rate}, {}.", gain(row, &variants[0].1))
    };
    claim + &hindsight(variants, best) + &doubts(variants, best, mismatches)
}

/// Names the variant that test would have chosen, if that is another one.
fn hindsight(variants: &[(String, VariantRow)], best: usize) -> String {
    let lossless = variants.iter().filter(|(_, row)| row.lossless);
    let most = lossless.max_by(|(_, a), (_, b)| a.block_efficiency.total_cmp(&b.block_efficiency));
    match most.filter(|(_, row)| row.block_efficiency > variants[best].1.block_efficiency) {
        None => String::new(),
        Some((name, row)) => format!(
            " On test itself {name} decodes the most, {}; a choice made there would flatter it.",
            format::efficiency(row.block_efficiency)
        ),
    }
}

fn gain(best: &VariantRow, base: &VariantRow) -> String {
    let [low, high] = best.relative_gain_ci95.unwrap_or_default();
    let zero = if low <= 0.0 && 0.0 <= high { "; the interval includes zero, so this is no clear gain" } else { "" };
    format!(
        "{} more than the {} of plain {BASELINE} (95 % interval {} to {}{zero})",
        format::percent(best.relative_gain.unwrap_or_default()),
        format::efficiency(base.block_efficiency),
        format::signed_percent(low),
        format::signed_percent(high),
    )
}

fn doubts(variants: &[(String, VariantRow)], best: usize, mismatches: u64) -> String {
    let (mut text, (_, best)) = (String::new(), &variants[best]);
    if !best.lossless {
        text += " It is lossy: its text can differ from the backbone's own.";
    }
    for (name, row) in variants {
        if !row.lossless && row.block_efficiency > best.block_efficiency {
            text += &format!(
                " The lossy {name} decodes {}, of a text that can differ from the backbone's own.",
                format::efficiency(row.block_efficiency)
            );
        }
    }
    if mismatches > 0 {
        text += &format!(
            " The live check found {}, so these numbers are not confirmed.",
            format::counted(mismatches, "mismatch", "mismatches")
        );
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Three variants, of which the last is the best on dev and on test.
    pub fn variants() -> Vec<(String, VariantRow)> {
        let row = |efficiency: f64, gain: Option<[f64; 3]>| VariantRow {
            block_efficiency: efficiency,
            ci95: [efficiency - 0.05, efficiency + 0.05],
            relative_gain: gain.map(|[gain, ..]| gain),
            relative_gain_ci95: gain.map(|[_, low, high]| [low, high]),
            block_efficiency_without_loops: None,
            block_efficiency_document_mean: efficiency,
            verified_tokens_per_call: 9.0,
            verified_tokens_per_call_max: 9,
            drafts: 1,
            lm_scale: None,
            headroom_closed: None,
            dev_block_efficiency: Some(efficiency + 0.1),
            repetition: None,
            choice_share: None,
            backbone_calls: 1,
            prefill_calls: 1,
            lossless: true,
        };
        [
            ("bpd", row(1.525, None)),
            ("ngram", row(1.739, Some([0.1403, 0.1202, 0.1609]))),
            ("pbest-ngram", row(2.073, Some([0.3593, 0.3308, 0.3891]))),
        ]
        .map(|(name, row)| (name.to_owned(), row))
        .to_vec()
    }

    const PLACE: &str = "On tales (test, 200 documents)";

    #[test]
    fn states_the_gain_of_what_dev_chose_and_its_interval() {
        assert_eq!(
            claim(PLACE, &variants(), 2, 0),
            "On tales (test, 200 documents), pbest-ngram, the best of 3 variants on dev (2.173 there), decodes 2.073 tokens per \
             backbone call, 35.9 % more than the 1.525 of plain bpd (95 % interval +33.1 % to +38.9 %)."
        );
        assert!(claim(PLACE, &variants()[..1], 0, 0).contains("bpd decodes 1.525"));
    }

    #[test]
    fn names_what_test_would_have_chosen() {
        let text = claim(PLACE, &variants(), 1, 0);
        assert!(text.contains("ngram, the best of 3 variants on dev (1.839 there), decodes 1.739"), "{text}");
        let hindsight = " On test itself pbest-ngram decodes the most, 2.073; a choice made there would flatter it.";
        assert!(text.ends_with(hindsight), "{text}");
    }

    #[test]
    fn says_when_the_gain_is_not_clear() {
        let mut variants = variants();
        variants[2].1.relative_gain_ci95 = Some([-0.01, 0.5]);
        assert!(claim(PLACE, &variants, 2, 0).contains("includes zero, so this is no clear gain"));
    }

    #[test]
    fn plain_decoding_gains_nothing() {
        let text = claim(PLACE, &variants()[..1], 0, 0);
        assert!(text.ends_with("bpd decodes 1.525 tokens per backbone call (95 % interval [1.475, 1.575])."), "{text}");
    }

    #[test]
    fn lossy_text_and_a_failed_live_check_are_said() {
        let mut variants = variants();
        variants[2].1.lossless = false;
        let text = claim(PLACE, &variants, 1, 0);
        assert!(text.contains("The lossy pbest-ngram decodes 2.073") && !text.contains("On test itself"), "{text}");
        assert!(claim(PLACE, &variants, 2, 0).contains("It is lossy"));
        assert!(claim(PLACE, &variants, 1, 1).ends_with("found 1 mismatch, so these numbers are not confirmed."));
    }
}
