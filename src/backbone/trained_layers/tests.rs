//! The gradients are those of automatic differentiation through the tensor network, or else of finite differences.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};

use super::*;
use crate::backbone::columns::Columns;
use crate::backbone::departures::Departures;
use crate::backbone::host_layers::Reader;
use crate::backbone::model_config::ModelConfig;
use crate::backbone::{
    Biases, Feature, LanguageModelConfig, NormKind, Positions, RopeScaling, Rotary, Span, Transformer,
};
use crate::kernels::Activation;
use crate::nn::{Init, ParameterPath, Values, collect_parameters, from_host, load_parameters, to_host};
use crate::storage_type::StorageType;

/// Two texts. Rows of the first are a chain of three, branches behind its end and a branch behind its second row; those of
/// the second two chains from its beginning.
const AFTER: [&[Option<usize>]; 2] = [
    &[None, Some(0), Some(1), Some(2), Some(2), Some(1), Some(3), Some(4), Some(6), Some(5)],
    &[None, Some(0), None, Some(1), Some(2)],
];

/// Where the rows of the two texts are cut into levels; one level has no row of the second text.
const CUTS: [&[usize]; 2] = [&[0, 3, 6, 8, 10], &[0, 2, 4, 4, 5]];

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729 + 31) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// A small shape, in two layers, of the plainest family.
fn plain() -> ModelConfig {
    let size = LanguageModelConfig { hidden: 20, heads: 4, kv_heads: 2, layers: 2, intermediate: 36, context: 16 };
    ModelConfig { head_dim: 6, ..ModelConfig::from_scratch(&size, 40) }
}

/// The other choices that a family may make.
fn families() -> Vec<(&'static str, ModelConfig)> {
    let rotary = |width| Positions::Rotary(Rotary { theta: 100.0, width, scaling: RopeScaling::None });
    let plain = ModelConfig { positions: rotary(6), ..plain() };
    let biases = Biases { query_key_value: true, attention_output: true, mlp: true };
    vec![
        ("plain", plain.clone()),
        ("norms of queries and keys", ModelConfig { query_key_norm: true, num_key_value_heads: 1, ..plain.clone() }),
        (
            "layer norm, biases, no gate",
            ModelConfig {
                norm: NormKind::Layer,
                biases,
                gated: false,
                activation: Activation::Gelu,
                positions: Positions::Learned,
                ..plain.clone()
            },
        ),
        (
            "parallel residual, part of a head rotated",
            ModelConfig {
                norm: NormKind::Layer,
                parallel_residual: true,
                positions: rotary(4),
                activation: Activation::GeluTanh,
                ..plain.clone()
            },
        ),
        ("a window", ModelConfig { windows: vec![Some(2), None], head_dim: 40, positions: rotary(40), ..plain }),
    ]
}

/// Parameters of the whole model with nothing at 0 or 1.
fn parameters(model: &Transformer) -> BTreeMap<String, Values> {
    let mut parameters = collect_parameters(model);
    for (seed, (name, (shape, values))) in parameters.iter_mut().enumerate() {
        let (width, offset) = (*shape.last().unwrap() as f32, if name.ends_with("norm.weight") { 1.0 } else { 0.0 });
        let scale = if shape.len() == 2 && !name.contains("embed") { 1.5 / width.sqrt() } else { 0.5 };
        *values = numbers(values.len(), seed).iter().map(|x| offset + scale * x).collect();
    }
    parameters
}

/// The layers from number `first` on.
fn layers(config: &ModelConfig, first: usize, parameters: &BTreeMap<String, Values>) -> TrainedLayers {
    let mut read = |name: &str, shape: &[usize]| {
        let (stored, values) = &parameters[name];
        assert_eq!(stored, shape);
        Ok(values.clone())
    };
    let mut reader =
        Reader { read: &mut read, config, storage: StorageType::Float32, departures: Departures::default() };
    let range = first..config.num_hidden_layers;
    TrainedLayers::new(reader.layers(range, |index| format!("model.layers.{index}")).unwrap())
}

