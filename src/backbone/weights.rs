//! The tensors of a checkpoint: one safetensors file, or several with an index. They are read one by one, so that a
//! large model is never in memory twice. Loading fails unless every tensor is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::architectures::{Architecture, StoredParameter};
use super::model_config::ModelConfig;
use super::sketch::ValueSketch;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::nn::{SafetensorsFile, Values};
use crate::storage_type::StorageType;

/// An open checkpoint.
pub(super) struct Weights {
    files: Vec<SafetensorsFile>,
    /// The index of the file that holds each tensor.
    tensors: BTreeMap<String, usize>,
    used: BTreeSet<String>,
    /// The file or folder, for messages.
    origin: String,
}

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Returns the files with the weights of `folder`, sorted: the only one, or those that the index names.
///
/// # Errors
/// When there are no weights, they are in another format, or the index is broken.
pub(super) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let path = folder.join(INDEX);
    if !path.exists() {
        let other = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];
        let advice = match other.into_iter().find(|name| folder.join(name).exists()) {
            Some(name) => format!(
                "There is {name}; convert it to safetensors, for instance with save_pretrained(..., safe_serialization=True)."
            ),
            None => "Copy the weights there.".to_owned(),
        };
        bail!("{} is missing, and so is {INDEX}. {advice}", single.display());
    }
    let index: Map<String, Value> = files::read_json(&path)?;
    let names: Option<BTreeSet<&str>> =
        index.get("weight_map").and_then(Value::as_object).and_then(|map| map.values().map(Value::as_str).collect());
    match names {
        // A name with a folder in it would read files outside the checkpoint.
        Some(names) if !names.is_empty() && names.iter().all(|n| Path::new(n).components().count() == 1) => {
            Ok(names.into_iter().map(|name| folder.join(name)).collect())
        }
        _ => bail!("{}: `weight_map` must give the file of every tensor.", path.display()),
    }
}

impl Weights {
    /// Opens the weights of `folder`.
    ///
    /// # Errors
    /// When a file is missing or broken, or a tensor is in two of them.
    pub fn open(folder: &Path) -> Result<Self> {
        let paths = weight_files(folder)?;
        let mut weights = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            used: BTreeSet::new(),
            origin: folder.display().to_string(),
        };
        for path in &paths {
            let file = SafetensorsFile::open(path)?;
            for name in file.names() {
                if weights.tensors.insert(name.clone(), weights.files.len()).is_some() {
                    bail!("{}: the tensor `{name}` is in two files of the checkpoint.", path.display());
                }
            }
            weights.files.push(file);
        }
        if let [only] = &paths[..] {
            weights.origin = only.display().to_string();
        }
        Ok(weights)
    }

    /// Returns the file or folder, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the name, type and shape of every tensor, sorted by name.
    pub fn describe(&self) -> Vec<(String, String, Vec<usize>)> {
        let describe = |(name, &file): (&String, &usize)| {
            let info = self.files[file].info(name).expect("it was listed");
            (name.clone(), format!("{:?}", info.dtype), info.shape.clone())
        };
        self.tensors.iter().map(describe).collect()
    }

    /// What the values of all tensors are, in a few numbers; `storage` is the type of the matrices.
    ///
    /// # Errors
    /// A tensor of another type than those that are read.
    pub fn sketch(&self, storage: StorageType) -> Result<ValueSketch> {
        let mut sketch = ValueSketch::new(storage);
        for (name, &file) in &self.tensors {
            let (shape, numbers) = self.files[file].read(name)?;
            sketch.add(name, shape, &numbers);
        }
        Ok(sketch)
    }

    /// Shape and numbers of a parameter.
    ///
    /// # Errors
    /// When the tensor is missing, or too small for the part that is asked for.
    pub fn read(&mut self, architecture: &dyn Architecture, config: &ModelConfig, parameter: &str) -> Result<Values> {
        let StoredParameter { tensor, transposed, rows } = architecture.locate(config, parameter);
        // Some exporters leave out the outermost name.
        let bare = tensor.split_once('.').map_or("", |(_, bare)| bare);
        let Some((name, &file)) = self.tensors.get_key_value(&tensor).or_else(|| self.tensors.get_key_value(bare))
        else {
            bail!("the tensor `{tensor}` is missing.");
        };
        self.used.insert(name.clone());
        let (mut shape, mut numbers) = self.files[file].read(name)?;
        // Without numbers, a dimension may be any.
        if let ([inputs, outputs], true, false) = (&shape[..], transposed, numbers.is_empty()) {
            let (inputs, outputs) = (*inputs, *outputs);
            let indices = (0..outputs).flat_map(|o| (0..inputs).map(move |i| (i, o)));
            numbers = indices.map(|(i, o)| numbers[i * outputs + o]).collect();
            shape = vec![outputs, inputs];
        }
        if rows.is_empty() {
            return Ok((shape, numbers));
        }
        let Some((height, width)) = shape.split_first() else {
            bail!("the tensor `{name}` is a single number, but the configuration asks for rows.");
        };
        let place = |row: usize| width.iter().try_fold(row, |place, &size| place.checked_mul(size));
        let mut part = Vec::new();
        for range in &rows {
            let places = place(range.start).zip(place(range.end));
            match places.and_then(|(start, end)| numbers.get(start..end)) {
                Some(rows) => part.extend_from_slice(rows),
                None => bail!(
                    "the tensor `{name}` has {height} rows, but the configuration asks for row {}.",
                    range.end - 1
                ),
            }
        }
        shape[0] = rows.iter().map(|range| range.len()).sum();
        Ok((shape, part))
    }

    /// Fails if a tensor was not read.
    pub fn finish(&self, architecture: &dyn Architecture, config: &ModelConfig) -> Result<()> {
        let unembedding = architecture.locate(config, "lm_head.weight").tensor;
        let unused = |name: &&String| {
            // Some exporters write a tied unembedding a second time.
            let twice = config.tie_word_embeddings && **name == unembedding;
            !self.used.contains(*name) && !architecture.is_derived(name) && !twice
        };
        match self.tensors.keys().find(unused) {
            None => Ok(()),
            Some(name) => Err(Error::new(format!(
                "{}: the tensor `{name}` has no place in a model of this configuration; the weights and the configuration do not belong together.",
                self.origin
            ))),
        }
    }
}
