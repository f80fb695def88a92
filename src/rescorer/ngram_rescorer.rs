//! Rescoring with an n-gram model (arXiv 2404.09221), and that model in a run.

use std::path::{Path, PathBuf};

use super::{BlockContext, BlockShape, Rescorer, RescoringCost, Scores};
use crate::backbone::Backbone;
use crate::error::Result;
use crate::lattice::{Lattice, PathScorer, SlotScorer};
use crate::ngram::{Listing, Model, Rows, State, Vocabulary};

impl PathScorer for Model {
    type State = State;

    fn extend(&self, state: State, token: u32) -> (f64, State) {
        Model::extend(self, state, token)
    }

    fn on<'a>(&'a self, lattice: &'a Lattice) -> impl SlotScorer<State = State> {
        LatticeRows::new(self, lattice)
    }
}

/// A model at work on one lattice.
pub(super) struct LatticeRows<'a> {
    model: &'a Model,
    lattice: &'a Lattice,
    /// By slot, from when it is first asked for.
    slots: Vec<Option<Rows<'a>>>,
}

impl<'a> LatticeRows<'a> {
    pub(super) fn new(model: &'a Model, lattice: &'a Lattice) -> Self {
        Self { model, lattice, slots: (0..lattice.slots()).map(|_| None).collect() }
    }
}

impl SlotScorer for LatticeRows<'_> {
    type State = State;

    fn extend(&mut self, slot: usize, state: State, number: usize, out: &mut Vec<(f64, State)>) {
        let rows = self.slots[slot].get_or_insert_with(|| Rows::new(self.model, self.lattice.ids(slot)));
        rows.extend(state, number, out);
    }
}

/// An n-gram model, counted over tokens of the backbone's tokenizer.
pub struct NgramRescorer(pub Model);

impl Rescorer for NgramRescorer {
    fn scores<'a>(&'a self, text: &[u32], block: &BlockContext) -> Result<Scores<'a>> {
        Ok(Scores::Ngram(&self.0, self.0.state_of(&text[..block.start], true)))
    }

    /// Its scores are looked up.
    fn cost(&self, _: &BlockShape) -> RescoringCost {
        RescoringCost { held_bytes: self.0.bytes() as f64, ..RescoringCost::default() }
    }
}

/// How the backbone's ids read as words of an n-gram model.
pub fn ngram_vocabulary(backbone: &Backbone) -> Vocabulary {
    Vocabulary {
        eos: backbone.end_of_text.clone(),
        bos: backbone.tokenizer.bos(),
        size: Some(backbone.model.config().vocab_size),
        tokenizer: Some(backbone.tokenizer.hash().to_owned()),
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("model.ngram")
}

/// Writes a model into `folder`.
pub fn save_ngram(folder: &Path, listing: &Listing) -> Result<()> {
    Model::write(listing, &file(folder))
}

/// Maps the model in `folder`; fails if it is over the words of another tokenizer.
pub fn load_ngram(folder: &Path, backbone: &Backbone) -> Result<NgramRescorer> {
    let path = file(folder);
    let model = Model::open(&path)?;
    model.verify().and_then(|()| model.require(&ngram_vocabulary(backbone))).map_err(|e| e.within(path.display()))?;
    Ok(NgramRescorer(model))
}
