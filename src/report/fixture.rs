//! Small reports for the tests of this folder.

use serde_json::{Value, json};

use crate::evaluation::{Cost, Example, ExampleBlock, Examples, HeadQuality, Regression, reliability};

use super::model::{
    BestPaths, BySteps, Dataset, Live, LiveVariant, Looping, OraclePoint, Report, SameStarts, StepPoint, TuningPoint,
    Variant,
};
use super::timing::{Timing, VariantTiming};

/// Three variants with everything measured.
pub fn report() -> Report {
    let mut bpd = variant("bpd", 1.525, [1.489, 1.561], 1.0);
    let mut local = variant("2-gram", 1.739, [1.692, 1.787], 1.1);
    let mut global = variant("16-best 3-gram", 2.073, [2.013, 2.135], 1.3);
    (bpd.verified_tokens_per_call_max, global.drafts) = (9, 16);
    (local.relative_gain, local.relative_gain_ci95, local.lm_scale) = (0.1403, [0.1202, 0.1609], Some(0.35));
    (global.relative_gain, global.relative_gain_ci95, global.lm_scale) = (0.3593, [0.3308, 0.3891], Some(0.45));
    (global.verified_tokens_per_call, global.verified_tokens_per_call_max) = (61.37, 97);
    let mut set = Dataset {
        variants: vec![bpd, local, global],
        oracle: [(1, 1.525, 1.525), (2, 1.784, 1.79), (4, 2.066, 2.08), (16, 2.8, 2.83)].map(oracle).into(),
        tuning: [("2-gram", 0.0, 1.51), ("2-gram", 0.35, 1.72), ("16-best 3-gram", 0.45, 2.05)].map(trial).into(),
        best_paths: [(1, 1.79, 9.0), (16, 2.073, 61.37), (64, 2.2, 187.2)].map(best_paths).into(),
        examples: Some(Examples {
            variant: "16-best 3-gram".into(),
            best: vec![example("tale-7", 4.0, [" Pip found", " it"])],
            worst: vec![example("tale-3", 1.25, [" He", " was was"])],
        }),
        by_step: Some(by_step()),
        live: Some(live()),
        timing: Some(timing()),
        ..dataset("tales")
    };
    set.set_heads((1..=9).map(head).collect());
    // As if there had been others.
    let line = Regression { sets: 5, slope: 0.21, intercept: 0.4, r: 0.93 };
    Report { efficiency_by_h_max: Some(line), ..Report::new(vec![set], provenance()) }
}

/// One variant, no oracle, no tuning, no live check, no provenance.
pub fn smallest() -> Report {
    let set = Dataset { variants: vec![variant("bpd", 1.0, [1.0, 1.0], 1.0)], ..dataset("one") };
    Report::new(vec![set], Default::default())
}

fn dataset(name: &str) -> Dataset {
    Dataset {
        name: name.into(),
        split: "test".into(),
        documents: 200,
        decoded_tokens: 18_944,
        block_size: 9,
        top_k: 16,
        coverage: vec![1.0, 0.82, 0.71],
        slot_temperatures: vec![1.0, 1.12, 0.94],
        lookup_confidence: Default::default(),
        heads: Vec::new(),
        h_max: None,
        autoregressive_cost: Some(cost(1.0, 0.0)),
        variants: Vec::new(),
        oracle: Vec::new(),
        tuning: Vec::new(),
        by_step: None,
        best_paths: Vec::new(),
        examples: None,
        looping: Looping { documents: 12, share: 0.06, bpd_block_efficiency_without: Some(1.462) },
        live: None,
        timing: None,
    }
}

fn cost(accepted: f64, drafting: f64) -> Cost {
    Cost {
        parameter_bytes: 538e6 + drafting,
        parameter_bytes_per_token: (538e6 + drafting) / accepted,
        kv_bytes_per_token: [5.9e6, 23.6e6, 47.2e6, 94.4e6].map(|bytes| bytes / accepted).into(),
        backbone_flops_per_token: 2.7e8,
        head_flops_per_token: drafting,
        rescorer_flops_per_token: 0.0,
    }
}

fn example(document: &str, block_efficiency: f64, [accepted, rejected]: [&str; 2]) -> Example {
    let blocks = vec![ExampleBlock { accepted: accepted.into(), rejected: rejected.into() }; 2];
    let (document, prompt) = (document.into(), "…and then".into());
    Example { document, block_efficiency, tokens: 20, calls: (20.0 / block_efficiency) as u64, prompt, blocks }
}

