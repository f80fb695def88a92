//! Rescoring with an n-gram model (arXiv 2404.09221), and that model in a run.

use std::path::{Path, PathBuf};

use super::ngram::{Listing, Model, State, Vocabulary};
use super::{Opening, Rescorer, Scores};
use crate::backbone::Backbone;
use crate::error::Result;
use crate::lattice::PathScorer;

impl PathScorer for Model {
    type State = State;

    fn extend(&self, state: State, token: u32) -> (f64, State) {
        Model::extend(self, state, token)
    }

    fn extend_all(&self, state: State, tokens: &[u32], out: &mut Vec<(f64, State)>) {
        Model::extend_all(self, state, tokens, out);
    }
}

/// An n-gram model, counted over tokens of the backbone's tokenizer.
pub struct NgramRescorer(pub Model);

impl Rescorer for NgramRescorer {
    fn scores<'a>(&'a self, text: &[u32], block: &Opening) -> Result<Scores<'a>> {
        Ok(Scores::Ngram(&self.0, self.0.state_of(&text[..block.start], true)))
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
