//! Heads on disk: `heads.safetensors` and `heads.json`, bound to the backbone they were trained on.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::FfnHeads;
use crate::config::StorageType;
use crate::error::{Result, bail};
use crate::files;
use crate::nn::{Init, collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};

#[derive(Serialize, Deserialize)]
struct Description {
    schema_version: u32,
    block_size: usize,
    width: usize,
    hidden: usize,
    backbone: String,
}

const SCHEMA: u32 = 1;

/// Writes trained heads of the given shape into `folder`.
pub fn save_heads(folder: &Path, heads: &FfnHeads, width: usize, hidden: usize, backbone: &str) -> Result<()> {
    let block_size = heads.count() + 1;
    let description = Description { schema_version: SCHEMA, block_size, width, hidden, backbone: backbone.to_owned() };
    let values = collect_parameters(heads);
    parameters_to_safetensors(&folder.join("heads.safetensors"), &values, StorageType::Float32)?;
    files::write_json(&folder.join("heads.json"), &description)
}

/// Reads the heads in `folder`.
///
/// # Errors
/// Heads trained on another backbone (by hash or by width), a newer layout, damaged files.
pub fn load_heads(folder: &Path, width: usize, backbone: &str, device: &Device) -> Result<FfnHeads> {
    let path = folder.join("heads.json");
    let description: Description = files::read_json(&path)?;
    if description.schema_version > SCHEMA {
        bail!("{}: written by a newer version of this program; use that version.", path.display());
    }
    if description.width != width {
        bail!(
            "{}: these heads expect hidden states of width {}, but the backbone's have {width}. Delete the folder {} and train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.width,
            folder.display()
        );
    }
    if description.backbone != backbone {
        bail!(
            "{}: these heads were trained on another backbone (its hash begins {:.12}, this one's {backbone:.12}). Delete the folder {} and train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.backbone,
            folder.display()
        );
    }
    let empty = FfnHeads::new(description.block_size - 1, width, description.hidden, &mut Init::empty(device));
    let weights = folder.join("heads.safetensors");
    load_parameters(empty, parameters_from_safetensors(&weights)?).map_err(|e| e.within(weights.display()))
}
