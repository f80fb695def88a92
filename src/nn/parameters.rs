//! The parameters of a model by name. Loading fails unless every value is used.

use std::collections::BTreeMap;

use super::to_host;
use crate::error::{Error, Result, bail};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// The shape and the numbers of one parameter.
pub type Values = (Vec<usize>, Vec<f32>);

/// A function that returns the numbers of a parameter, given its path and shape.
pub type ReadParameter<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Returns every parameter of a model by its path, read back to this process.
pub fn collect_parameters<M: Module>(model: &M) -> BTreeMap<String, Values> {
    let mut found = BTreeMap::new();
    visit_parameters(model, &mut |name, shape, numbers| drop(found.insert(name, (shape, numbers))));
    found
}

/// Returns the gradients of a model's parameters by their paths, read back to this process; empty where a parameter has none.
#[cfg(test)]
pub(crate) fn gradients_by_name<M: Module>(
    model: &M,
    gradients: &burn::optim::GradientsParams,
) -> BTreeMap<String, Vec<f32>> {
    struct Collect<'a> {
        gradients: &'a burn::optim::GradientsParams,
        path: ParameterPath,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.path.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id).map_or_else(Vec::new, to_host);
            self.found.insert(self.path.name(), gradient);
        }
    }
    let mut collect = Collect { gradients, path: ParameterPath::default(), found: BTreeMap::new() };
    model.visit(&mut collect);
    collect.found
}

/// Returns the number of scalars in a model.
pub fn count_parameters<M: Module>(model: &M) -> usize {
    model.num_params()
}

/// The path of a walk through a model's modules. An enum of models adds no part to it, so a parameter's name does not
/// say which variant of the enum its model is.
#[derive(Default)]
pub struct ParameterPath(Vec<String>);

impl ParameterPath {
    /// Enters a module; to be called by `enter_module`, with its arguments.
    pub fn enter(&mut self, name: &str, container: &str) {
        if !is_family(container) {
            self.0.push(name.to_owned());
        }
    }

    /// Leaves a module; to be called by `exit_module`, with its `container`.
    pub fn exit(&mut self, container: &str) {
        if !is_family(container) {
            self.0.pop();
        }
    }

    /// Returns the name of the current parameter: fields and indices, joined by dots.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Returns whether a container is an enum of models, as burn's derive of `Module` reports it.
fn is_family(container: &str) -> bool {
    container.starts_with("Enum:")
}

/// Calls `read` with the path and the numbers of every parameter, read back to this process one by one.
pub fn for_each_parameter<M: Module>(model: &M, mut read: impl FnMut(&str, &[f32])) {
    visit_parameters(model, &mut |name, _, numbers| read(&name, &numbers));
}

/// A function that is called with the path, the shape and the numbers of a parameter.
type Visit<'a> = dyn FnMut(String, Vec<usize>, Vec<f32>) + 'a;

fn visit_parameters<M: Module>(model: &M, visit: &mut Visit) {
    model.visit(&mut Visitor { path: ParameterPath::default(), visit });
}

struct Visitor<'a> {
    path: ParameterPath,
    visit: &'a mut Visit<'a>,
}

impl ModuleVisitor for Visitor<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().without_autodiff();
        (self.visit)(self.path.name(), value.dims().to_vec(), to_host(value));
    }
}

/// Replaces every parameter of `model` by the value with its path.
///
/// # Errors
/// When a parameter has no value or one of another shape, or a value belongs to no parameter. The error names the
/// parameter.
pub fn load_parameters<M: Module>(model: M, mut values: BTreeMap<String, Values>) -> Result<M> {
    let model = read_parameters(model, DType::F32, &mut |name, expected| match values.remove(name) {
        None => bail!("the tensor `{name}` is missing."),
        Some((shape, _)) if shape != expected => {
            bail!("the tensor `{name}` has shape {shape:?}, but the configuration asks for {expected:?}.")
        }
        Some((_, numbers)) => Ok(numbers),
    })?;
    if let Some(name) = values.keys().next() {
        bail!(
            "the tensor `{name}` has no place in a model of this configuration; the weights and the configuration do not belong together."
        );
    }
    Ok(model)
}

/// Replaces every parameter of `model` by the numbers that `read` returns for its path and shape, stored as `dtype`.
///
/// # Errors
/// The first error that `read` returns.
pub fn read_parameters<M: Module>(model: M, dtype: DType, read: &mut ReadParameter) -> Result<M> {
    let mut loader = Loader { path: ParameterPath::default(), dtype, read, problem: None };
    let model = model.map(&mut loader);
    loader.problem.map_or(Ok(model), Err)
}

struct Loader<'a> {
    path: ParameterPath,
    dtype: DType,
    read: &'a mut ReadParameter<'a>,
    problem: Option<Error>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.problem.is_some() {
            return param;
        }
        let shape = param.val().dims();
        match (self.read)(&self.path.name(), &shape) {
            Ok(numbers) => param.map(|old| {
                let new = Tensor::from_data(TensorData::new(numbers, shape), (&old.device(), self.dtype));
                new.set_require_grad(old.is_require_grad())
            }),
            Err(problem) => {
                self.problem = Some(problem);
                param
            }
        }
    }
}
