//! The claims, in words: the one place where numbers turn into prose, and so the one place that can overstate them.

use super::format;
use super::model::{BASELINE, Dataset, Live, Report, Variant};
use super::timing::Timing;

/// What the page opens with: a claim for every data set, and what all of them together say.
pub fn claims(report: &Report) -> Vec<String> {
    report.datasets.iter().map(summary).chain(across(report)).collect()
}

/// Whether heads that stay unsure for longer are the better ones, over the data sets.
pub fn across(report: &Report) -> Option<String> {
    let line = report.efficiency_by_h_max.as_ref()?;
    Some(format!(
        "Over {} data sets, {BASELINE}'s block efficiency changes by {} tokens per call with each head up to which entropy \
         rises (h_max; r = {}).",
        format::count(line.sets),
        format::fixed(line.slope, 3),
        format::fixed(line.r, 2)
    ))
}

/// What the best variant gains on this data set, with everything that speaks against it.
///
/// It names how many variants were compared (the best of many looks better than it is), says when the interval includes
/// zero, when the text is not the backbone's own, and when the live check failed.
pub fn summary(set: &Dataset) -> String {
    let place = format!("On {} ({}, {})", set.name, set.split, format::counted(set.documents, "document", "documents"));
    let Some(best) = set.best() else {
        return format!("{place}, no variant was evaluated.");
    };
    let rate = format!("{place}, {} decodes {} tokens per backbone call", best.name, efficiency(best));
    let claim = match set.baseline() {
        Some(base) if best.name == base.name => format!("{rate}{}.{}", own_interval(best), no_gain(set)),
        Some(base) => format!("{rate}, {}.{}", gain(best, base), compared(set)),
        None => format!("{rate}{}; plain {BASELINE} was not evaluated, so no gain is stated.", own_interval(best)),
    };
    claim + &doubts(set, best)
}

/// How much of the text loops.
pub fn looping(set: &Dataset) -> String {
    let looping = &set.looping;
    let share = format!(
        "{} of {} ({}) loop",
        format::count(looping.documents),
        format::counted(set.documents, "document", "documents"),
        format::percent(looping.share)
    );
    match looping.bpd_block_efficiency_without {
        _ if looping.documents == 0 => "No document loops.".to_owned(),
        Some(x) => format!("{share}; without them {BASELINE} has a block efficiency of {}.", format::efficiency(x)),
        None => format!("{share}, so nothing is left to measure without them."),
    }
}

/// What the live check found.
pub fn live(live: &Live) -> String {
    let kinds: Vec<_> =
        live.near_ties_by_kind.iter().map(|(kind, n)| format!("{kind} {}", format::count(*n))).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let together = if live.batch > 1 { format!(", {} side by side,", live.batch) } else { String::new() };
    format!(
        "{} decoded live{together} with {}: {}, {}{kinds}.",
        format::counted(live.documents, "document", "documents"),
        format::counted(live.variants.len() as u64, "variant", "variants"),
        format::counted(live.mismatches, "mismatch", "mismatches"),
        format::counted(live.near_ties, "near-tie", "near-ties"),
    )
}

/// What is not about one variant, and what the variants' numbers are.
pub fn timing(timing: &Timing) -> String {
    let seconds = |x| format!("{} s", format::three_digits(x));
    let mut sentences = Vec::new();
    if let Some(lattices) = timing.lattices_seconds {
        let computed =
            timing.candidates_seconds.map(|x| format!("The heads' candidates took {} to compute and the ", seconds(x)));
        sentences.push(format!(
            "{}lattices {} to build, once for all variants; replay begins there, on all threads.",
            computed.unwrap_or_else(|| "The ".into()),
            seconds(lattices)
        ));
    }
    if let (Some(together), Some(alone)) = (timing.tokens_per_s, timing.autoregressive_tokens_per_s) {
        sentences.push(format!(
            "Live, all variants together decode {} tokens/s, autoregressive decoding {}.",
            format::fixed(together, 1),
            format::fixed(alone, 1)
        ));
    }
    sentences.join(" ")
}

fn efficiency(variant: &Variant) -> String {
    format::efficiency(variant.block_efficiency)
}

fn own_interval(variant: &Variant) -> String {
    format!(" (95 % interval {})", format::interval(variant.ci95))
}