/// The gradients of a model's parameters by name.
struct Found<'a>(ParameterPath, &'a Gradients, BTreeMap<String, Vec<f32>>);

impl ModuleVisitor for Found<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.0.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.1) {
            self.2.insert(self.0.name(), to_host(gradient));
        }
    }
}

fn caches(config: &ModelConfig, columns: usize) -> Vec<Vec<LayerCache>> {
    let cache = || LayerCache::new(config.num_key_value_heads, config.head_dim, columns);
    (0..2).map(|_| (0..config.num_hidden_layers).map(|_| cache()).collect()).collect()
}

fn column_gradients(caches: &[Vec<LayerCache>], columns: [Range<usize>; 2]) -> Vec<Vec<ColumnGradients>> {
    let text = |(caches, columns): (&Vec<LayerCache>, Range<usize>)| {
        caches.iter().map(|cache| ColumnGradients::new(cache, columns.clone())).collect()
    };
    caches.iter().zip(columns).map(text).collect()
}

/// The rows of level `level` in `all`, rows of width `width` of both texts one after the other.
fn of_level(all: &[f32], width: usize, level: usize) -> Vec<f32> {
    let text = |text: usize| {
        let before = if text == 0 { 0 } else { AFTER[0].len() };
        &all[(before + CUTS[text][level]) * width..(before + CUTS[text][level + 1]) * width]
    };
    [text(0), text(1)].concat()
}

/// The places of all rows, level by level.
fn placed() -> Vec<Vec<Vec<CacheSlot>>> {
    let text = |text: usize| {
        let span = Span { tokens: &vec![0; AFTER[text].len()], after: Some(AFTER[text]) };
        Columns::default().place(&span)
    };
    let all = [text(0), text(1)];
    let cut = |text: usize, level: usize| all[text][CUTS[text][level]..CUTS[text][level + 1]].to_vec();
    (0..4).map(|level| vec![cut(0, level), cut(1, level)]).collect()
}

fn assert_near(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(largest > 1e-3, "{name}: a gradient to compare with");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * largest, "{name}, number {i}: {found}, not {expected}");
    }
}

