//! Heads on disk, as `heads.safetensors` and `heads.json`. They are bound to the backbone that they were trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::selector::{OF_HEADS, OF_SELECTOR};
use super::{AnyHeadKind, BiasConfig, FrozenHeads, HeadArchitecture, HeadKind, HeadShape, SelectorConfig, Trained};
use crate::backbone::{Backbone, Checkpoint, ModelConfig, ValueSketch};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{
    Init, TransitionNetwork, Values, collect_parameters, load_parameters, parameters_from_safetensors,
    parameters_to_safetensors,
};
use crate::progress;
use crate::storage_type::StorageType;
use crate::store;

#[derive(Serialize, Deserialize)]
struct Description {
    schema_version: u32,
    block_size: usize,
    width: usize,
    #[serde(flatten)]
    kind: SavedKind,
    backbone: String,
    /// The hash of the tokenizer.
    tokenizer: String,
    /// The ids that the heads draft from, ascending, or null for all.
    vocabulary: Option<Vec<u32>>,
}

/// What kind of heads a file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedKind {
    /// The section `[heads.architecture]` of the configuration, including `kind`.
    pub architecture: Value,
    /// The section `[heads.bias]`, if they have one.
    pub bias: Option<BiasConfig>,
    /// The section `[heads.selector]`, if one learnt with them. Its parameters lie beside theirs.
    pub selector: Option<SelectorConfig>,
}

/// The version of the layout. There is only one so far.
const SCHEMA: u32 = 1;
/// The longest block that anybody drafts.
const LONGEST_BLOCK: usize = 4096;

/// A description of the backbone below trained heads, by which it is recognized even if it is saved in another float
/// type.
#[derive(Serialize, Deserialize)]
struct TrainedAbove {
    /// The configuration of the model, which describes its shape.
    config: Value,
    values: ValueSketch,
}

/// The backbones that heads may be used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Only the backbone that they were trained on, which may be saved in another float type.
    Same,
    /// Any backbone with the same width and tokenizer. If it is a different one, a warning says so.
    Accepted,
}

const DESCRIPTION: &str = "heads.json";
const BACKBONE: &str = "backbone.json";
/// The file of the weights.
pub const WEIGHTS: &str = "heads.safetensors";

#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

impl Description {
    fn read(path: &Path) -> Result<Self> {
        // The version is read first, because another layout may write the rest differently.
        match files::read_json::<Version>(path)?.schema_version {
            SCHEMA => {
                let description: Self = files::read_json(path)?;
                if !(2..=LONGEST_BLOCK).contains(&description.block_size) {
                    bail!(
                        "{}: `block_size` is {}, but blocks have 2 to {LONGEST_BLOCK} tokens; the file is damaged.",
                        path.display(),
                        description.block_size
                    );
                }
                Ok(description)
            }
            other => bail!(
                "{}: these heads have layout {other}, this program reads {SCHEMA}. Train them again with `draftsmith train-heads`.",
                path.display()
            ),
        }
    }
}

/// Returns the section of the configuration that describes the heads, including `kind`.
pub(super) fn section<K: HeadKind>(kind: &K) -> Value {
    let mut section = json!(kind);
    section["kind"] = K::NAME.into();
    section
}

/// Writes the weights of heads into `folder`.
pub(super) fn save_weights<N: Module>(folder: &Path, heads: &N) -> Result<()> {
    parameters_to_safetensors(&folder.join(WEIGHTS), &collect_parameters(heads), StorageType::Float32)
}

/// Describes `count` heads that were trained above `backbone` and lie in `folder`. They draft from the ids `vocabulary`, or from
/// all tokens.
pub(super) fn describe_heads(
    folder: &Path,
    kind: SavedKind,
    count: usize,
    vocabulary: Option<Vec<u32>>,
    backbone: &Backbone,
) -> Result<()> {
    let description = Description {
        schema_version: SCHEMA,
        block_size: count + 1,
        width: backbone.model.config().hidden_size,
        kind,
        backbone: backbone.hash.clone(),
        tokenizer: backbone.tokenizer.plain_hash().to_owned(),
        vocabulary,
    };
    if let Some(above) = trained_above(backbone)? {
        files::write_json(&folder.join(BACKBONE), &above)?;
    }
    files::write_json(&folder.join(DESCRIPTION), &description)
}

