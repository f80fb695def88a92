//! Lattice networks on disk: `network.safetensors` and `network.json`, bound to the backbone and the heads.

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

/// What a lattice network fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkShape<'a> {
    /// "transition" or "lava".
    pub kind: &'a str,
    /// H - 1
    pub slots: usize,
    /// Its width.
    pub rank: usize,
    /// Hash of the backbone whose embeddings and hidden states it reads.
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

/// Reads the network in `folder` over `empty`.
///
/// # Errors
/// Another kind, size or backbone than `expected`, another layout, damaged files.
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
