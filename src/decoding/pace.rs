//! How much drafting pays on this machine, and whether it pays at all.
//!
//! Documents that are decoded side by side share their forwards. The more of them there are, the sooner a forward has no rows to
//! spare, and the fewer nodes of each are worth their time. Everything here follows from how long a forward of n rows takes.

use crate::lattice::BlockBudget;

/// The seconds that the parts of a step take on this machine. Beyond the numbers that were measured, the last one holds.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSeconds {
    /// By the number of its rows, from 1 on: a forward and what it predicts. The rows are the tokens of all documents together.
    pub forward: Vec<f64>,
    /// By the number of documents that are drafted for, from 1 on: the heads' first candidates, and the search for drafts in lattices.
    pub drafting: Vec<f64>,
    /// By the number of rows that the heads run for all documents together, from 1 on: another level of grown trees. Empty where none
    /// are grown.
    pub level: Vec<f64>,
    /// By the number of committed tokens, from 1 on: their reading by heads that attend to the text. More take proportionally longer.
    /// Empty for heads that keep nothing of it.
    pub reading: Vec<f64>,
}

/// What was drafted in a step, for all documents together.
pub(super) struct Drafted {
    /// The nodes that were verified.
    pub nodes: usize,
    /// The rows that the heads ran for each level of grown trees.
    pub levels: Vec<usize>,
    /// How many tokens were expected to be accepted.
    pub expected: f64,
    /// How many were.
    pub accepted: usize,
}

/// How decoding went so far, and what follows for the next step.
///
/// Time is counted in steps of plain decoding, each of which gives every document a token. So a step that drafts saves its tokens a
/// document less its time, and what was saved in all is known for any numbers of documents. Both are taken from [`BlockSeconds`] and
/// the committed text, not from the clock: the same seconds give the same blocks.
pub(super) struct Pace {
    seconds: BlockSeconds,
    /// The tokens of a document so far, and the time that they took. One step of plain decoding is counted in from the start.
    tokens: f64,
    time: f64,
    /// How many drafted tokens were accepted, pinned ones left out, and how many were expected to be.
    accepted: f64,
    expected: f64,
    /// How many committed tokens of all documents the heads have missed, and the time in which they would read them.
    unread: usize,
    missed: f64,
    /// The time that drafting may lose from now on.
    credit: f64,
}

/// The time that drafting may lose before it has saved any.
const TRIAL: f64 = 0.5;
/// The time that it may lose in every further step.
const LOSS: f64 = 0.004;
/// The largest credit, so that drafting ends soon where it no longer pays, whatever it saved before.
const MOST_CREDIT: f64 = 1.0;
/// How many of how many expected tokens are taken to have been accepted before there was any: other texts than those of dev are
/// rather harder to draft for.
const PRIOR: (f64, f64) = (6.0, 8.0);

impl Pace {
    pub fn new(seconds: BlockSeconds) -> Self {
        let (accepted, expected) = PRIOR;
        Self { seconds, tokens: 1.0, time: 1.0, accepted, expected, unread: 0, missed: 0.0, credit: TRIAL }
    }

    /// Returns whether the next step is to draft, and not to be one of plain decoding. It may if the time is there in which heads read
    /// what they have missed.
    pub fn drafts(&self) -> bool {
        self.credit >= self.missed
    }

    /// Returns what the drafts of the next step cost if so many documents, at least one, are drafted for, or none if the step is to be
    /// one of plain decoding.
    ///
    /// The other documents are expected to have as many nodes. With b of them, the nth node of a document then costs what b rows
    /// more cost behind b (n - 1). The rate is that of one document, and at least that of plain decoding. Where fewer
    /// tokens were accepted than expected, time is worth more of the expected ones.
    pub fn budget(&self, documents: usize) -> Option<BlockBudget> {
        let BlockSeconds { forward, drafting, level, reading } = &self.seconds;
        let beside = |curve: &[f64]| -> Vec<f64> {
            let each = if curve.is_empty() { 0 } else { (curve.len() / documents).max(1) };
            (1..=each).map(|number| at(curve, number * documents)).collect()
        };
        // Of the tokens that will be committed, the pinned ones at least are read.
        let drafting = at(drafting, documents) + of_rows(reading, self.unread + documents);
        let speed = (self.tokens / self.time).max(1.0);
        self.drafts().then(|| BlockBudget {
            nodes: beside(forward).into_iter().map(|seconds| seconds + drafting).collect(),
            level: beside(level),
            rate: speed / at(forward, documents) * self.expected / self.accepted,
        })
    }

