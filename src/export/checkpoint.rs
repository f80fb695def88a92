//! A checkpoint as its files have it: a configuration, and tensors by name.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::Target;
use crate::backbone::{Backbone, Feature};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::heads::HeadArchitecture;
use crate::nn::{SafetensorsFile, Values, to_host};
use crate::storage_type::StorageType;

/// A checkpoint.
pub(super) struct Checkpoint {
    pub config: Map<String, Value>,
    pub tensors: BTreeMap<String, Stored>,
    /// The name of the file of the tensors.
    pub file: &'static str,
}

/// A tensor.
pub(super) enum Stored {
    Floats(Values),
    Integers(Vec<i64>),
    Flags(Vec<bool>),
}

/// The files that tensors may lie in.
pub(super) const FILES: [&str; 2] = ["model.safetensors", "medusa_lm_head.safetensors"];

/// How two tables may differ and still be the same, in relation to the larger number: as bfloat16 rounds.
const ROUNDING: f32 = 1.0 / 128.0;

/// What a tensor is called here, and there.
pub(super) type Name = (String, String);

impl Checkpoint {
    /// Makes a checkpoint from a configuration, which is an object.
    pub fn new(config: Value, file: &'static str) -> Self {
        let Value::Object(config) = config else { unreachable!("a configuration is an object") };
        Self { config, tensors: BTreeMap::new(), file }
    }

