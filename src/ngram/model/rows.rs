//! The same few tokens after many states, as a search of a lattice asks for the candidates of a slot.
//!
//! A *row* is what a context gives for every candidate: its log-probability, and the state after it. It is the row of
//! the context's suffix with the back-off weight added, except for the candidates that are among the context's own
//! arcs. So a row costs one look at those arcs, however many candidates back off and however far, and contexts that
//! differ only in their first tokens share the rows of their suffixes.

use std::f64::consts::LN_10;

use super::super::words::{BOS, EOS, UNK};
use super::{Model, ROOT, State};
use crate::hash::FastMap;

/// Nodes with up to this many arcs have all of them read; in larger ones, each candidate is searched for.
const MOST_READ: usize = 64;

/// The number of rows that memory is reserved for: that of the empty context, and as many of one token as a slot often
/// has candidates.
const ROWS: usize = 28;

/// A log10 probability and the state after the token.
type Cell = (f64, State);

/// A model's answers for the same tokens after many states.
pub struct Rows<'a> {
    model: &'a Model,
    candidates: Candidates,
    /// Rows of nodes below this number are kept: those of contexts that may be another's suffix, and those of one
    /// token, to which a search comes back.
    kept: u32,
    /// For each node, where its row begins in `cells`.
    row_of: FastMap<u32, usize>,
    cells: Vec<Cell>,
    /// A buffer for a row that is not kept.
    passing: Vec<Cell>,
}

impl<'a> Rows<'a> {
    /// Prepares the candidates `tokens`.
    pub fn new(model: &'a Model, tokens: &[u32]) -> Self {
        let sizes = model.sizes();
        let shorter: u64 = sizes[..sizes.len().saturating_sub(2).max(1)].iter().sum();
        let (candidates, cells) = Candidates::new(model, tokens);
        let mut row_of = FastMap::with_capacity_and_hasher(ROWS, Default::default());
        row_of.insert(ROOT, 0);
        Self { model, candidates, kept: 1 + shorter as u32, row_of, cells, passing: Vec::new() }
    }

    /// Appends to `out` what [`Model::extend`] returns for `state` and each of the first `number` tokens.
    pub fn extend<S: From<State>>(&mut self, state: State, number: usize, out: &mut Vec<(f64, S)>) {
        let natural = |&(log10, next): &Cell| (log10 * LN_10, next.into());
        if state.0 < self.kept {
            let row = self.keep(state.0);
            out.extend(self.cells[row..row + number].iter().map(natural));
        } else {
            let mut row = std::mem::take(&mut self.passing);
            row.clear();
            self.append(state.0, number, &mut row);
            out.extend(row.iter().map(natural));
            self.passing = row;
        }
    }

    /// Appends the first `number` cells of a node's row to `out`.
    fn append(&mut self, node: u32, number: usize, out: &mut Vec<Cell>) {
        if node < self.kept {
            let row = self.keep(node);
            out.extend_from_slice(&self.cells[row..row + number]);
        } else {
            let base = out.len();
            self.append(self.model.columns.suffix(node), number, out);
            self.candidates.put_arcs(self.model, node, &mut out[base..]);
        }
    }

    /// Returns where a node's row begins in `cells`, after computing it if need be.
    fn keep(&mut self, node: u32) -> usize {
        if let Some(&row) = self.row_of.get(&node) {
            return row;
        }
        let suffix = self.keep(self.model.columns.suffix(node));
        let row = self.cells.len();
        self.cells.extend_from_within(suffix..suffix + self.candidates.words.len());
        self.candidates.put_arcs(self.model, node, &mut self.cells[row..]);
        self.row_of.insert(node, row);
        row
    }
}

/// The tokens that are asked for.
struct Candidates {
    /// The word of each candidate; [`UNK`] for those that the model does not know.
    words: Vec<u32>,
    /// A hash table of indices in `words`: each is at the position that the low bits of its word give, or at the next
    /// that was free. [`FREE`] elsewhere.
    places: Vec<u32>,
    /// The candidates with the same word as an earlier one, and that one.
    twins: Vec<(usize, usize)>,
    /// The candidates after which a document begins.
    ends: Vec<usize>,
}

const FREE: u32 = u32::MAX;

impl Candidates {
    /// Returns the candidates, and the row of the empty context.
    fn new(model: &Model, tokens: &[u32]) -> (Self, Vec<Cell>) {
        // An eighth full, so that most words of a node are ruled out at once.
        let places = vec![FREE; (8 * tokens.len()).next_power_of_two()];
        let words = Vec::with_capacity(tokens.len());
        let mut this = Self { words, places, twins: Vec::new(), ends: Vec::new() };
        let mut row = Vec::with_capacity(ROWS * tokens.len());
        for (place, &token) in tokens.iter().enumerate() {
            let word = model.header.vocabulary.word(token);
            // Nothing predicts a beginning-of-text id; a word that is not a unigram is in no n-gram.
            let known = (word != BOS).then(|| model.find(ROOT, word)).flatten();
            let arc = known.or_else(|| model.find(ROOT, UNK)).expect("every model has <unk>");
            let (prob, mut next) = model.follow_arc(arc);
            if word == BOS || word == EOS {
                this.ends.push(place);
                next = model.begin;
            }
            // Adding 0 gives zeros the sign that they have in a query of one token.
            row.push((0.0 + prob, next));
            this.add(if known.is_some() { word } else { UNK });
        }
        (this, row)
    }

    /// Adds the next candidate.
    fn add(&mut self, word: u32) {
        let place = self.words.len();
        match self.find(word) {
            Ok(first) => self.twins.push((place, first)),
            Err(free) => self.places[free] = place as u32,
        }
        self.words.push(word);
    }

    /// Returns the first candidate with `word`, or the position in `places` where it would be.
    #[inline]
    fn find(&self, word: u32) -> Result<usize, usize> {
        let mask = self.places.len() - 1;
        let mut at = word as usize & mask;
        loop {
            match self.places[at] {
                FREE => return Err(at),
                place if self.words[place as usize] == word => return Ok(place as usize),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Turns the first cells of the row of a node's suffix into those of the node.
    fn put_arcs(&self, model: &Model, node: u32, row: &mut [Cell]) {
        let columns = &model.columns;
        // A sum of a few `f32` is exact in `f64` unless one is below 1e-8, so the order of the terms does not matter.
        let backoff = f64::from(columns.backoffs().get(node as usize));
        row.iter_mut().for_each(|(log10, _)| *log10 += backoff);
        let mut put = |place: usize, arc: u32| {
            if let Some(cell) = row.get_mut(place) {
                *cell = model.follow_arc(arc);
                cell.0 += 0.0;
            }
        };
        let arcs = columns.arcs(node);
        if arcs.len() <= MOST_READ {
            columns.words().each(arcs, |arc, word| {
                if let Ok(first) = self.find(word) {
                    put(first, arc);
                    let twins = self.twins.iter().filter(|&&(_, same)| same == first);
                    twins.for_each(|&(place, _)| put(place, arc));
                }
            });
        } else {
            let words = &self.words;
            columns.words().find_all(arcs, words, put);
        }
        for &place in &self.ends {
            if let Some(cell) = row.get_mut(place) {
                cell.1 = model.begin;
            }
        }
    }
}