fn trained_above(backbone: &Backbone) -> Result<Option<TrainedAbove>> {
    let sketch = Checkpoint::open(&backbone.path)?.sketch()?;
    Ok(sketch.map(|values| TrainedAbove { config: json!(backbone.model.config()), values }))
}

/// Reads the heads in `folder` for use with `backbone`.
///
/// # Errors
/// Returns an error if the heads were trained above another backbone than `binding` allows, have another width or
/// tokenizer, or have another layout, or if their files are damaged.
pub fn load_heads(folder: &Path, backbone: &Backbone, binding: Binding) -> Result<FrozenHeads> {
    store::verify(folder)?;
    describe(folder, backbone, binding)?;
    load_again(folder, &folder.join(WEIGHTS), backbone)
}

/// Reads heads that [`load_heads`] has accepted for this backbone, which is not checked again. The file `weights` may be
/// that of another checkpoint of their training.
///
/// # Errors
/// Returns an error if a file is missing or damaged, or if the backbone does not suit heads of this description.
pub fn load_again(folder: &Path, weights: &Path, backbone: &Backbone) -> Result<FrozenHeads> {
    let path = folder.join(DESCRIPTION);
    let Description { kind, block_size, vocabulary, .. } = Description::read(&path)?;
    let architecture = kind.architecture(folder)?;
    suits(architecture.kind(), backbone.model.config()).map_err(|e| e.within(path.display()))?;
    let trained = Trained { count: block_size - 1, bias: kind.bias, vocabulary };
    architecture.kind().load(weights, trained, backbone)
}

/// Checks what a configuration would be checked for: heads may come from anywhere.
fn suits(kind: &dyn AnyHeadKind, backbone: &ModelConfig) -> Result<()> {
    kind.validate()?;
    let layers = backbone.num_hidden_layers;
    kind.features(backbone)?.into_iter().try_for_each(|feature| feature.validate(layers))
}

/// Returns the folder of the trained heads that `path` names. The path may be this folder, the folder of a run, whose
/// heads are in `heads`, or a file `heads.safetensors`.
///
/// # Errors
/// Returns an error if there are no heads at any of these places.
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

/// Copies the heads in the folder `from` into the folder `to`.
///
/// # Errors
/// Returns an error if a file cannot be read or written.
pub fn copy_heads(from: &Path, to: &Path) -> Result<()> {
    for path in [BACKBONE, WEIGHTS, DESCRIPTION].map(|name| from.join(name)) {
        // Heads above a GGUF file do not have this file, because they are bound to the exact bytes of the backbone.
        if path.exists() || !path.ends_with(BACKBONE) {
            let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            files::write_atomic(&to.join(path.file_name().unwrap_or_default()), &bytes)?;
        }
    }
    Ok(())
}

/// Returns the hash of the weights of the heads in `folder`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn hash_weights(folder: &Path) -> Result<String> {
    files::hash_file(&folder.join(WEIGHTS))
}

/// Returns a hash of the heads in `folder`, over their description and their weights.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub fn hash_heads(folder: &Path) -> Result<String> {
    let [description, weights] = [DESCRIPTION, WEIGHTS].map(|file| files::hash_file(&folder.join(file)));
    Ok(files::hash_json(&(description?, weights?)))
}

/// Reads the heads in `folder` to train them further, in place of the network `empty`.
///
/// # Errors
/// Returns the errors of [`load_heads`], and an error if the heads or their number are not those asked for.
pub(super) fn load_to_train<N: Module>(
    empty: N,
    wanted: &SavedKind,
    (folder, binding): (&Path, Binding),
    backbone: &Backbone,
    count: usize,
) -> Result<N> {
    let Description { kind, block_size, .. } = describe(folder, backbone, binding)?;
    if (&kind, block_size) != (wanted, count + 1) {
        let words = |kind: &SavedKind| {
            let bias = kind.bias.map_or_else(String::new, |bias| format!(" with a bias {}", json!(bias)));
            let selector = kind.selector.map_or_else(String::new, |own| format!(" with a selector {}", json!(own)));
            format!("{}{bias}{selector}", kind.architecture)
        };
        bail!(
            "`heads.init_from`: {} holds {} heads of {}, but the configuration asks for {count} of {}. Set `heads.block_size`, `heads.architecture`, `heads.bias` and `heads.selector` as they were.",
            folder.display(),
            block_size - 1,
            words(&kind),
            words(wanted)
        );
    }
    load_values(empty, &folder.join(WEIGHTS), |values| values)
}