    /// Reads a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let config = files::read_json(&folder.join("config.json"))?;
        let Some(file) = FILES.into_iter().find(|file| folder.join(file).is_file()) else {
            let pickled = folder.join("pytorch_model.bin").is_file();
            let advice = if pickled {
                "it has a pytorch_model.bin, which this program does not read, since it may run code. Save it again as safetensors"
            } else {
                "a checkpoint has its tensors in one of these; one in several files is to be saved as one"
            };
            bail!("{}: neither {} nor {} is there; {advice}.", folder.display(), FILES[0], FILES[1]);
        };
        let path = folder.join(file);
        let opened = SafetensorsFile::open(&path)?;
        let mut tensors = BTreeMap::new();
        for name in opened.names() {
            let stored = match opened.info(&name).map(|info| info.dtype) {
                Some(Dtype::I64) => opened.integers(&name).map(Stored::Integers),
                Some(Dtype::BOOL) => opened.flags(&name).map(Stored::Flags),
                _ => opened.read(&name).map(Stored::Floats),
            };
            tensors.insert(name, stored.map_err(|e| e.within(path.display()))?);
        }
        Ok(Self { config, tensors, file })
    }

    /// Writes the files into a folder.
    pub fn write(&self, folder: &Path, dtype: StorageType) -> Result<()> {
        let mut config = self.config.clone();
        config.insert("torch_dtype".into(), serde_json::json!(dtype));
        files::write_json(&folder.join("config.json"), &config)?;
        let floats = match dtype {
            StorageType::Float32 => Dtype::F32,
            StorageType::Float16 => Dtype::F16,
            StorageType::Bfloat16 => Dtype::BF16,
        };
        let encoded: Vec<(&String, Dtype, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, stored)| match stored {
                Stored::Floats((shape, numbers)) => {
                    let mut bytes = Vec::new();
                    dtype.encode(numbers, &mut bytes);
                    (name, floats, shape.clone(), bytes)
                }
                Stored::Integers(integers) => {
                    let bytes = integers.iter().flat_map(|integer| integer.to_le_bytes()).collect();
                    (name, Dtype::I64, vec![integers.len()], bytes)
                }
                Stored::Flags(flags) => {
                    (name, Dtype::BOOL, vec![flags.len()], flags.iter().map(|&flag| u8::from(flag)).collect())
                }
            })
            .collect();
        let path = folder.join(self.file);
        let views = encoded.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes match the shape"))
        });
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        let bytes = safetensors::serialize(views, metadata)
            .map_err(|e| Error::new(format!("cannot write {}: {e}.", path.display())))?;
        files::write_atomic(&path, &bytes)
    }

    /// Returns a key of the configuration, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    /// Returns a number of the configuration, or an error that names the key.
    pub fn number(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| Error::new(format!("config.json: `{key}` is missing.")))?;
        let number = value.as_u64().map(|number| number as usize);
        number.ok_or_else(|| Error::new(format!("config.json: `{key}` is {value}, not a number.")))
    }

    /// Returns a flag of the configuration, which is `default` where it is not given.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// Returns whether one of `architectures` contains these words.
    pub fn is_called(&self, words: &str) -> bool {
        let names = self.get("architectures").and_then(Value::as_array);
        names.is_some_and(|names| names.iter().any(|name| name.as_str().is_some_and(|name| name.contains(words))))
    }

    /// Refuses settings of the format that these heads do not have: each must be off, or not given.
    pub fn without(&self, keys: &[&str]) -> Result<()> {
        match keys.iter().find(|key| self.flag(key, false)) {
            Some(key) => bail!("config.json: `{key}` is on, and heads here have no such part."),
            None => Ok(()),
        }
    }

    /// Adds the parameters of heads by their names there.
    ///
    /// # Errors
    /// Returns an error if a parameter has no name there.
    pub fn add(&mut self, mut parameters: BTreeMap<String, Values>, names: &[Name]) -> Result<()> {
        for (ours, theirs) in names {
            let values = parameters.remove(ours);
            let values = values.ok_or_else(|| Error::new(format!("the heads have no parameter `{ours}`.")))?;
            self.tensors.insert(theirs.clone(), Stored::Floats(values));
        }
        match parameters.keys().next() {
            None => Ok(()),
            Some(left) => bail!("the format has no place for the parameter `{left}` of these heads."),
        }
    }

    /// Takes the parameters of heads by their names here.
    ///
    /// # Errors
    /// Returns an error if one is missing.
    pub fn take(&mut self, names: &[Name]) -> Result<BTreeMap<String, Values>> {
        names.iter().map(|(ours, theirs)| Ok((ours.clone(), self.take_floats(theirs)?))).collect()
    }

    /// Takes a tensor of floats.
    ///
    /// # Errors
    /// Returns an error if it is missing, or of another type.
    pub fn take_floats(&mut self, name: &str) -> Result<Values> {
        match self.tensors.remove(name) {
            Some(Stored::Floats(values)) => Ok(values),
            Some(_) => bail!("{}: the tensor `{name}` holds no floats.", self.file),
            None => bail!("{}: the tensor `{name}` is missing.", self.file),
        }
    }

    /// Refuses tensors that nothing has taken.
    ///
    /// # Errors
    /// Returns an error if there are some.
    pub fn is_empty(&self) -> Result<()> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(left) => bail!("{}: the tensor `{left}` has no place in these heads.", self.file),
        }
    }

    /// Adds the ids that heads draft from, ascending, as `d2t` (what to add to a draft token to have the backbone's) and `t2d` (whether
    /// a token of the backbone is drafted).
    pub fn add_vocabulary(&mut self, ids: &[u32], vocabulary: usize) {
        let offsets = ids.iter().enumerate().map(|(draft, &id)| i64::from(id) - draft as i64).collect();
        let mut drafted = vec![false; vocabulary];
        ids.iter().for_each(|&id| drafted[id as usize] = true);
        self.tensors.insert("d2t".into(), Stored::Integers(offsets));
        self.tensors.insert("t2d".into(), Stored::Flags(drafted));
    }

    /// Takes `d2t` and `t2d`, if they are there: the backbone's id of every draft token.
    ///
    /// # Errors
    /// Returns an error if they disagree, repeat a token, or name one beyond the vocabulary.
    pub fn take_vocabulary(&mut self, vocabulary: usize) -> Result<Option<Vec<u32>>> {
        let flags = self.tensors.remove("t2d");
        let offsets = match self.tensors.remove("d2t") {
            None if flags.is_none() => return Ok(None),
            None => bail!("{}: there is a `t2d`, but no `d2t`.", self.file),
            Some(Stored::Integers(offsets)) => offsets,
            Some(_) => bail!("{}: `d2t` must hold 64-bit integers.", self.file),
        };
        let mut drafted = vec![false; vocabulary];
        let mut ids = Vec::with_capacity(offsets.len());
        for (draft, offset) in offsets.iter().enumerate() {
            let id = (draft as i64).saturating_add(*offset);
            match usize::try_from(id).ok().and_then(|id| drafted.get_mut(id)) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => bail!("{}: `d2t` gives token {id} to two draft tokens.", self.file),
                None => bail!(
                    "{}: `d2t` gives draft token {draft} the id {id}, but the backbone has {vocabulary} tokens.",
                    self.file
                ),
            }
            ids.push(id as u32);
        }
        match flags {
            Some(Stored::Flags(flags)) if flags != drafted => {
                bail!("{}: `t2d` and `d2t` do not name the same tokens.", self.file)
            }
            Some(Stored::Flags(_)) | None => Ok(Some(ids)),
            Some(_) => bail!("{}: `t2d` must hold booleans.", self.file),
        }
    }

    /// Drops a table of tokens that must be the backbone's own, if it is there.
    ///
    /// # Errors
    /// Returns an error if it is another one.
    pub fn drop_table(&mut self, name: &str, target: &Target, ids: Option<&[u32]>) -> Result<()> {
        if !self.tensors.contains_key(name) || self.take_same(name, target, ids)?.is_none() {
            return Ok(());
        }
        bail!(
            "{}: `{name}` is not the backbone's own, and these heads have none of their own. Give the backbone that they were trained above.",
            self.file
        )
    }

    /// Takes a table `[tokens, d]`. Returns it, or none if it has the rows `ids` of the backbone's unembedding, or all of them.
    ///
    /// # Errors
    /// Returns an error if it has another shape.
    pub fn take_same(&mut self, name: &str, target: &Target, ids: Option<&[u32]>) -> Result<Option<Values>> {
        let (shape, numbers) = self.take_floats(name)?;
        let [rows, d] = [ids.map_or(target.shape.vocab_size, <[u32]>::len), target.shape.hidden_size];
        if shape != [rows, d] {
            bail!(
                "{}: `{name}` is {shape:?}, but the backbone and the draft vocabulary ask for [{rows}, {d}].",
                self.file
            );
        }
        let Some(backbone) = target.backbone else { return Ok(None) };
        let own = if name.starts_with("embed") { embeddings(backbone) } else { unembedding(backbone, ids) };
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= ROUNDING * a.abs().max(b.abs()) + f32::EPSILON;
        let same = numbers.iter().zip(&own).all(near);
        Ok((!same).then_some((shape, numbers)))
    }
}