#[test]
fn gradients_are_those_of_automatic_differentiation_in_every_family() {
    for (family, config) in families() {
        let device = Device::flex().autodiff();
        let model = Transformer::new(&config, &mut Init::seeded(1, &device));
        let parameters = parameters(&model);
        let model = load_parameters(model, parameters.clone()).unwrap();
        let (d, n) = (config.hidden_size, AFTER[0].len() + AFTER[1].len());
        // Every row has a token of its own, so that the gradient of its embedding is that of its entry.
        let tokens: Vec<u32> = (0..n as u32).collect();
        let spans = [(0, 0), (1, AFTER[0].len())]
            .map(|(text, first)| Span { tokens: &tokens[first..][..AFTER[text].len()], after: Some(AFTER[text]) });
        let asked = Feature::Layer(config.num_hidden_layers);
        let dy = numbers(n * d, 5);
        let expected = model.features(&spans, None, &[asked]).remove(0);
        let loss = (expected.clone() * from_host(dy.clone(), [n, d], &device)).sum();
        let gradients = loss.backward();
        let mut reference = Found(ParameterPath::default(), &gradients, BTreeMap::new());
        model.visit(&mut reference);
        let reference = reference.2;

        let mut x = parameters["model.embed_tokens.weight"].1[..n * d].to_vec();
        let placed = placed();
        if let Some((_, positions)) = parameters.get("model.embed_positions.weight") {
            let by_text = (0..2).flat_map(|text| placed.iter().flat_map(move |level| &level[text]));
            for (x, slot) in x.chunks_mut(d).zip(by_text) {
                x.iter_mut().zip(&positions[slot.position * d..]).for_each(|(x, p)| *x += p);
            }
        }
        let (trained, mut tape, mut caches) = (layers(&config, 0, &parameters), Tape::default(), caches(&config, 16));
        for step in 0..2 {
            for (level, placed) in placed.iter().enumerate() {
                let mut rows = of_level(&x, d, level);
                trained.forward((&mut rows, &[]), placed, &mut caches, &mut tape);
                let expected = of_level(&to_host(expected.clone()), d, level);
                assert_near(&format!("{family}: level {level}"), &rows, &expected, 1e-4);
            }
            let mut columns = column_gradients(&caches, [0..AFTER[0].len(), 0..AFTER[1].len()]);
            let of_entries = &reference["model.embed_tokens.weight"][..n * d];
            for level in (0..placed.len()).rev() {
                let mut rows = of_level(&dy, d, level);
                trained.backward(&mut rows, &caches, &mut columns, &mut tape);
                let name = format!("{family}, step {step}: entries of level {level}");
                assert_near(&name, &rows, &of_level(of_entries, d, level), 1e-4);
            }
            let found = trained.gradients(&mut tape);
            let expected = reference.iter().filter(|(name, _)| name.starts_with("model.layers."));
            let mut count = 0;
            for (name, expected) in expected {
                let short = name.strip_prefix("model.layers.").unwrap();
                // Softmax does not change with what all keys have in common, so the gradient of their bias is 0.
                if config.positions == Positions::Learned && short.ends_with("k_proj.bias") {
                    assert!(found[short].iter().all(|x| x.abs() < 1e-4), "{family}: {name}");
                } else {
                    assert_near(&format!("{family}, step {step}: {name}"), &found[short], expected, 1e-4);
                }
                count += 1;
            }
            assert_eq!(found.len(), count, "{family}");
        }
    }
}

#[test]
fn the_forward_is_that_of_inference_to_the_bit_and_threads_do_not_matter() {
    for (family, config) in families() {
        let device = Device::flex();
        let parameters = parameters(&Transformer::new(&config, &mut Init::seeded(1, &device)));
        let trained = layers(&config, 1, &parameters);
        let (d, n) = (config.hidden_size, AFTER[0].len() + AFTER[1].len());
        let (x, dy) = (numbers(n * d, 3), numbers(n * d, 5));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut tape, mut caches, mut all) = (Tape::default(), caches(&config, 16), Vec::new());
                let placed = placed();
                for (level, placed) in placed.iter().enumerate() {
                    let mut rows = of_level(&x, d, level);
                    trained.forward((&mut rows, &[]), placed, &mut caches, &mut tape);
                    all.push(rows);
                }
                let mut columns = column_gradients(&caches, [0..AFTER[0].len(), 0..AFTER[1].len()]);
                for level in (0..placed.len()).rev() {
                    let mut rows = of_level(&dy, d, level);
                    trained.backward(&mut rows, &caches, &mut columns, &mut tape);
                    all.push(rows);
                }
                all.extend(trained.gradients(&mut tape).into_values());
                all.extend(columns.iter().flatten().flat_map(|columns| columns.column(3)));
                all
            })
        };
        let (one, three) = (run(1), run(3));
        assert!(one == three, "{family}: the same bits on one thread and on three");

        let mut read = |name: &str, _: &[usize]| Ok(parameters[name].1.clone());
        let mut reader = Reader {
            read: &mut read,
            config: &config,
            storage: StorageType::Float32,
            departures: Departures::default(),
        };
        let inference = reader.layers(1..2, |index| format!("model.layers.{index}")).unwrap();
        let mut caches = caches(&config, 16);
        for (level, placed) in placed().iter().enumerate() {
            let mut rows = of_level(&x, d, level);
            inference.forward((&mut rows, &[]), placed, &mut caches, 1, |_, _, _| {});
            assert!(rows == one[level], "{family}: level {level}");
        }
    }
}

