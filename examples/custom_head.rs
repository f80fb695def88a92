//! Heads of one's own: all of them read one narrow summary of the backbone's state.
//!
//!     cargo run --release --example custom_head

use burn::module::Module;
use draftsmith::backbone::Feature;
use draftsmith::config::{self, Overrides};
use draftsmith::device::{self, DeviceChoice};
use draftsmith::heads::{
    AnyHeadKind, Begun, BlockStarts, DraftHeads, FitHeads, HeadKind, HeadShape, Starts, Trained, Wanted,
};
use draftsmith::nn::{Init, Linear};
use draftsmith::stages::{Runs, TraceArtefacts, Workspace, trace};
use draftsmith::store::{Artefact, Key};
use draftsmith::training::TrainingContext;

/// The section: `rank` is the width of the summary.
#[derive(serde::Serialize)]
struct LowRank {
    rank: usize,
}

impl HeadKind for LowRank {
    const NAME: &'static str = "low-rank";
    type Network = LowRankHeads;

    fn network(&self, shape: HeadShape, init: &mut Init) -> LowRankHeads {
        let width = shape.width();
        let summary = init.linear(self.rank, width, (width as f32).powf(-0.5));
        LowRankHeads { summary, heads: (0..shape.count).map(|_| init.zero_linear(width, self.rank)).collect() }
    }
}

/// `y_j = h + W_j A h`: with `W_j = 0`, a head repeats the backbone's own prediction.
#[derive(Module, Debug)]
struct LowRankHeads {
    summary: Linear,
    heads: Vec<Linear>,
}

impl DraftHeads for LowRankHeads {
    fn count(&self) -> usize {
        self.heads.len()
    }

    fn begin<'a>(&'a self, starts: Starts<'a>) -> Begun<'a> {
        let hidden = starts.states.get(Feature::Last);
        let summary = self.summary.forward(hidden.clone());
        Begun::Parallel(Box::new(move |head| hidden.clone() + self.heads[head].forward(summary.clone())))
    }

    fn linears(&mut self) -> Vec<&mut Linear> {
        [&mut self.summary].into_iter().chain(&mut self.heads).collect()
    }
}

fn main() -> draftsmith::Result<()> {
    let set = "name=custom-head traces.train_documents=40 traces.dev_documents=8 traces.test_documents=1 traces.max_new=40 heads.training.steps=40";
    let set = set.split(' ').map(String::from).collect();
    let config = config::load("configs/tales-rescorers.toml".as_ref(), &Overrides { set, ..Overrides::default() })?;
    let runs = Runs { folder: "runs".into(), command: vec![] };
    let workspace = Workspace::open(config, device::open(DeviceChoice::Cpu)?, runs, None)?;
    let traces = trace(&workspace)?;
    let (backbone, options) = (workspace.backbone(), &workspace.config.heads);
    // Made once: they lie under the hash of their settings.
    let (kind, title) = (LowRank { rank: 64 }, "low-rank");
    let key = Key::new("heads", &kind, workspace.graph.traces.iter().map(TraceArtefacts::input));
    let artefact = Artefact { name: "heads".into(), title: title.into(), key };
    let folder = workspace.make(&artefact, |folder| {
        let place = TrainingContext { folder, key: artefact.key.hash(), title, keep_checkpoints: false };
        let [train, dev] = [&[traces.train[0].text()], &[traces.dev[0].text()]];
        kind.fit(&FitHeads { backbone, elsewhere: &[], options, from: None, train, dev, seed: 1, place })
    })?;
    let trained = Trained { count: options.block_size - 1, bias: None, vocabulary: None };
    // What they draft behind the prompt of a test document and the token that the backbone itself writes there.
    let heads = kind.load(&folder.join("heads.safetensors"), trained, backbone)?;
    let (trace, model) = (&traces.test[0].trace, &backbone.model);
    let (document, next) = (&trace.documents()[0], trace.continuation(&trace.documents()[0])[0]);
    let read = trace.states(0, document.prompt - 1..document.prompt, &heads.features())?.to_device(model.device());
    let starts = BlockStarts { states: &read, pinned: &[next], context: None };
    let block = [vec![next], heads.candidates(model, starts, 1, Wanted::default())?.ids].concat();
    println!("{}\n-> {}", backbone.tokenizer.decode(trace.tokens(document))?, backbone.tokenizer.decode(&block)?);
    Ok(())
}
