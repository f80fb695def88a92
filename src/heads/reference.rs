//! Heads against what PyTorch computed from the papers' formulas (`tests/reference/drafters/`, made by its `make.py`): states and
//! gradients of a training step.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use super::network::{Context, Starts};
use super::{BiasConfig, BiasedHeads, DraftHeads, HeadArchitecture, HeadKind, HeadShape};
use crate::backbone::{Feature, FeatureTensors, LanguageModelConfig, Model, ModelConfig, Transformer};
use crate::nn::{
    Init, Tokens, Values, collect_parameters, from_host, gradients_by_name, indices, load_parameters, to_host,
};
use crate::training::gradient;

/// What a file holds.
#[derive(Deserialize)]
struct Vectors {
    architecture: HeadArchitecture,
    bias: Option<BiasConfig>,
    backbone: LanguageModelConfig,
    /// The backbone's parameters that heads read, by name.
    #[serde(default)]
    frozen: BTreeMap<String, Values>,
    vocabulary: usize,
    /// The number of heads, and that of states, if heads predict more than their own slots.
    heads: usize,
    asked: Option<usize>,
    parameters: BTreeMap<String, Parameter>,
    states: BTreeMap<Feature, Vec<f32>>,
    embeddings: Vec<f32>,
    tokens: Vec<u32>,
    /// The places of the last tokens before the blocks.
    before: Vec<usize>,
    /// What the states are multiplied by, and the states: `[blocks, states, their width]`.
    coefficients: Vec<f32>,
    expected: Vec<f32>,
}

#[derive(Deserialize)]
struct Parameter {
    shape: Vec<usize>,
    values: Vec<f32>,
    gradient: Vec<f32>,
}

/// Asserts that numbers agree, in relation to the largest one.
fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest > 0.0 && far <= 2e-5 * largest, "{what}: {far} of {largest}");
}

fn check<K: HeadKind>(kind: &K, vectors: &Vectors, name: &str) {
    let config = ModelConfig::from_scratch(&vectors.backbone, vectors.vocabulary);
    // Of the backbone itself, heads read the embedding, which is its unembedding, and what makes keys and values.
    let backbone = Transformer::new(&config, &mut Init::empty(&Device::flex()));
    let mut values = collect_parameters(&backbone);
    values.get_mut("model.embed_tokens.weight").unwrap().1.clone_from(&vectors.embeddings);
    values.extend(vectors.frozen.clone());
    let model = Model::in_tensors(load_parameters(backbone, values).unwrap());
    let init = &mut Init::empty(&Device::flex().autodiff());
    let heads = kind.network(HeadShape::new(vectors.heads, &model), init);
    match vectors.bias {
        None => check_network(heads, &model, vectors, name),
        Some(bias) => {
            check_network(
                BiasedHeads::new(heads, bias, (model.config(), vectors.vocabulary), init),
                &model,
                vectors,
                name,
            );
        }
    }
}

fn check_network<N: DraftHeads + Module>(heads: N, model: &Model, vectors: &Vectors, name: &str) {
    let (device, d) = (Device::flex(), vectors.backbone.hidden);
    let tensor = |values: &[f32]| from_host::<2>(values.to_vec(), [values.len() / d, d], &device);

    let values = |parameter: &Parameter| -> Values { (parameter.shape.clone(), parameter.values.clone()) };
    let given = vectors.parameters.iter().map(|(name, parameter)| (name.clone(), values(parameter)));
    // What makes logits of the states stays as it is.
    let given: BTreeMap<String, Values> = collect_parameters(&heads).into_iter().chain(given).collect();
    let heads = load_parameters(heads, given).unwrap();

    let features = heads.features();
    let all = FeatureTensors::new(&features, features.iter().map(|feature| tensor(&vectors.states[feature])).collect());
    let embeddings = tensor(&vectors.embeddings);
    let drafted = |slot: usize| {
        let tokens: Vec<u32> = vectors.before.iter().map(|before| vectors.tokens[before + 1 + slot]).collect();
        let rows = indices(tokens.iter().map(|&token| token as usize), &device);
        Tokens::new(&tokens, embeddings.clone().select(0, rows)).autodiff()
    };
    let tokens = all.get(features[0]).dims()[0];
    let mut cache = heads.cache(1, tokens);
    if let Some(cache) = &mut cache {
        heads.read(model, cache, &[tokens], &all);
    }
    let places = vectors.before.iter().map(|&before| (0, before)).collect();
    let context = cache.as_mut().map(|cache| Context { cache, places, texts: Some(&all) });
    let rows = indices(vectors.before.iter().copied(), &device);
    let states = all.map(|state| state.select(0, rows.clone()).autodiff());
    let mut learning = heads.learn(Starts { model, states, pinned: drafted(0), context }, &drafted);

    let asked = vectors.asked.unwrap_or(vectors.heads);
    let width = vectors.expected.len() / (vectors.before.len() * asked);
    let shape = [vectors.before.len(), asked, width];
    let coefficients: Tensor<3> = from_host(vectors.coefficients.clone(), shape, &device);
    let states: Vec<Tensor<2>> = (0..asked).map(|head| learning.state(head)).collect();
    assert_near(&to_host(Tensor::stack::<3>(states, 1)), &vectors.expected, &format!("{name}: states"));
    let of_head = |head| coefficients.clone().narrow(1, head, 1).reshape([shape[0], width]);
    let (objective, known) = learning.back((0..asked).map(|head| (head, of_head(head))).collect());
    let gradients = gradient(&heads, objective, known);
    let found = gradients_by_name(&heads, &gradients);
    for (parameter, Parameter { gradient, .. }) in &vectors.parameters {
        assert_near(&found[parameter], gradient, &format!("{name}: gradient of {parameter}"));
    }
}

#[test]
fn heads_are_what_the_papers_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/drafters");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut checked = 0;
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let vectors: Vectors = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy();
        match &vectors.architecture {
            HeadArchitecture::Dflash(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Speculator(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Eagle1(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Eagle3(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Mtp(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Hydra(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Redrafter(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Chimera(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Glide(kind) => check(kind, &vectors, &name),
            HeadArchitecture::Lava(kind) => check(kind, &vectors, &name),
            other => panic!("{other:?}: add the kind here"),
        }
        checked += 1;
    }
    assert_eq!(checked, 18);
}
