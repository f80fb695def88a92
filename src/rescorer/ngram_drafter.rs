//! Global rescoring with an n-gram model (arXiv 2404.09221), and that model in a run.

use std::path::{Path, PathBuf};

use super::ngram::{Listing, Model, State, Vocabulary};
use super::{Drafter, Drafts, Session};
use crate::backbone::Backbone;
use crate::error::Result;
use crate::lattice::{Lattice, PathScorer, p_best};

impl PathScorer for Model {
    type State = State;

    fn extend(&self, state: State, token: u32) -> (f64, State) {
        Model::extend(self, state, token)
    }

    fn extend_all(&self, state: State, tokens: &[u32], out: &mut Vec<(f64, State)>) {
        Model::extend_all(self, state, tokens, out);
    }
}

/// An n-gram rescorer with its scale and number of paths.
#[derive(Clone, Copy)]
pub struct NgramDrafter<'a> {
    /// Counted over tokens of the backbone's tokenizer.
    pub model: &'a Model,
    /// a, 0 to 1.
    pub scale: f64,
    /// p
    pub paths: usize,
}

impl Drafter for NgramDrafter<'_> {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(*self)
    }
}

impl Session for NgramDrafter<'_> {
    fn drafts(&mut self, text: &[u32], starts: &[usize], lattices: &[&Lattice]) -> Result<Vec<Drafts>> {
        let one = |(&start, lattice): (&usize, &&Lattice)| {
            let state = self.model.state_of(&text[..start], true);
            p_best(lattice, self.model, state, self.scale, self.paths).into()
        };
        Ok(starts.iter().zip(lattices).map(one).collect())
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
pub fn load_ngram(folder: &Path, backbone: &Backbone) -> Result<Model> {
    let path = file(folder);
    let model = Model::open(&path)?;
    model.verify().and_then(|()| model.require(&ngram_vocabulary(backbone))).map_err(|e| e.within(path.display()))?;
    Ok(model)
}
