//! Parameters by name: to and from safetensors, every tensor used or the load fails.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::to_host;
use crate::config::StorageType;
use crate::error::{Error, Result, bail};
use crate::files;

/// Shape and numbers of one parameter.
pub type Values = (Vec<usize>, Vec<f32>);

/// Every parameter of a model by its path, read back to this process.
pub fn collect_parameters<M: Module>(model: &M) -> BTreeMap<String, Values> {
    let mut collector = Collector::default();
    model.visit(&mut collector);
    collector.found
}

/// Number of scalars in a model.
pub fn count_parameters<M: Module>(model: &M) -> usize {
    model.num_params()
}

#[derive(Default)]
struct Collector {
    path: Vec<String>,
    found: BTreeMap<String, Values>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        self.found.insert(self.path.join("."), (value.dims().to_vec(), to_host(value)));
    }
}

/// Replaces every parameter of `model` by the value of its path.
///
/// # Errors
/// A parameter without a value, a value of another shape, a value that no parameter takes: the error names it.
pub fn load_parameters<M: Module>(model: M, values: BTreeMap<String, Values>) -> Result<M> {
    let mut loader = Loader { path: Vec::new(), values, problem: None };
    let model = model.map(&mut loader);
    if let Some(problem) = loader.problem {
        return Err(Error::new(problem));
    }
    if let Some(name) = loader.values.keys().next() {
        bail!(
            "the tensor `{name}` has no place in a model of this configuration; the weights and the configuration do not belong together."
        );
    }
    Ok(model)
}

struct Loader {
    path: Vec<String>,
    values: BTreeMap<String, Values>,
    problem: Option<String>,
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let expected = param.val().dims();
        match self.values.remove(&name) {
            None => {
                self.problem.get_or_insert(format!("the tensor `{name}` is missing."));
                param
            }
            Some((shape, _)) if shape != expected => {
                self.problem.get_or_insert(format!(
                    "the tensor `{name}` has shape {shape:?}, but the configuration asks for {expected:?}."
                ));
                param
            }
            Some((shape, numbers)) => param.map(|old| {
                let new = Tensor::from_data(TensorData::new(numbers, shape), &old.device());
                new.set_require_grad(old.is_require_grad())
            }),
        }
    }
}

/// Reads a safetensors file of float32, float16 or bfloat16 tensors as float32.
pub fn parameters_from_safetensors(path: &Path) -> Result<BTreeMap<String, Values>> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    // SAFETY: the map is read once, now; a file changed under a reader is outside what any reader can promise.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("read", path, e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| {
        Error::new(format!(
            "{}: not a whole safetensors file ({e}). It may be truncated: compare its size with the original ({} bytes here) and copy it again.",
            path.display(),
            bytes.len()
        ))
    })?;
    tensors.tensors().into_iter().map(|(name, view)| Ok((name.clone(), numbers(&name, &view, path)?))).collect()
}

fn numbers(name: &str, view: &TensorView, path: &Path) -> Result<Values> {
    let data = view.data();
    let numbers = match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => bail!(
            "{}: the tensor `{name}` is of type {other:?}; float32, float16 and bfloat16 are supported.",
            path.display()
        ),
    };
    Ok((view.shape().to_vec(), numbers))
}

/// Writes parameters as a safetensors file, sorted by name, in one type.
pub fn parameters_to_safetensors(path: &Path, values: &BTreeMap<String, Values>, storage: StorageType) -> Result<()> {
    let encoded: Vec<(&String, &Vec<usize>, Vec<u8>)> = values
        .iter()
        .map(|(name, (shape, numbers))| {
            let bytes = match storage {
                StorageType::Float32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
                StorageType::Float16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
                StorageType::Bfloat16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let dtype = match storage {
        StorageType::Float32 => Dtype::F32,
        StorageType::Float16 => Dtype::F16,
        StorageType::Bfloat16 => Dtype::BF16,
    };
    let views = encoded.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, (*shape).clone(), bytes).expect("bytes match the shape");
        ((*name).clone(), view)
    });
    // Other readers of this format look for the framework's name.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|e| Error::new(format!("cannot write {}: {e}.", path.display())))?;
    files::write_atomic(path, &bytes)
}