    /// Counts in a step of so many documents: what was drafted, or none if it was one of plain decoding. A step that drafts also takes
    /// the time in which heads read the text since the last one.
    pub fn add(&mut self, documents: usize, drafted: Option<Drafted>) {
        let BlockSeconds { forward, drafting, level, reading } = &self.seconds;
        self.credit += LOSS;
        let Some(Drafted { nodes, levels, expected, accepted }) = drafted else {
            self.tokens += 1.0;
            self.time += 1.0;
            self.unread += documents;
            self.missed = of_rows(reading, self.unread) / at(forward, documents);
            return;
        };
        // The first level is part of drafting.
        let levels: f64 = levels.iter().skip(1).map(|&rows| at(level, rows)).sum();
        let read = of_rows(reading, self.unread + accepted);
        (self.unread, self.missed) = (0, 0.0);
        let seconds = at(forward, nodes) + at(drafting, documents) + levels + read;
        let (time, documents) = (seconds / at(forward, documents), documents as f64);
        self.tokens += accepted as f64 / documents;
        self.time += time;
        self.accepted += accepted as f64 - documents;
        self.expected += expected - documents;
        // Not those that were accepted, so that a few blocks of good or bad luck decide nothing.
        let tokens = 1.0 + (expected / documents - 1.0) * self.accepted / self.expected;
        self.credit = (self.credit + tokens - time).min(MOST_CREDIT);
    }
}

/// Returns the seconds of so many, at least one.
fn at(curve: &[f64], number: usize) -> f64 {
    curve.get(number - 1).or(curve.last()).copied().unwrap_or(0.0)
}

