//! Heads on disk: `heads.safetensors` and `heads.json`, bound to the backbone they were trained on.

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{DraftHeads, FrozenHeads, Heads};
use crate::backbone::Model;
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
    /// The ids that are drafted from, ascending; all where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vocabulary: Option<Vec<u32>>,
}

/// 1 knew one architecture, the FFN with separate first layers, and held the width of its hidden layer; 2 had no part of the
/// vocabulary.
const SCHEMA: u32 = 3;

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
                Ok(Self { schema_version: 1, block_size, width, architecture, backbone, vocabulary: None })
            }
            2..=SCHEMA => files::read_json(path),
            _ => bail!("{}: written by a newer version of this program; use that version.", path.display()),
        }
    }
}

/// Writes trained heads for hidden states of `width`, which draft from the ids `vocabulary` or from all, into `folder`.
pub fn save_heads(
    folder: &Path,
    heads: &Heads,
    width: usize,
    architecture: &HeadArchitecture,
    vocabulary: Option<Vec<u32>>,
    backbone: &str,
) -> Result<()> {
    let description = Description {
        schema_version: SCHEMA,
        block_size: heads.count() + 1,
        width,
        architecture: architecture.clone(),
        backbone: backbone.to_owned(),
        vocabulary,
    };
    let values = collect_parameters(heads);
    parameters_to_safetensors(&folder.join("heads.safetensors"), &values, StorageType::Float32)?;
    files::write_json(&folder.join("heads.json"), &description)
}

/// Reads the heads in `folder`, trained above `model`, whose backbone has the hash `backbone`.
///
/// # Errors
/// Heads trained on another backbone (by hash or by width), a newer layout, damaged files.
pub fn load_heads(folder: &Path, model: &Model, backbone: &str) -> Result<FrozenHeads> {
    let (description, heads) = read(folder, model, backbone, model.device())?;
    Ok(FrozenHeads::new(heads, model, description.vocabulary))
}

/// Reads the heads in `folder` to train them further, on `device`.
///
/// # Errors
/// As [`load_heads`], and heads of another architecture or number than asked for.
pub fn load_heads_to_train(
    folder: &Path,
    model: &Model,
    backbone: &str,
    (architecture, count): (&HeadArchitecture, usize),
    device: &Device,
) -> Result<Heads> {
    let (description, heads) = read(folder, model, backbone, device)?;
    if (&description.architecture, heads.count()) != (architecture, count) {
        bail!(
            "`heads.init_from`: {} holds {} heads of {:?}, but the configuration asks for {count} of {architecture:?}. Set `heads.block_size` and `heads.architecture` as they were.",
            folder.display(),
            heads.count(),
            description.architecture
        );
    }
    Ok(heads)
}

fn read(folder: &Path, model: &Model, backbone: &str, device: &Device) -> Result<(Description, Heads)> {
    let (path, width) = (folder.join("heads.json"), model.config().hidden_size);
    let description = Description::read(&path)?;
    if description.width != width {
        bail!(
            "{}: these heads expect hidden states of width {}, but the backbone's have {width}. Train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.width
        );
    }
    if description.backbone != backbone {
        bail!(
            "{}: these heads were trained on another backbone (its hash begins {:.12}, this one's {backbone:.12}). Train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.backbone
        );
    }
    let size = [model.config().vocab_size, width];
    if description.vocabulary.iter().flatten().any(|&id| id as usize >= size[0]) {
        bail!(
            "{}: the vocabulary names an id beyond the backbone's {} tokens; the file is damaged.",
            path.display(),
            size[0]
        );
    }
    let empty = Heads::new(&description.architecture, description.block_size - 1, size, &mut Init::empty(device));
    let weights = folder.join("heads.safetensors");
    let heads =
        load_parameters(empty, parameters_from_safetensors(&weights)?).map_err(|e| e.within(weights.display()))?;
    Ok((description, heads))
}
