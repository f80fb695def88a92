//! A rescorer of one's own: it marks down a word that repeats the one before it.
//!
//! Heads do not see each other, so their first choices often repeat: here "the old old old the sea". The rescorer scores every
//! pair of neighbouring candidates, and the search finds the best paths under head scores and rescorer together.
//!
//!     cargo run --example custom_rescorer

use draftsmith::Result;
use draftsmith::drafting::{Drafter, Rescoring, Settings, SizedSelection};
use draftsmith::lattice::{Lattice, Weighting};
use draftsmith::rescorer::{
    BlockContext, BlockScores, BlockShape, GlobalScoring, Rescorer, RescoringCost, Scoring, Table,
};

const WORDS: [&str; 5] = ["the", "old", "man", "and", "sea"];

/// Marks down repeated words.
struct NoRepeats {
    /// What a repetition costs, as a difference of logarithms.
    penalty: f64,
}

impl Rescorer for NoRepeats {
    fn scoring(&self) -> Scoring<'_> {
        // Scores depend on the word before alone, so the whole lattice can be searched.
        Scoring::Global(self)
    }

    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost::default()
    }
}

impl GlobalScoring for NoRepeats {
    fn scores<'a>(&'a self, _text: &[u32], block: &BlockContext<'a>) -> Result<Box<dyn BlockScores + 'a>> {
        let lattice = block.lattice;
        let score = |before: u32, id: u32| if before == id { -self.penalty } else { 0.0 };
        let of_slot = |slot: usize| -> Vec<f64> {
            if slot == 0 {
                return vec![0.0; lattice.width(0)];
            }
            // A row for every candidate of the slot before.
            let row = |&before: &u32| lattice.ids(slot).iter().map(move |&id| score(before, id));
            lattice.ids(slot - 1).iter().flat_map(row).collect()
        };
        Ok(Box::new(Table::new(lattice, of_slot)?))
    }
}

fn main() -> Result<()> {
    // What five heads propose behind the pinned word "the", two candidates each, best first.
    let ids = [1, 2, 1, 2, 1, 3, 0, 3, 4, 0];
    let scores = [-0.2, -1.7, -0.4, -1.1, -0.6, -0.9, -0.3, -1.4, -0.1, -2.3];
    let lattice = Lattice::pinned(0, 2, &ids, &scores)?;
    let block = BlockContext::new(0, &lattice);

    let rescorer = NoRepeats { penalty: 3.0 };
    for (name, scale) in [("head scores", 0.0), ("without repeats", 0.5)] {
        let settings =
            Settings { weighting: Weighting::from(scale), shares: vec![1.0], ..Settings::new(2, Vec::new(), 1.0) };
        let selection = SizedSelection::Paths(3);
        let rescoring = Rescoring { rescorers: vec![&rescorer], selection, include_top1: false, settings };
        let drafts = rescoring.session().drafts(&[], &[block])?.remove(0);
        println!("{name}:");
        for path in drafts.paths {
            println!("  {}", path.iter().map(|&id| WORDS[id as usize]).collect::<Vec<_>>().join(" "));
        }
    }
    Ok(())
}