/// Returns the seconds of so many rows, where more than were measured take proportionally longer.
fn of_rows(curve: &[f64], rows: usize) -> f64 {
    if rows == 0 { 0.0 } else { at(curve, rows) * (rows as f64 / curve.len().max(1) as f64).max(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most nodes of a document.
    const NODES: usize = 32;

    /// Made-up probabilities of a block's nodes, from the most probable on: the pinned token, then ever less.
    fn probabilities() -> impl Iterator<Item = f64> {
        (0..NODES).map(|node| 0.8f64.powi(node as i32))
    }

    fn pace(documents: usize, drafting: f64, forward: impl Fn(usize) -> f64) -> Pace {
        let forward = (1..=documents * NODES).map(forward).collect();
        Pace::new(BlockSeconds { forward, drafting: vec![drafting; documents], level: Vec::new(), reading: Vec::new() })
    }

    /// Decodes so many steps, of whose expected tokens beyond the pinned ones this share is accepted. Returns the nodes of a document in
    /// each step, 0 where it was one of plain decoding, and the time, in steps of plain decoding, that all took for each token.
    fn decode(pace: &mut Pace, documents: usize, steps: usize, right: f64) -> (Vec<usize>, f64) {
        let (mut all, mut tokens, mut time) = (Vec::new(), 0.0, 0.0);
        // What was accepted is a whole number, but not in every step the same.
        let mut left = 0.0;
        for _ in 0..steps {
            let Some(budget) = pace.budget(documents) else {
                pace.add(documents, None);
                all.push(0);
                (tokens, time) = (tokens + 1.0, time + 1.0);
                continue;
            };
            let (nodes, _) = budget.of_nodes(NODES).worthwhile_nodes(probabilities());
            let expected = documents as f64 * probabilities().take(nodes).sum::<f64>();
            left += documents as f64 + (expected - documents as f64) * right;
            let accepted = left as usize;
            left -= accepted as f64;
            all.push(nodes);
            tokens += accepted as f64 / documents as f64;
            time += budget.nodes[nodes - 1] / at(&pace.seconds.forward, documents);
            pace.add(documents, Some(Drafted { nodes: nodes * documents, levels: Vec::new(), expected, accepted }));
        }
        (all, time / tokens)
    }

    #[test]
    fn where_rows_cost_nothing_trees_are_large() {
        for documents in [1, 4] {
            let (nodes, time) = decode(&mut pace(documents, 0.05, |_| 1.0), documents, 100, 1.0);
            assert_eq!(nodes, [NODES; 100]);
            assert!(time < 0.25, "{time}");
        }
    }

    #[test]
    fn where_every_row_costs_as_much_decoding_is_plain() {
        for documents in [1, 4] {
            let (nodes, time) = decode(&mut pace(documents, 0.1, |rows| rows as f64), documents, 200, 1.0);
            let drafted = nodes.iter().filter(|nodes| **nodes > 0).count();
            assert!(nodes[0] > 0 && drafted > 5, "it was tried: {drafted}");
            assert!(nodes.iter().all(|&nodes| nodes <= 1) && time < 1.01, "{drafted} of 200 drafted, {time}");
            // Now and then it is tried again.
            assert!(nodes[100..].iter().any(|&nodes| nodes > 0));
        }
    }

    /// A forward of up to eight rows costs no more than one of a single row.
    fn knee(rows: usize) -> f64 {
        (rows as f64 / 8.0).max(1.0)
    }

    #[test]
    fn side_by_side_a_document_gets_fewer_nodes() {
        let nodes = |documents| decode(&mut pace(documents, 0.0, knee), documents, 50, 1.0).0;
        let [alone, of_four] = [nodes(1), nodes(4)];
        assert!(alone.iter().all(|&nodes| nodes >= 8), "{alone:?}");
        assert!(of_four.iter().all(|&nodes| (2..8).contains(&nodes)), "{of_four:?}");
    }

    /// The documents that are left get the nodes that pay for so many.
    #[test]
    fn when_documents_end_the_others_get_more_nodes() {
        let pace = pace(4, 0.0, knee);
        let nodes = |documents| pace.budget(documents).unwrap().of_nodes(NODES).worthwhile_nodes(probabilities()).0;
        assert!(nodes(4) < nodes(2) && nodes(2) < nodes(1));
    }

    /// However wrong expectations are, little is lost, and less where texts are long.
    #[test]
    fn what_is_expected_and_not_accepted_loses_little() {
        for (documents, right) in [(1, 0.0), (1, 0.1), (4, 0.0), (4, 0.1)] {
            let curve = |rows: usize| 1.0 + 0.2 * (rows as f64 - 1.0);
            let (nodes, time) = decode(&mut pace(documents, 0.05, curve), documents, 1000, right);
            assert!(time < 1.02, "{documents}, {right}: {time}, {nodes:?}");
        }
    }

    /// A step that drafts no more than pinned tokens costs the heads alone.
    #[test]
    fn time_is_counted_in_steps_of_plain_decoding() {
        let mut pace = pace(2, 0.5, |rows| 1.0 + rows as f64);
        let levels = vec![2, 4];
        pace.seconds.level = vec![0.25; 8];
        pace.add(2, Some(Drafted { nodes: 5, levels, expected: 6.0, accepted: 3 }));
        // Six seconds of the forward, half a second of drafting and a quarter of the second level, in steps of three seconds.
        assert!((pace.time - 1.0 - 6.75 / 3.0).abs() < 1e-12 && pace.tokens == 2.5, "{}", pace.time);
        // Two more tokens a document were expected, of which 7 in 12 are accepted.
        assert_eq!((pace.accepted, pace.expected), (7.0, 12.0));
        assert!((pace.credit - (TRIAL + LOSS + 1.0 + 2.0 * 7.0 / 12.0 - 6.75 / 3.0)).abs() < 1e-12, "{}", pace.credit);
        let budget = pace.budget(2).unwrap();
        assert_eq!((budget.nodes.len(), budget.level.len()), (NODES, 4));
        assert_eq!((budget.nodes[1], budget.level[1]), (5.5, 0.25));
        assert!((budget.rate - 1.0 / 3.0 * 12.0 / 7.0).abs() < 1e-12, "{}", budget.rate);
        assert_eq!(pace.budget(8).unwrap().nodes.len(), 8);
    }

    /// What heads missed while nothing was drafted is read in the next step that drafts.
    #[test]
    fn reading_is_part_of_the_steps_that_draft() {
        let mut pace = pace(2, 0.0, |_| 1.0);
        pace.seconds.reading = vec![0.1, 0.2];
        let drafted = || Some(Drafted { nodes: 2, levels: Vec::new(), expected: 2.0, accepted: 2 });
        let took = |pace: &mut Pace, drafted| {
            let before = pace.time;
            pace.add(2, drafted);
            pace.time - before
        };
        assert!((took(&mut pace, drafted()) - 1.2).abs() < 1e-12);
        assert!((took(&mut pace, None) - 1.0).abs() < 1e-12 && pace.unread == 2);
        // Two tokens of the step before, and two of the next.
        assert!((pace.budget(2).unwrap().nodes[0] - 1.4).abs() < 1e-12);
        assert!((took(&mut pace, drafted()) - 1.4).abs() < 1e-12 && pace.unread == 0);
    }

    /// Where reading what was missed takes longer than drafting may lose, nothing is tried again.
    #[test]
    fn heads_that_missed_much_are_left_alone() {
        for (each, again) in [(0.001, true), (0.01, false)] {
            let mut pace = pace(1, 1.0, |rows| rows as f64);
            pace.seconds.reading = vec![each];
            let (nodes, time) = decode(&mut pace, 1, 1000, 0.0);
            assert!(nodes[0] > 0 && time < 1.01, "{each}: {time}");
            assert_eq!(nodes[10..].iter().any(|&nodes| nodes > 0), again, "{each}: {nodes:?}");
        }
    }
}