/// Trained heads as plain values, for checkpoints of other programs.
pub struct PlainHeads {
    /// Their kind.
    pub architecture: HeadArchitecture,
    /// Their bias by the tokens before a slot, if they have one.
    pub bias: Option<BiasConfig>,
    /// The number of heads, H - 1.
    pub count: usize,
    /// The ids that they draft from, ascending, or none for all.
    pub vocabulary: Option<Vec<u32>>,
    /// Their parameters by name.
    pub parameters: BTreeMap<String, Values>,
}

impl PlainHeads {
    /// Reads the heads in `folder`, which were trained above `backbone`.
    ///
    /// # Errors
    /// Returns the errors of [`load_heads`].
    pub fn read(folder: &Path, backbone: &Backbone, binding: Binding) -> Result<Self> {
        let Description { kind, block_size, vocabulary, .. } = describe(folder, backbone, binding)?;
        let architecture = kind.architecture(folder)?;
        let parameters = of_heads(parameters_from_safetensors(&folder.join(WEIGHTS))?);
        Ok(Self { architecture, bias: kind.bias, count: block_size - 1, vocabulary, parameters })
    }

    /// Checks that there is every parameter that heads of this kind have above a backbone of this shape, and no other.
    ///
    /// # Errors
    /// Returns an error that names the first parameter which is missing, left over, or of another shape.
    pub fn check(&self, backbone: &ModelConfig, device: &Device) -> Result<()> {
        if !(1..LONGEST_BLOCK).contains(&self.count) {
            bail!("the checkpoint drafts {} tokens; 1 to {} can be drafted.", self.count, LONGEST_BLOCK - 1);
        }
        let shape = HeadShape::above(backbone, self.count, self.vocabulary.as_deref());
        let kind = self.architecture.kind();
        suits(kind, backbone)?;
        let shapes = kind.parameter_shapes(shape, self.bias, device);
        for (name, shape) in &shapes {
            match self.parameters.get(name) {
                Some((found, _)) if found == shape => {}
                Some((found, _)) => bail!(
                    "`{name}` is {found:?}, but heads of kind \"{}\" above this backbone have {shape:?} there.",
                    kind.name()
                ),
                None => bail!("`{name}` is missing of heads of kind \"{}\".", kind.name()),
            }
        }
        match self.parameters.keys().find(|name| !shapes.contains_key(*name)) {
            Some(left) => bail!("heads of kind \"{}\" have no parameter `{left}`.", kind.name()),
            None => Ok(()),
        }
    }

    /// Writes them into `folder` as heads that were trained above `backbone`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written.
    pub fn write(&self, folder: &Path, backbone: &Backbone) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        parameters_to_safetensors(&folder.join(WEIGHTS), &self.parameters, StorageType::Float32)?;
        let kind = SavedKind { architecture: json!(self.architecture), bias: self.bias, selector: None };
        describe_heads(folder, kind, self.count, self.vocabulary.clone(), backbone)
    }
}

impl SavedKind {
    /// Returns the section of the configuration, of heads in `folder`.
    fn architecture(&self, folder: &Path) -> Result<HeadArchitecture> {
        let wrong = |e| Error::new(format!("{}: `architecture`: {e}.", folder.join(DESCRIPTION).display()));
        serde_json::from_value(self.architecture.clone()).map_err(wrong)
    }
}

/// Returns the parameters of heads alone. Where a selector learnt with them, its own lie beside theirs.
fn of_heads(parameters: BTreeMap<String, Values>) -> BTreeMap<String, Values> {
    if !parameters.keys().any(|name| name.starts_with(OF_SELECTOR)) {
        return parameters;
    }
    let of_heads = |(name, values): (String, Values)| Some((name.strip_prefix(OF_HEADS)?.to_owned(), values));
    parameters.into_iter().filter_map(of_heads).collect()
}

