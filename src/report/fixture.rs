//! A small report for the tests of this folder.

use serde_json::json;

use super::Report;
use crate::tables::{
    Bar, BarRow, Bars, Colour, Dataset, Estimate, Facts, Family, Figure, LengthAxis, Lines, Passage, Piece, Section,
    Series, Table, XAxis, YAxis, record,
};

record! {
    /// What every variant does.
    struct Variant in "block-efficiency", each "variant" {
        /// Tokens divided by calls.
        block_efficiency: f64 = "block efficiency" as ThreeDecimals, compact;
        /// Its interval.
        ci95: [f64; 2] = "95 % interval" as ThreeDecimals, compact;
        /// Over plain decoding; null for it.
        gain: Option<f64> = "gain" as SignedPercent, compact;
        /// The drafts.
        drafts: u64 = "drafts" as Count;
        /// Whether nothing is lost.
        lossless: bool = "lossless" as Words;
    }
}

record! {
    /// By step.
    struct Step in "by-step", each "step" {
        /// Tokens divided by calls after so many steps.
        block_efficiency: Family<Estimate> = "{}" as ThreeDecimals;
    }
}

record! {
    /// A line over data sets.
    struct Line in "line", each "line" {
        /// How steep it is.
        slope: f64 = "slope" as ThreeDecimals;
    }
}

/// Returns a report with one data set, which has a section of every kind, and with one section across data sets.
pub fn report() -> Report {
    let row = |efficiency: f64, gain, drafts| Variant {
        block_efficiency: efficiency,
        ci95: [efficiency - 0.036, efficiency + 0.036],
        gain,
        drafts,
        lossless: true,
    };
    let rows = [("bpd", row(1.525, None, 1)), ("ngram", row(1.739, Some(0.1403), 16))];
    let mut efficiency = Section::new("block-efficiency", "Block efficiency", "What every variant does.");
    efficiency.brief = true;
    efficiency.claims.push("On tales, ngram decodes 14.0 % more.".into());
    let bar = |(i, (name, row)): (usize, &(&str, Variant))| BarRow {
        label: (*name).into(),
        bars: vec![Bar { value: row.block_efficiency, interval: row.ci95, colour: Colour::Cycle(i) }],
    };
    let bars = Bars::new(LengthAxis::Efficiency("tokens per call".into()), rows.iter().enumerate().map(bar).collect());
    efficiency.figures.push(Figure::new("bars", "Block efficiency by variant", "Whiskers.", bars));
    let table = Table::of(rows.map(|(name, row)| (name.to_owned(), row)));
    efficiency.tables.push(table.marked("lossy", |place| place == 1).best(Some(1)));
    let mut loops = Section::new("loops", "Loops", "What loops.");
    loops.brief = true;
    loops.notes.push("12 of 200 documents loop.".into());
    let mut steps = Section::new("by-step", "By training step", "By step.");
    steps.warnings.push("This is doubtful.".into());
    let estimate = Estimate { value: 1.25, interval: [1.0, 1.5] };
    let family = Family([("bpd".to_owned(), estimate)].into());
    steps.tables.push(Table::of([("50".to_owned(), Step { block_efficiency: family })]));
    let series = vec![Series::new("bpd", Colour::Baseline, [[50.0, 1.25]]).ringed(Some(50.0))];
    let lines = Lines::new(XAxis::Linear("step".into()), YAxis::Linear("tokens per call".into()), series);
    steps.figures.push(Figure::new("steps", "Efficiency by step", "A line.", lines));
    let mut examples = Section::new("examples", "Documents", "Documents in full.");
    let pieces = vec![Piece { kept: " Pip found".into(), struck: " it".into() }];
    let passage = Passage { before: "…and then".into(), pieces };
    examples.figures.push(Figure::new("best-1", "best: tale-7", "", passage));
    let mut across = Section::new("line", "A line", "A line over data sets.");
    across.claims.push("Over 5 data sets, it rises.".into());
    across.tables.push(Table::of([("bpd".to_owned(), Line { slope: 0.21 })]));
    let set = Dataset {
        name: "tales".into(),
        split: "test".into(),
        facts: Facts { documents: 200, decoded_tokens: 18_944, block_size: 9, top_k: 16 },
        sections: vec![efficiency, loops, steps, examples],
    };
    let provenance = json!({
        "version": "0.1.0",
        "argv": ["draftsmith", "evaluate", "runs/tales"],
        "device": "cpu",
        "backbone": {"path": "models/SmolLM2-135M-Instruct", "parameters": 134_515_008},
        "configuration": {"name": "tales", "heads": {"block_size": 9, "architecture": {"kind": "ffn"}}},
    });
    Report::new(vec![set], vec![across], provenance.as_object().unwrap().clone())
}
