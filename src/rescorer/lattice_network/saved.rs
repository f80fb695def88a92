//! Lattice networks on disk, as `network.safetensors` and `network.json`. They are bound to the backbone and to the
//! number of slots.

use std::path::Path;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::error::{Result, bail};
use crate::files;
use crate::nn::{collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};
use crate::storage_type::StorageType;

#[derive(Serialize, Deserialize)]
struct Description {
    schema_version: u32,
    kind: String,
    slots: usize,
    rank: usize,
    backbone: String,
}

const SCHEMA: u32 = 1;

/// What a saved lattice network must agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkShape<'a> {
    /// The kind of the rescorer, "transition" or "lava".
    pub kind: &'a str,
    /// The number of slots after the pinned one, H - 1.
    pub slots: usize,
    /// The width to which embeddings and hidden states are mapped.
    pub rank: usize,
    /// The hash of the backbone whose embeddings and hidden states the network reads.
    pub backbone: &'a str,
}

/// Writes a network into `folder`.
pub fn save_network(folder: &Path, network: &impl Module, shape: NetworkShape) -> Result<()> {
    let NetworkShape { kind, slots, rank, backbone } = shape;
    let description = Description { schema_version: SCHEMA, kind: kind.into(), slots, rank, backbone: backbone.into() };
    let values = collect_parameters(network);
    parameters_to_safetensors(&folder.join("network.safetensors"), &values, StorageType::Float32)?;
    files::write_json(&folder.join("network.json"), &description)
}

/// Reads the network in `folder` and returns it, in place of `empty`.
///
/// # Errors
/// Returns an error if the network has another kind, size or backbone than `expected` or another layout, or if files
/// are missing or damaged.
pub fn load_network<N: Module>(folder: &Path, empty: N, expected: NetworkShape) -> Result<N> {
    let path = folder.join("network.json");
    let found: Description = files::read_json(&path)?;
    if found.schema_version != SCHEMA {
        bail!(
            "{}: this rescorer has layout {}, this program reads {SCHEMA}. Train it again with `draftsmith train-rescorer`.",
            path.display(),
            found.schema_version
        );
    }
    let shape = NetworkShape { kind: &found.kind, slots: found.slots, rank: found.rank, backbone: &found.backbone };
    if shape.backbone != expected.backbone {
        bail!(
            "{}: this rescorer was trained on another backbone (its hash begins {:.12}, this one's {:.12}). Train it on this one with `draftsmith train-rescorer`.",
            path.display(),
            shape.backbone,
            expected.backbone
        );
    }
    if shape != expected {
        bail!(
            "{}: a {} rescorer of rank {} for {} slots, but the configuration asks for {} of rank {} and the heads have {} slots. Train it again with `draftsmith train-rescorer`.",
            path.display(),
            shape.kind,
            shape.rank,
            shape.slots,
            expected.kind,
            expected.rank,
            expected.slots
        );
    }
    let weights = folder.join("network.safetensors");
    load_parameters(empty, parameters_from_safetensors(&weights)?).map_err(|e| e.within(weights.display()))
}