/// A head that is ever less sure, up to head 7, and never sure enough.
fn head(head: u64) -> HeadQuality {
    let predicted = |i: u64| (((i * 13 + head) % 100) as f64 / 100.0, (i * 31) % 100 < 60 / head);
    let calibration = reliability((0..200).map(predicted).collect());
    let accuracy = (head > 1).then_some(0.8 / head as f64);
    HeadQuality {
        head,
        positions: 18_944 - 200 * (head - 1),
        entropy: 1.5 + 0.4 * head.min(7) as f64,
        entropy_histogram: vec![0.25, 0.5, 0.0, 0.25],
        accuracy,
        accuracy_top_k: accuracy.map(|share| share + 0.2),
        calibration: calibration.filter(|_| head > 1),
    }
}

fn variant(name: &str, block_efficiency: f64, ci95: [f64; 2], lift: f64) -> Variant {
    Variant {
        name: name.into(),
        block_efficiency,
        ci95,
        block_efficiency_document_mean: block_efficiency + 0.02,
        block_efficiency_without_loops: Some(block_efficiency - 0.05),
        backbone_calls: 12_422,
        prefill_calls: 200,
        verified_tokens_per_call: 8.75,
        verified_tokens_per_call_max: 9,
        relative_gain: 0.0,
        relative_gain_ci95: [0.0, 0.0],
        lm_scale: None,
        tuned: [("lm_scale".to_owned(), 0.35), ("decay".to_owned(), 0.9)].into(),
        dev_block_efficiency: Some(block_efficiency - 0.01),
        headroom_closed: Some(0.43),
        same_starts: Some(SameStarts {
            wins: 2_100,
            ties: 9_800,
            losses: 522,
            repairs: 1_386,
            repetition: 0.215,
            longest_run: 2.31,
        }),
        choice_share: Some(0.82),
        cost: Some(cost(block_efficiency, 2.1e8)),
        drafts: 1,
        accept_rate_by_position: (0..9).map(|j| (0.4 * lift).powi(j)).collect(),
        conditional_accept_rate_by_position: std::iter::once(1.0).chain([0.4 * lift; 8]).collect(),
        lossless: true,
    }
}

fn oracle((top_k, block_efficiency, block_efficiency_dp): (u64, f64, f64)) -> OraclePoint {
    OraclePoint { top_k, block_efficiency, block_efficiency_dp }
}

fn best_paths((paths, block_efficiency, verified_tokens_per_call): (u64, f64, f64)) -> BestPaths {
    BestPaths { variant: "16-best 3-gram".into(), paths, block_efficiency, verified_tokens_per_call }
}

fn trial((variant, value, block_efficiency): (&str, f64, f64)) -> TuningPoint {
    TuningPoint { variant: variant.into(), parameter: "lm_scale".into(), value, block_efficiency }
}

fn live() -> Live {
    Live {
        documents: 50,
        batch: 1,
        mismatches: 0,
        near_ties: 2,
        near_ties_by_kind: [("top-k".into(), 1), ("verifier".into(), 1)].into(),
        variants: ["bpd", "2-gram"].map(|name| LiveVariant { name: name.into(), mismatches: 0, near_ties: 1 }).into(),
    }
}

/// Decoded live were the first two.
fn timing() -> Timing {
    let replayed = |name, seconds| VariantTiming::replayed(name, name == "16-best 3-gram", 18_944, seconds);
    let mut timing = Timing {
        candidates_seconds: Some(61.25),
        lattices_seconds: Some(0.75),
        tokens_per_s: Some(41.25),
        autoregressive_tokens_per_s: Some(30.5),
        variants: vec![replayed("bpd", 0.5), replayed("2-gram", 2.0), replayed("16-best 3-gram", 64.0)],
    };
    timing.set_live("bpd", 44.5);
    timing.set_live("2-gram", 38.5);
    timing
}

/// Plain decoding and one other variant after three trainings.
fn by_step() -> BySteps {
    let point = |step, variant: &str, block_efficiency: f64| StepPoint {
        step,
        variant: variant.into(),
        block_efficiency,
        ci95: [block_efficiency - 0.03, block_efficiency + 0.04],
    };
    let points = [(50, 1.31, 1.402), (100, 1.48, 1.7), (150, 1.525, 1.739)];
    let of_step = |(step, plain, local)| [point(step, "bpd", plain), point(step, "2-gram", local)];
    BySteps { chosen_step: 150, points: points.into_iter().flat_map(of_step).collect() }
}

fn provenance() -> serde_json::Map<String, Value> {
    let value = json!({
        "version": "0.1.0",
        "argv": ["draftsmith", "evaluate", "runs/tales"],
        "seed": 7,
        "device": "cpu",
        "started": "2026-01-02T03:04:05Z",
        "backbone": {"path": "models/SmolLM2-135M-Instruct", "hash": "5f2c", "parameters": 134_515_008},
    });
    value.as_object().unwrap().clone()
}