/// Reads trained heads from the file `weights`, in place of the network `empty`.
///
/// # Errors
/// Returns an error if the file is missing or damaged, or holds other heads.
pub(super) fn load_network<N: Module>(empty: N, weights: &Path) -> Result<N> {
    load_values(empty, weights, of_heads)
}

/// Reads the selector that learnt with the heads in `folder`.
///
/// # Errors
/// Returns an error if none did, or if a file is missing or damaged.
pub fn load_selector(folder: &Path, backbone: &Backbone) -> Result<(SelectorConfig, TransitionNetwork)> {
    let path = folder.join(DESCRIPTION);
    let Description { kind, block_size, .. } = Description::read(&path)?;
    let Some(config) = kind.selector else {
        bail!(
            "{}: no selector learnt with these heads. Set `heads.selector` before they are trained, or take a rescorer of kind \"transition\", which is trained afterwards.",
            path.display()
        );
    };
    let (model, weights) = (&backbone.model, folder.join(WEIGHTS));
    let empty = config.network(block_size - 1, model.config(), &mut Init::empty(model.device()));
    let own = |(name, values): (String, Values)| Some((name.strip_prefix(OF_SELECTOR)?.to_owned(), values));
    let network = load_values(empty, &weights, |values| values.into_iter().filter_map(own).collect())?;
    Ok((config, network))
}

/// Reads some of the parameters in the file `weights`, in place of the network `empty`.
fn load_values<N: Module>(
    empty: N,
    weights: &Path,
    some: impl Fn(BTreeMap<String, Values>) -> BTreeMap<String, Values>,
) -> Result<N> {
    let values = some(parameters_from_safetensors(weights)?);
    let broken = |(_, (_, numbers)): &(&String, &Values)| numbers.iter().any(|number| !number.is_finite());
    if let Some((name, _)) = values.iter().find(broken) {
        bail!(
            "{}: the tensor `{name}` holds numbers that are not finite. Train the heads anew with a lower learning rate.",
            weights.display()
        );
    }
    load_parameters(empty, values).map_err(|e| e.within(weights.display()))
}

/// Reads the description of the heads in `folder`, and checks that they may be used with `backbone`.
fn describe(folder: &Path, backbone: &Backbone, binding: Binding) -> Result<Description> {
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
    if description.tokenizer != tokenizer.plain_hash() {
        bail!(
            "{}: these heads were trained with another tokenizer on the same weights, so their ids stand for other text. Put back the tokenizer.json that they were trained with, or train heads on this one with `draftsmith train-heads`.",
            path.display()
        );
    }
    if description.backbone != *hash
        && let Some(why) = other_backbone(folder, backbone)?
    {
        let what = format!(
            "{}: these heads were trained on another backbone (its hash begins {:.12}, this one's {hash:.12}; {why})",
            path.display(),
            description.backbone
        );
        if binding == Binding::Same {
            bail!(
                "{what}. Train heads on this backbone with `draftsmith train-heads`, or use these all the same with --accept-backbone."
            );
        }
        progress::say(format!("warning: {what}, and are used all the same."));
    }
    let tokens = model.config().vocab_size;
    if description.vocabulary.iter().flatten().any(|&id| id as usize >= tokens) {
        bail!(
            "{}: the vocabulary names an id beyond the backbone's {tokens} tokens; the file is damaged.",
            path.display()
        );
    }
    Ok(description)
}

/// Says how `backbone` differs from the model that the heads in `folder` were trained above, or returns none if it is
/// the same model.
fn other_backbone(folder: &Path, backbone: &Backbone) -> Result<Option<String>> {
    let path = folder.join(BACKBONE);
    if !path.exists() {
        return Ok(Some("nothing but the hash is known of it".to_owned()));
    }
    let above: TrainedAbove = files::read_json(&path)?;
    let Some(here) = trained_above(backbone)? else { return Ok(Some("this one is a GGUF file".to_owned())) };
    if above.config != here.config {
        return Ok(Some("it has another shape".to_owned()));
    }
    let tensor = above.values.differing_tensor(&here.values);
    Ok(tensor.map(|tensor| format!("the values of `{tensor}` differ by more than their types round")))
}