fn gain(best: &Variant, base: &Variant) -> String {
    let [low, high] = best.relative_gain_ci95;
    let zero = if low <= 0.0 && 0.0 <= high { "; the interval includes zero, so this is no clear gain" } else { "" };
    format!(
        "{} more than the {} of plain {BASELINE} (95 % interval {} to {}{zero})",
        format::percent(best.relative_gain),
        efficiency(base),
        format::signed_percent(low),
        format::signed_percent(high),
    )
}

fn compared(set: &Dataset) -> String {
    match set.decoders().count() {
        0..=2 => String::new(),
        n => format!(" It is the best of the {n} variants compared on this same set, which flatters it a little."),
    }
}

fn no_gain(set: &Dataset) -> String {
    match set.decoders().filter(|v| v.lossless && v.name != BASELINE).count() {
        0 => String::new(),
        1 => " The other lossless variant decodes no more.".to_owned(),
        n => format!(" None of the {n} other lossless variants decodes more."),
    }
}

fn doubts(set: &Dataset, best: &Variant) -> String {
    let mut text = String::new();
    if !best.lossless {
        text += " It is lossy: its text can differ from the backbone's own.";
    }
    for v in set.variants.iter().filter(|v| !v.lossless && v.block_efficiency > best.block_efficiency) {
        text += &format!(
            " The lossy {} decodes {}, of a text that can differ from the backbone's own.",
            v.name,
            efficiency(v)
        );
    }
    if let Some(live) = set.live.as_ref().filter(|live| live.mismatches > 0) {
        text += &format!(
            " The live check found {}, so these numbers are not confirmed.",
            format::counted(live.mismatches, "mismatch", "mismatches")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn states_the_gain_and_its_interval() {
        let set = &fixture::report().datasets[0];
        assert_eq!(
            summary(set),
            "On tales (test, 200 documents), 16-best 3-gram decodes 2.073 tokens per backbone call, 35.9 % more than the \
             1.525 of plain bpd (95 % interval +33.1 % to +38.9 %). It is the best of the 3 variants compared on this same set, \
             which flatters it a little."
        );
        assert_eq!(looping(set), "12 of 200 documents (6.0 %) loop; without them bpd has a block efficiency of 1.462.");
    }

    #[test]
    fn the_line_over_data_sets_is_said_where_there_is_one() {
        let mut report = fixture::report();
        let text = "Over 5 data sets, bpd's block efficiency changes by 0.210 tokens per call with each head up to which \
                    entropy rises (h_max; r = 0.93).";
        assert_eq!(claims(&report)[1], text);
        report.efficiency_by_h_max = None;
        assert_eq!(claims(&report), [summary(&report.datasets[0])]);
    }

    #[test]
    fn says_when_the_gain_is_not_clear() {
        let mut set = fixture::report().datasets.remove(0);
        set.variants[2].relative_gain_ci95 = [-0.01, 0.5];
        assert!(summary(&set).contains("includes zero, so this is no clear gain"));
    }

    #[test]
    fn a_tie_with_the_baseline_is_no_gain() {
        let mut set = fixture::report().datasets.remove(0);
        set.variants.reverse();
        set.variants.iter_mut().for_each(|v| v.block_efficiency = 1.525);
        let text = summary(&set);
        assert!(text.contains("bpd decodes 1.525") && text.contains("None of the 2 other lossless variants"), "{text}");
    }

    #[test]
    fn a_lossy_variant_is_never_called_best_beside_a_lossless_one() {
        let mut set = fixture::report().datasets.remove(0);
        set.variants[2].lossless = false;
        let text = summary(&set);
        assert!(
            text.contains("2-gram decodes 1.739") && text.contains("The lossy 16-best 3-gram decodes 2.073"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_live_check_is_said_at_the_top() {
        let mut set = fixture::report().datasets.remove(0);
        set.live.as_mut().unwrap().mismatches = 1;
        assert!(summary(&set).ends_with("found 1 mismatch, so these numbers are not confirmed."));
    }

    #[test]
    fn works_without_baseline_and_without_variants() {
        let mut set = fixture::report().datasets.remove(0);
        set.variants.remove(0);
        assert!(summary(&set).contains("plain bpd was not evaluated"));
        set.variants.clear();
        assert!(summary(&set).ends_with("no variant was evaluated."));
    }
}
