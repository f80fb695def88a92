//! Heads in the checkpoint formats of other projects, both ways: engines serve what is trained here, and what others have trained
//! is measured here.
//!
//! A format is one file: how it names the tensors of the heads that it can hold, and what it says of them. Whatever is written is read
//! again as its reader would before it is put in its place, since many readers pass over what they do not know.

mod card;
mod checkpoint;
mod dflash;
mod eagle;
mod flags;
mod medusa;
mod own;
mod shape;
mod speculator;
mod speculators;

use std::path::Path;

use burn::tensor::Device;

use crate::backbone::{Backbone, ModelConfig};
use crate::device::{self, DeviceChoice};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::heads::{Binding, PlainHeads};
use crate::storage_type::StorageType;

pub use flags::flags;

use checkpoint::Checkpoint;
use shape::shape_of;

/// A checkpoint format.
trait Format: Sync {
    /// Returns the name that the command line knows it by.
    fn name(&self) -> &'static str;

    /// Returns what it is, and who reads it, in a sentence.
    fn about(&self) -> &'static str;

    /// Makes the checkpoint of heads above a backbone.
    ///
    /// # Errors
    /// Returns an error if the format cannot hold the heads. It says why, and what would do.
    fn write(&self, heads: &PlainHeads, backbone: &Backbone) -> Result<Checkpoint>;

    /// Returns whether a checkpoint is of this format.
    fn recognises(&self, checkpoint: &Checkpoint) -> bool;

    /// Reads heads for a target. Tables of tokens are compared with its own.
    ///
    /// # Errors
    /// Returns an error if something is missing or left over, or does not fit the backbone.
    fn read(&self, checkpoint: Checkpoint, target: &Target) -> Result<PlainHeads>;

    /// Returns how the checkpoint in a folder is served.
    fn serving(&self, folder: &str, backbone: &str, count: usize) -> String;
}

/// The formats, in the order in which a checkpoint is compared with them.
const FORMATS: [&dyn Format; 8] = [
    &own::Own,
    &speculators::Speculators,
    &medusa::Medusa,
    &medusa::MedusaTgi,
    &speculator::MlpSpeculator,
    &eagle::Eagle3,
    &eagle::Eagle1,
    &dflash::Dflash,
];

/// What heads are read for.
struct Target<'a> {
    shape: &'a ModelConfig,
    /// The backbone itself, unless the checkpoint is only checked.
    backbone: Option<&'a Backbone>,
}

/// Returns the names of all formats, each with what it is.
pub fn formats() -> Vec<(&'static str, &'static str)> {
    FORMATS.iter().map(|format| (format.name(), format.about())).collect()
}

fn format(name: &str) -> Result<&'static dyn Format> {
    let names = || formats().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    let found = FORMATS.into_iter().find(|format| format.name() == name);
    found.ok_or_else(|| Error::new(format!("--to {name}: there is no such format; take one of {}.", names())))
}

/// Writes heads as a checkpoint of a format into the new folder `output`, with their float tensors in the type `dtype`. `results` is
/// put into the model card: what is known of the heads, as Markdown.
///
/// # Errors
/// Returns an error if the folder exists or cannot be written, or if the format cannot hold the heads. Nothing is left behind then.
/// Returns what [`check`] says of the checkpoint otherwise.
pub fn export(
    heads: &PlainHeads,
    backbone: &Backbone,
    (to, dtype): (&str, StorageType),
    output: &Path,
    results: &str,
) -> Result<(&'static str, String)> {
    let format = format(to)?;
    if output.exists() {
        bail!("{}: it exists already, and nothing is written over. Name a new folder.", output.display());
    }
    let checkpoint = format.write(heads, backbone).map_err(|e| e.within(format!("--to {to}")))?;
    let folder = files::StagedDir::new(output)?;
    checkpoint.write(folder.path(), dtype)?;
    let card = card::card(format, (heads, backbone), (output, dtype), results);
    files::write_atomic(&folder.path().join("README.md"), card.as_bytes())?;
    let said = check(folder.path())?;
    folder.commit()?;
    Ok(said)
}

/// Reads a checkpoint as its reader would. Returns the name of its format, and what it holds in a few words.
///
/// # Errors
/// Returns an error if it is of no known format, or if a tensor is missing, left over, or of another shape than its configuration
/// says.
pub fn check(folder: &Path) -> Result<(&'static str, String)> {
    let (format, checkpoint) = open(folder)?;
    let shape = shape_of(&checkpoint)?;
    let device = device::open(DeviceChoice::Auto)?.device;
    let heads = read(format, checkpoint, &Target { shape: &shape, backbone: None }, folder, &device)?;
    let parameters: usize = heads.parameters.values().map(|(_, numbers)| numbers.len()).sum();
    let vocabulary = heads.vocabulary.as_ref().map_or_else(String::new, |ids| format!(", {} draft tokens", ids.len()));
    let kind = heads.architecture.kind().name();
    Ok((format.name(), format!("{} heads of kind \"{kind}\", {parameters} parameters{vocabulary}", heads.count)))
}

/// Returns whether a folder is a checkpoint that [`import`] may read: it has a `config.json`.
pub fn is_checkpoint(folder: &Path) -> bool {
    folder.join("config.json").is_file()
}

/// Reads the checkpoint of another project as heads above a backbone.
///
/// # Errors
/// Returns an error if it is of no known format, if something is missing or left over, or if it was made for a backbone of another
/// shape or vocabulary.
pub fn import(folder: &Path, backbone: &Backbone) -> Result<PlainHeads> {
    let (format, checkpoint) = open(folder)?;
    let target = Target { shape: backbone.model.config(), backbone: Some(backbone) };
    read(format, checkpoint, &target, folder, backbone.model.device())
}

/// Opens a checkpoint and finds its format.
fn open(folder: &Path) -> Result<(&'static dyn Format, Checkpoint)> {
    let checkpoint = Checkpoint::read(folder)?;
    let found = FORMATS.into_iter().find(|format| format.recognises(&checkpoint));
    let format = found.ok_or_else(|| {
        let known: Vec<&str> = formats().into_iter().map(|(name, _)| name).collect();
        Error::new(format!(
            "{}: config.json is of no draft checkpoint that this program reads ({}).",
            folder.display(),
            known.join(", ")
        ))
    })?;
    Ok((format, checkpoint))
}

/// Reads a checkpoint, and checks that there is every parameter of the heads and no other. Nothing is computed on `device`.
fn read(
    format: &dyn Format,
    checkpoint: Checkpoint,
    target: &Target,
    folder: &Path,
    device: &Device,
) -> Result<PlainHeads> {
    let within = |e: Error| e.within(folder.display());
    let heads = format.read(checkpoint, target).map_err(within)?;
    heads.check(target.shape, device).map_err(within)?;
    Ok(heads)
}

/// Reads heads that were trained here, by the path of their run or of their folder.
///
/// # Errors
/// Returns the errors of [`PlainHeads::read`].
pub fn trained(path: &Path, backbone: &Backbone) -> Result<PlainHeads> {
    PlainHeads::read(&crate::heads::heads_folder(path)?, backbone, Binding::Same)
}
