//! Decodes a text block by block. Whatever is drafted, it is the model's own greedy text.
//!
//!     cargo run --release --example decode                       # heads that have learnt nothing
//!     cargo run --release --example decode -- runs/quickstart    # an evaluated run's best variant

use std::path::Path;

use draftsmith::Result;
use draftsmith::backbone::{Backbone, Precision, generate};
use draftsmith::decoding::{Decoder, Decoding, Verification};
use draftsmith::device::{self, DeviceChoice};
use draftsmith::drafting::{Bpd, Drafter, StopRule};
use draftsmith::heads::{Binding, FfnConfig, FrozenHeads, HeadKind, HeadShape};
use draftsmith::nn::Init;
use draftsmith::stages::OpenedRun;
use draftsmith::storage_type::StorageType;

const PROMPT: &str = "Write a short story about a fox named Pip who finds a lamp.\n";

/// Tokens to decode, at most.
const MAX_NEW: usize = 96;

fn main() -> Result<()> {
    let device = device::open(DeviceChoice::Cpu)?.device;
    if let Some(folder) = std::env::args_os().nth(1) {
        let run = OpenedRun::open(Path::new(&folder), &device, Binding::Same)?;
        // Without names: the variant that is best on dev, with the settings of the first data set.
        let (variant, settings) = run.variant(None, None)?;
        let options = Decoding {
            top_k: run.config.lattice.top_k,
            dtype: run.config.traces.dtype,
            stop: variant.variant.stop,
            verification: Verification::GREEDY,
        };
        println!("{}", variant.variant);
        return decode(&run.backbone, &run.heads, &*variant.drafter(&settings), options);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tales");
    let backbone = Backbone::load(&model, Precision::AS_STORED, &device)?;
    // Untrained heads repeat the model's own prediction, so they are right wherever a token repeats the one before it.
    let heads = FfnConfig::default().network(HeadShape::new(8, &backbone.model), &mut Init::seeded(1, &device));
    let heads = FrozenHeads::new(heads, &backbone.model, None);
    let options =
        Decoding { top_k: 1, dtype: StorageType::Float32, stop: StopRule::Never, verification: Verification::GREEDY };
    decode(&backbone, &heads, &Bpd, options)
}

/// Decodes the prompt by blocks and compares the text with the one that is decoded token by token.
fn decode(backbone: &Backbone, heads: &FrozenHeads, drafter: &dyn Drafter, options: Decoding) -> Result<()> {
    let prompt = backbone.tokenizer.encode(PROMPT)?;
    let mut decoder = Decoder::new(backbone, heads, drafter, options, &[(&prompt[..], MAX_NEW)], 1)?;
    let mut calls = 0;
    while !decoder.finished() {
        // The first step reads the prompt, every other one gives a block.
        calls += decoder.step()?.blocks.len();
    }
    let tokens = decoder.decoded(0);
    assert_eq!(tokens, generate(backbone, &[&prompt], MAX_NEW)?.remove(0), "decoding by blocks is lossless");
    println!("{}", backbone.tokenizer.decode(tokens)?);
    println!("{} tokens in {calls} calls of the model", tokens.len());
    Ok(())
}