/// Returns the embedding of the token that stands for what is not known yet; zeros where there is no backbone to ask.
///
/// # Errors
/// Returns an error if the backbone has no such token.
pub(super) fn mask_embedding(target: &Target, token: u32) -> Result<Vec<f32>> {
    if token as usize >= target.shape.vocab_size {
        bail!("config.json: `mask_token_id` is {token}, but the backbone has {} tokens.", target.shape.vocab_size);
    }
    let embedded = target.backbone.map(|backbone| to_host(backbone.model.embed(&[token])));
    Ok(embedded.unwrap_or_else(|| vec![0.0; target.shape.hidden_size]))
}

/// Returns the error of a format that holds heads of the kind `wanted` and no others.
pub(super) fn another_kind(wanted: &str, found: &HeadArchitecture) -> Error {
    Error::new(format!(
        "it holds heads of kind \"{wanted}\", and these are of kind \"{}\": their network is another.",
        found.kind().name()
    ))
}

/// Returns the rows `ids` of a backbone's unembedding, or all of them.
pub(super) fn unembedding(backbone: &Backbone, ids: Option<&[u32]>) -> Vec<f32> {
    let model = &backbone.model;
    let d = model.config().hidden_size;
    let all = to_host(model.unembedding());
    ids.map_or(all.clone(), |ids| ids.iter().flat_map(|&id| all[id as usize * d..][..d].to_vec()).collect())
}

fn embeddings(backbone: &Backbone) -> Vec<f32> {
    let tokens: Vec<u32> = (0..backbone.model.config().vocab_size as u32).collect();
    to_host(backbone.model.embed(&tokens))
}

/// Returns the number of decoder layers below each feature.
///
/// # Errors
/// Returns an error for the normalised last state, which the formats do not know.
pub(super) fn named_layers(features: &[Feature]) -> Result<Vec<usize>> {
    let boundary = |feature: &Feature| match feature {
        Feature::Layer(layer) => Ok(*layer),
        Feature::Last => bail!(
            "these heads read `last`, the state after the backbone's final norm, and the format knows states before a norm only. Train them on `layer-N`."
        ),
    };
    features.iter().map(boundary).collect()
}

/// Returns a list of layers of the configuration, each as a feature after adding `more`.
pub(super) fn layers(value: &Value, key: &str, more: usize) -> Result<Vec<Feature>> {
    let number = |value: &Value| value.as_u64().map(|layer| Feature::Layer(layer as usize + more));
    let layers: Option<Vec<Feature>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    let layers = layers.ok_or_else(|| Error::new(format!("config.json: `{key}` is {value}, not a list of layers.")))?;
    if !layers.is_sorted_by(|a, b| a < b) {
        bail!("config.json: `{key}` is {value}; only layers in ascending order, each once, can be read.");
    }
    Ok(layers)
}
