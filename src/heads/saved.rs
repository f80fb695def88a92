//! Heads on disk: `heads.safetensors` and `heads.json`, bound to the backbone they were trained on.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{DraftHeads, FrozenHeads, Heads};
use crate::backbone::Backbone;
use crate::config::{HeadArchitecture, StorageType};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{Init, collect_parameters, load_parameters, parameters_from_safetensors, parameters_to_safetensors};

#[derive(Serialize, Deserialize)]
struct Description {
    schema_version: u32,
    block_size: usize,
    width: usize,
    architecture: HeadArchitecture,
    backbone: String,
    /// Hash of the tokenizer.
    tokenizer: String,
    /// The ids that are drafted from, ascending; null for all.
    vocabulary: Option<Vec<u32>>,
}

/// The only layout there is.
const SCHEMA: u32 = 1;

const DESCRIPTION: &str = "heads.json";
const WEIGHTS: &str = "heads.safetensors";

#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

impl Description {
    fn read(path: &Path) -> Result<Self> {
        // Before the rest, which another layout may write otherwise.
        match files::read_json::<Version>(path)?.schema_version {
            SCHEMA => files::read_json(path),
            other => bail!(
                "{}: these heads have layout {other}, this program reads {SCHEMA}. Train them again with `draftsmith train-heads`.",
                path.display()
            ),
        }
    }
}

/// Writes heads trained above `backbone`, which draft from the ids `vocabulary` or from all, into `folder`.
pub fn save_heads(
    folder: &Path,
    heads: &Heads,
    architecture: &HeadArchitecture,
    vocabulary: Option<Vec<u32>>,
    backbone: &Backbone,
) -> Result<()> {
    let description = Description {
        schema_version: SCHEMA,
        block_size: heads.count() + 1,
        width: backbone.model.config().hidden_size,
        architecture: architecture.clone(),
        backbone: backbone.hash.clone(),
        tokenizer: backbone.tokenizer.plain_hash().to_owned(),
        vocabulary,
    };
    let values = collect_parameters(heads);
    parameters_to_safetensors(&folder.join(WEIGHTS), &values, StorageType::Float32)?;
    files::write_json(&folder.join(DESCRIPTION), &description)
}

/// Reads the heads in `folder`, trained above `backbone`.
///
/// # Errors
/// Heads trained on another backbone (by hash or by width) or with another tokenizer, another layout, damaged files.
pub fn load_heads(folder: &Path, backbone: &Backbone) -> Result<FrozenHeads> {
    load_heads_at(folder, &folder.join(WEIGHTS), backbone)
}

/// The same with the weights in another file, that of a checkpoint.
///
/// # Errors
/// As [`load_heads`].
pub fn load_heads_at(folder: &Path, weights: &Path, backbone: &Backbone) -> Result<FrozenHeads> {
    let (description, heads) = read(folder, weights, backbone, backbone.model.device())?;
    Ok(FrozenHeads::new(heads, &backbone.model, description.vocabulary))
}

/// The folder of the trained heads that `path` names: it itself, the `heads` in a run's folder, or that of a
/// `heads.safetensors`.
///
/// # Errors
/// None of them holds heads.
pub fn heads_folder(path: &Path) -> Result<PathBuf> {
    let file = path.file_name().filter(|_| path.is_file()).and_then(|_| path.parent());
    let places = [file.map(Path::to_owned), Some(path.to_owned()), Some(path.join("heads"))];
    let found =
        places.into_iter().flatten().find(|folder| [DESCRIPTION, WEIGHTS].iter().all(|f| folder.join(f).is_file()));
    found.ok_or_else(|| {
        Error::new(format!(
            "{}: no trained heads; neither here nor in a folder `heads` below are a {DESCRIPTION} and a {WEIGHTS}. Name the folder `heads` of a run that has trained some.",
            path.display()
        ))
    })
}

/// Copies the heads in `from` into the folder `to`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn copy_heads(from: &Path, to: &Path) -> Result<()> {
    for name in [DESCRIPTION, WEIGHTS] {
        let path = from.join(name);
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        files::write_atomic(&to.join(name), &bytes)?;
    }
    Ok(())
}

/// Hash of what heads in `folder` are.
///
/// # Errors
/// Files that cannot be read.
pub fn hash_heads(folder: &Path) -> Result<String> {
    let [description, weights] = [DESCRIPTION, WEIGHTS].map(|file| files::hash_file(&folder.join(file)));
    Ok(files::hash_json(&(description?, weights?)))
}

/// Reads the heads in `folder` to train them further, on `device`.
///
/// # Errors
/// As [`load_heads`], and heads of another architecture or number than asked for.
pub fn load_heads_to_train(
    folder: &Path,
    backbone: &Backbone,
    (architecture, count): (&HeadArchitecture, usize),
    device: &Device,
) -> Result<Heads> {
    let (description, heads) = read(folder, &folder.join(WEIGHTS), backbone, device)?;
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

fn read(folder: &Path, weights: &Path, backbone: &Backbone, device: &Device) -> Result<(Description, Heads)> {
    let Backbone { model, tokenizer, hash, .. } = backbone;
    let (path, width) = (folder.join(DESCRIPTION), model.config().hidden_size);
    let description = Description::read(&path)?;
    if description.width != width {
        bail!(
            "{}: these heads expect hidden states of width {}, but the backbone's have {width}. Train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.width
        );
    }
    if description.backbone != *hash {
        bail!(
            "{}: these heads were trained on another backbone (its hash begins {:.12}, this one's {hash:.12}). Train heads on this backbone with `draftsmith train-heads`.",
            path.display(),
            description.backbone
        );
    }
    if description.tokenizer != tokenizer.plain_hash() {
        bail!(
            "{}: these heads were trained with another tokenizer on the same weights, so their ids stand for other text. Put back the tokenizer.json that they were trained with, or train heads on this one with `draftsmith train-heads`.",
            path.display()
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
    let heads =
        load_parameters(empty, parameters_from_safetensors(weights)?).map_err(|e| e.within(weights.display()))?;
    Ok((description, heads))
}
