//! Heads on disk: `heads.safetensors` and `heads.json`, bound to the backbone they were trained on.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{DraftHeads, Heads};
use crate::config::{FfnConfig, FirstLayer, HeadArchitecture, StorageType};
use crate::error::{Result, bail};
use crate::files;
use crate::nn::{Init, collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};

#[derive(Serialize, Deserialize)]
struct Description {
    schema_version: u32,
    block_size: usize,
    width: usize,
    architecture: HeadArchitecture,
    backbone: String,
}

/// 1 knew one architecture, the FFN with separate first layers, and held the width of its hidden layer.
const SCHEMA: u32 = 2;

#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

#[derive(Deserialize)]
struct FirstDescription {
    block_size: usize,
    width: usize,
    hidden: usize,
    backbone: String,
}

impl Description {
    fn read(path: &Path) -> Result<Self> {
        // Before the rest, which a newer version may write otherwise.
        match files::read_json::<Version>(path)?.schema_version {
            1 => {
                let FirstDescription { block_size, width, hidden, backbone } = files::read_json(path)?;
                let architecture = HeadArchitecture::Ffn(FfnConfig { hidden, first_layer: FirstLayer::Separate });
                Ok(Self { schema_version: 1, block_size, width, architecture, backbone })
            }
            SCHEMA => files::read_json(path),
            _ => bail!("{}: written by a newer version of this program; use that version.", path.display()),
        }
    }
}

/// Writes trained heads for hidden states of `width` into `folder`.
pub fn save_heads(
    folder: &Path,
    heads: &Heads,
    width: usize,
    architecture: &HeadArchitecture,
    backbone: &str,
) -> Result<()> {
    let description = Description {
        schema_version: SCHEMA,
        block_size: heads.count() + 1,
        width,
        architecture: architecture.clone(),
        backbone: backbone.to_owned(),
    };
    let values = collect_parameters(heads);
    parameters_to_safetensors(&folder.join("heads.safetensors"), &values, StorageType::Float32)?;
    files::write_json(&folder.join("heads.json"), &description)
}

/// Reads the heads in `folder`.
///
/// # Errors
/// Heads trained on another backbone (by hash or by width), a newer layout, damaged files.
pub fn load_heads(folder: &Path, width: usize, backbone: &str, device: &Device) -> Result<Heads> {
    let path = folder.join("heads.json");
    let description = Description::read(&path)?;
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
    let empty = Heads::new(&description.architecture, description.block_size - 1, width, &mut Init::empty(device));
    let weights = folder.join("heads.safetensors");
    load_parameters(empty, parameters_from_safetensors(&weights)?).map_err(|e| e.within(weights.display()))
}