#[test]
fn the_gradient_of_a_context_is_that_of_finite_differences() {
    let config = ModelConfig { windows: vec![None, Some(5)], ..plain() };
    let parameters = parameters(&Transformer::new(&config, &mut Init::seeded(1, &Device::flex())));
    let trained = layers(&config, 0, &parameters);
    let (d, kv) = (config.hidden_size, config.num_key_value_heads * config.head_dim);
    // Contexts of six and four columns, and two levels: two rows each behind the context or a part of it, and one behind
    // one of them.
    let contexts = [6, 4];
    let levels: Vec<Vec<Vec<CacheSlot>>> = {
        let after: [&[Option<usize>]; 2] = [&[Some(5), Some(2), Some(7)], &[Some(3), Some(0), Some(4)]];
        let text = |text: usize| {
            let mut columns = Columns::default();
            columns.place(&Span::chain(&vec![0; contexts[text]]));
            columns.place(&Span { tokens: &[0; 3], after: Some(after[text]) })
        };
        let [one, two] = [text(0), text(1)];
        vec![vec![one[..2].to_vec(), two[..2].to_vec()], vec![one[2..].to_vec(), two[2..].to_vec()]]
    };
    let (x, dy) = ([numbers(4 * d, 3), numbers(2 * d, 4)], [numbers(4 * d, 5), numbers(2 * d, 6)]);
    // Keys and values by text, layer and column.
    let place = |text: usize, layer: usize, column: usize| 2 * kv * (layer * 10 + text * 6 + column);
    let context = numbers(2 * kv * 20, 7);
    let run = |context: &[f32], tape: &mut Tape| {
        let (mut caches, mut loss) = (caches(&config, 16), 0.0);
        for (text, layer) in (0..2).flat_map(|text| (0..2).map(move |layer| (text, layer))) {
            for column in 0..contexts[text] {
                let numbers = &context[place(text, layer, column)..][..2 * kv];
                caches[text][layer].write(column, &numbers[..kv], &numbers[kv..]);
            }
        }
        for ((placed, x), dy) in levels.iter().zip(&x).zip(&dy) {
            let mut x = x.clone();
            trained.forward((&mut x, &[]), placed, &mut caches, tape);
            loss += x.iter().zip(dy).map(|(x, dy)| f64::from(*x) * f64::from(*dy)).sum::<f64>();
        }
        (caches, loss)
    };
    let back = |columns: [Range<usize>; 2]| {
        let mut tape = Tape::default();
        let (caches, _) = run(&context, &mut tape);
        let (mut gradients, mut entries) = (column_gradients(&caches, columns), Vec::new());
        for dy in dy.iter().rev() {
            let mut dx = dy.clone();
            trained.backward(&mut dx, &caches, &mut gradients, &mut tape);
            entries.push(dx);
        }
        (gradients, entries, trained.gradients(&mut tape))
    };
    let (gradients, entries, of_parameters) = back([0..9, 0..7]);
    let mut found = vec![0.0; context.len()];
    for (text, layer) in (0..2).flat_map(|text| (0..2).map(move |layer| (text, layer))) {
        for column in 0..contexts[text] {
            let of_column = gradients[text][layer].column(column).concat();
            found[place(text, layer, column)..][..2 * kv].copy_from_slice(&of_column);
        }
    }
    let step = 1e-2;
    let differences: Vec<f32> = (0..context.len())
        .map(|i| {
            let moved = |by: f32| {
                let mut context = context.clone();
                context[i] += by;
                run(&context, &mut Tape::default()).1
            };
            ((moved(step) - moved(-step)) / (2.0 * f64::from(step))) as f32
        })
        .collect();
    assert_near("context", &found, &differences, 2e-3);
    // A context that is not trained changes nothing else.
    let frozen = back([6..9, 4..7]);
    assert!(frozen.1 == entries && frozen.2 == of_parameters);
}
