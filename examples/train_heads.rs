//! Trains prediction heads on a model's own text and says, by replay, what they buy.
//!
//!     cargo run --release --example train_heads

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use draftsmith::Result;
use draftsmith::backbone::{Backbone, Feature, Precision};
use draftsmith::device::{self, DeviceChoice};
use draftsmith::drafting::Bpd;
use draftsmith::evaluation::{ReplayText, Tally, replay};
use draftsmith::heads::{Binding, FitHeads, HeadsConfig, StoredCandidates, TrainingText, load_heads};
use draftsmith::storage_type::StorageType;
use draftsmith::text::{DataConfig, Document, read_corpus};
use draftsmith::traces::{self, ColumnPlans, Trace, TracePlan};
use draftsmith::training::{OptimizationConfig, TrainingContext};

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (root, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir()?);
    let device = device::open(DeviceChoice::Cpu)?.device;
    let backbone = Arc::new(Backbone::load(&root.join("checkpoints/tales"), Precision::AS_STORED, &device)?);
    let data = DataConfig { separator: "\n".into(), ..DataConfig::default() };
    let stories = read_corpus(&root.join("data/tales.jsonl"), &data)?;

    // What the model writes after each prompt. Its states are computed when they are read; a run keeps them in columns.
    let trace = |name: &str, documents: &[Document]| -> Result<Trace> {
        let read = |number: usize| Ok(documents[number].clone());
        let plan = TracePlan::greedy(name, documents.len(), &read, 64);
        let place = folder.path().join(name);
        traces::make(&backbone, &plan, &place, ColumnPlans::NONE, &traces::free_space, |_| Ok(()))?;
        let trace = Trace::open(&place, &backbone.identity())?;
        Ok(trace.recomputing(backbone.clone(), &[Feature::Last], StorageType::Float32))
    };
    let (train_trace, dev_trace) = (trace("train", &stories[..96])?, trace("dev", &stories[96..128])?);

    let training =
        OptimizationConfig { steps: 40, learning_rate: 3e-3, warmup_steps: 5, ..OptimizationConfig::default() };
    let options = HeadsConfig { block_size: 5, positions_per_step: 512, training, ..HeadsConfig::default() };
    let place = &folder.path().join("heads");
    let [train, dev] = [&train_trace, &dev_trace].map(|trace| [TrainingText { corpus: "tales", trace }]);
    options.architecture.kind().fit(&FitHeads {
        backbone: &backbone,
        elsewhere: &[],
        options: &options,
        from: None,
        train: &train,
        dev: &dev,
        seed: 1,
        place: TrainingContext { folder: place, key: "example", title: "heads", keep_checkpoints: false },
    })?;

    // Block efficiency of plain blockwise decoding on the dev text: no forward of the model is needed for it.
    let (heads, place) = (load_heads(place, &backbone, Binding::Same)?, folder.path().join("candidates"));
    StoredCandidates::make(&dev_trace, (&heads, &backbone.model), (1, None), &place, "candidates")?;
    let (candidates, mut tally) = (StoredCandidates::open(&place, &dev_trace)?, Tally::default());
    for document in 0..dev_trace.documents().len() {
        let text = ReplayText::new(&dev_trace, document, &candidates, (&heads, &backbone), 1)?;
        tally.add(&replay(&text, &text.lattices, &Bpd)?);
    }
    println!("{:.3} tokens a call", tally.block_efficiency());
    Ok(())
}
