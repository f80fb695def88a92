use std::fmt::Debug;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, TensorData};

use super::*;
use crate::backbone::{BlockRows, ConvolutionConfig, LanguageModelConfig, Span, Transformer};
use crate::heads::{BlockStarts, FrozenHeads, Growth, HeadArchitecture, HydraConfig, Wanted};
use crate::nn::{ParameterPath, collect_parameters, indices, to_host};
use crate::training::gradient;

const VOCABULARY: usize = 11;
const LAYERS: usize = 3;
const TEXT: [u32; 12] = [3, 7, 1, 10, 0, 5, 5, 2, 8, 6, 4, 9];

fn backbone() -> ModelConfig {
    let size = LanguageModelConfig { hidden: 8, layers: LAYERS, heads: 2, kv_heads: 1, intermediate: 10, context: 64 };
    ModelConfig { query_key_norm: true, ..ModelConfig::from_scratch(&size, VOCABULARY) }
}

fn transformer() -> Transformer {
    Transformer::new(&backbone(), &mut Init::seeded(4, &Device::flex()))
}

/// The same model on both engines: packed, and in tensors.
fn models() -> [Model; 2] {
    [Model::freeze(&transformer(), StorageType::Float32).unwrap(), Model::in_tensors(transformer())]
}

/// Runs a check on every kind of heads that attend.
macro_rules! of_every_kind {
    ($check:expr) => {
        for kind in kinds() {
            match &kind {
                HeadArchitecture::Attention(kind) => $check(kind),
                HeadArchitecture::Dflash(kind) => $check(kind),
                HeadArchitecture::HiddenTransfer(kind) => $check(kind),
                HeadArchitecture::Eagle1(kind) => $check(kind),
                HeadArchitecture::Eagle3(kind) => $check(kind),
                HeadArchitecture::Mtp(kind) => $check(kind),
                HeadArchitecture::Hydra(kind) => $check(kind),
                HeadArchitecture::Chimera(kind) => $check(kind),
                HeadArchitecture::Glide(kind) => $check(kind),
                other => panic!("{other:?}: add the kind here"),
            }
        }
    };
}

fn kinds() -> Vec<HeadArchitecture> {
    let features = vec![Feature::Layer(1), Feature::Last];
    let mut kinds = Vec::new();
    for rows in [RowOrder::Sequential, RowOrder::Parallel] {
        let input = vec![Feature::Layer(1), Feature::Layer(0), Feature::Last];
        let input = if rows == RowOrder::Sequential { input } else { Vec::new() };
        kinds.push(AttentionConfig { rows, layers: 2, input, ..AttentionConfig::default() });
        let context = AttentionContext::Features(features.clone());
        kinds.push(AttentionConfig { rows, layers: 2, context, ..AttentionConfig::default() });
    }
    let plain = DflashConfig { context: features, ..DflashConfig::default() };
    let (causal, sliding_window) = (true, Some(3));
    let windowed = DflashConfig { causal, sliding_window, anchor_predicts: true, warm_start: true, ..plain.clone() };
    let scaled = DflashConfig { layers: 4, scale_features: true, mask_token: Some(6), ..plain.clone() };
    let convolution = Some(ConvolutionConfig { kernel: 2, group: 4 });
    let convolved = DflashConfig { convolution, anchor_predicts: true, ..plain.clone() };
    let kinds = kinds.into_iter().map(HeadArchitecture::Attention);
    let transfer = |spread| HeadArchitecture::HiddenTransfer(HiddenTransferConfig { layer: Some(1), spread });
    let of_eagle = |parallel, warm_start, mask_token| {
        let input = vec![Feature::Layer(1), Feature::Layer(2)];
        let norm_before_residual = parallel;
        let kind =
            Eagle3Config { input, norm_before_residual, parallel, warm_start, mask_token, ..Eagle3Config::default() };
        HeadArchitecture::Eagle3(kind)
    };
    let joined = [
        HeadArchitecture::Eagle1(Eagle1Config { bias: true }),
        of_eagle(false, false, None),
        of_eagle(false, true, None),
        of_eagle(true, false, None),
        of_eagle(true, false, Some(6)),
        HeadArchitecture::Mtp(MtpConfig::default()),
    ];
    let hydra = |warm_start| {
        let prefix_layer = Some(PrefixLayerConfig { warm_start, ..PrefixLayerConfig::default() });
        HeadArchitecture::Hydra(HydraConfig { repeats: 2, prefix_layer, ..HydraConfig::default() })
    };
    let dflash = [plain, windowed, scaled, convolved].map(HeadArchitecture::Dflash);
    let kinds = kinds.chain(dflash).chain([false, true].map(transfer)).chain(joined);
    let chimera = HeadArchitecture::Chimera(ChimeraConfig::default());
    let glide = [None, Some(1)].map(|layer| HeadArchitecture::Glide(GlideConfig { layer }));
    kinds.chain([false, true].map(hydra)).chain([chimera]).chain(glide).collect()
}

/// Adds to every number a little that depends on its place, and casts.
struct Shake(usize, DType);

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| {
            let shape = old.dims();
            let size: usize = shape.iter().product();
            let values: Vec<f64> = (self.0..self.0 + size).map(|i| 0.1 * (i as f64 * 0.7).sin()).collect();
            self.0 += size;
            let device = old.device().without_autodiff();
            let shift: Tensor<D> = Tensor::from_data(TensorData::new(values, shape), (&device, DType::F64));
            let new = (old.clone().without_autodiff().cast(DType::F64) + shift).cast(self.1);
            if old.is_require_grad() { new.autodiff().require_grad() } else { new }
        })
    }
}

/// Heads 2 to 4 whose numbers are all off their beginnings.
fn heads<K: HeadKind>(kind: &K, model: &Model, device: &Device, dtype: DType) -> K::Network {
    let mut heads = kind.network(HeadShape::new(3, model), &mut Init::seeded(5, device));
    heads.warm_start(model).unwrap();
    heads.map(&mut Shake(0, dtype))
}

/// The states of all heads where blocks begin behind each of the tokens `ends` of some texts, whose states are given. The
/// drafted tokens are those of [`TEXT`], from the pinned one on.
fn states<N: DraftHeads + Module>(
    heads: &N,
    model: &Model,
    read: &FeatureTensors,
    counts: &[usize],
    places: &[(usize, usize)],
) -> Vec<Tensor<2>> {
    let mut cache = heads.cache(counts.len(), 4).unwrap();
    heads.read(model, &mut cache, counts, read);
    let learns = heads.devices().iter().any(Device::is_autodiff);
    let tensor = |tensor: Tensor<2>| if learns { tensor.autodiff() } else { tensor };
    let firsts: Vec<usize> = (0..counts.len()).map(|text| counts[..text].iter().sum()).collect();
    let rows = indices(places.iter().map(|&(text, row)| firsts[text] + row), model.device());
    let dtype = read.get(heads.features()[0]).dtype();
    let drafted = |slot: usize| {
        let tokens: Vec<u32> = places.iter().map(|place| TEXT[(place.1 + 1 + slot) % TEXT.len()]).collect();
        Tokens::new(&tokens, tensor(model.embed(&tokens).cast(dtype)))
    };
    let starts = Starts {
        model,
        states: read.map(|state| tensor(state.select(0, rows.clone()))),
        pinned: drafted(0),
        context: Some(Context::new(&mut cache, places.to_vec())),
    };
    (0..heads.count()).map(heads.begin(starts).chains(&drafted)).collect()
}

fn read(model: &Model, heads: &dyn DraftHeads, texts: &[&[u32]]) -> FeatureTensors {
    let spans: Vec<Span> = texts.iter().map(|text| Span::chain(text)).collect();
    let features = heads.features();
    FeatureTensors::new(&features, model.features(&spans, None, &features))
}

fn largest_difference(a: &[Tensor<2>], b: &[Tensor<2>]) -> f32 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| to_host(a.clone()).into_iter().zip(to_host(b.clone())));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Pseudo states that enter layer after layer are what one layer at a time makes of those that have entered.
#[test]
fn staggered_rows_enter_layer_by_layer() {
    let model = Model::freeze(&transformer(), StorageType::Float32).unwrap();
    let kind = HiddenTransferConfig { layer: Some(1), spread: true };
    let mut heads = heads(&kind, &model, &Device::flex(), DType::F32);
    heads.decoder = heads.decoder.clone().copied_from(&model).unwrap();
    let Entry::Transfer(entry) = &heads.entry else { panic!("pseudo states") };
    let made: Vec<Linear> = entry.state.clone();
    let (states_read, place) = (read(&model, &heads, &[&TEXT]), 4);
    let of = |layer: usize| states_read.get(Feature::Layer(layer));
    // Three rows enter layers 1, 1 and 2 of three.
    let entering = [1, 1, 2].map(|layer| of(layer).narrow(0, place, 1));
    let mut rows: Vec<Tensor<2>> = Vec::new();
    for layer in 1..LAYERS {
        for (row, state) in entering.iter().enumerate().skip(rows.len()) {
            if [1, 1, 2][row] == layer {
                rows.push(made[row].forward(state.clone()));
            }
        }
        let one = DecoderLayers::new(
            model.config(),
            layer..layer + 1,
            Departures::default(),
            &mut Init::seeded(1, model.device()),
        );
        let one = one.copied_from(&model).unwrap();
        let mut cache = one.cache(1, 20);
        model.remember(layer, &[of(layer)], &[TEXT.len()], &mut cache);
        let block = BlockRows { count: rows.len(), causal: true, in_place: false };
        let left = one.run(Tensor::cat(rows.clone(), 0), NewRows::Blocks(&[vec![place]], block), &mut cache);
        rows = (0..rows.len()).map(|row| left.clone().narrow(0, row, 1)).collect();
    }
    let expected: Vec<Tensor<2>> = rows.into_iter().map(|row| heads.states(&row, row.clone())).collect();
    let in_tensors = states(&heads, &model, &states_read, &[TEXT.len()], &[(0, place)]);
    heads.pack(StorageType::Float32);
    let packed = states(&heads, &model, &states_read, &[TEXT.len()], &[(0, place)]);
    assert!(largest_difference(&in_tensors, &expected) < 1e-4 && largest_difference(&packed, &expected) < 1e-4);
}

/// With all layers, and with rows that enter as the embeddings of the tokens, the heads are the backbone itself.
#[test]
fn rows_that_enter_as_tokens_are_the_backbones_own() {
    // Embeddings with a mean square of 1, so that scaling changes nothing.
    struct Scale(ParameterPath);
    impl ModuleMapper for Scale {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let embeds = self.0.name() == "model.embed_tokens.weight";
            param.map(|old| {
                let size = old.clone().square().mean_dim(D - 1).sqrt();
                if embeds { old / size } else { old }
            })
        }
    }
    let transformer = transformer().map(&mut Scale(ParameterPath::default()));
    let models = [Model::freeze(&transformer, StorageType::Float32).unwrap(), Model::in_tensors(transformer)];
    for (packed, model) in models.into_iter().enumerate() {
        let kind = AttentionConfig { layers: LAYERS, ..AttentionConfig::default() };
        let mut heads = kind.network(HeadShape::new(3, &model), &mut Init::seeded(5, &Device::flex()));
        heads.warm_start(&model).unwrap();
        let mut values = collect_parameters(&heads);
        let diagonal = |factor: f32| (0..64).map(|i| if i % 9 == 0 { factor } else { 0.0 }).collect::<Vec<f32>>();
        for (name, factor) in [("first_state", -1.0), ("first_token", 1.0), ("input", -1.0), ("token", 1.0)] {
            values.get_mut(&format!("entry.{name}.weight")).unwrap().1 = diagonal(factor);
        }
        let mut heads = load_parameters(heads, values).unwrap();
        if packed == 0 {
            heads.pack(StorageType::Float32);
        }
        // Blocks begin behind tokens 1, 4 and 7 of one text, and behind token 2 of another.
        let texts = [&TEXT[..8], &TEXT[..3]];
        let places = [(0, 1), (0, 4), (0, 7), (1, 2)];
        let found = states(&heads, &model, &read(&model, &heads, &texts), &[8, 3], &places);
        let expected = to_host(model.hidden(&[Span::chain(&TEXT)], None));
        for (head, found) in found.into_iter().enumerate() {
            for (found, place) in to_host(found).chunks(8).zip(places) {
                let expected = &expected[(place.1 + 1 + head) * 8..][..8];
                let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(difference < 1e-4, "model {packed}, head {head}, {place:?}: {difference}");
            }
        }
    }
}

fn packed_is_alike<K: HeadKind + Debug>(kind: &K) {
    let [packed_model, model] = models();
    let plain = heads(kind, &model, &Device::flex(), DType::F32);
    let mut packed = plain.clone();
    packed.pack(StorageType::Float32);
    let texts = [&TEXT[..9], &TEXT[..4]];
    let places = [(0, 2), (0, 5), (0, 8), (1, 0), (1, 3)];
    let expected = states(&plain, &model, &read(&model, &plain, &texts), &[9, 4], &places);
    let read_packed = read(&packed_model, &packed, &texts);
    let found = states(&packed, &packed_model, &read_packed, &[9, 4], &places);
    let difference = largest_difference(&found, &expected);
    assert!(difference < 1e-4, "{kind:?}: {difference}");
    for (at, &(text, row)) in places.iter().enumerate() {
        let alone = read_packed.map(|state| state.narrow(0, 9 * text, row + 1));
        let alone = states(&packed, &packed_model, &alone, &[row + 1], &[(0, row)]);
        for (alone, found) in alone.into_iter().zip(&found) {
            assert_eq!(to_host(alone), to_host(found.clone())[8 * at..][..8], "{kind:?}, place {at}");
        }
    }
}

#[test]
fn packed_layers_give_what_tensors_give_and_a_row_the_same_bits_alone() {
    of_every_kind!(packed_is_alike);
}

fn sees_its_prefix<K: HeadKind + Debug>(kind: &K) {
    for model in models() {
        let mut heads = heads(kind, &model, &Device::flex(), DType::F32);
        heads.pack(StorageType::Float32);
        let found = |changed: Option<usize>| {
            let read = read(&model, &heads, &[&TEXT]).map(|state| {
                let rows = (0..TEXT.len()).map(|row| if Some(row) == changed { 1e3 } else { 1.0 });
                let scale: Tensor<2> =
                    Tensor::from_data(TensorData::new(rows.collect::<Vec<f32>>(), [TEXT.len(), 1]), &state.device());
                state * scale
            });
            states(&heads, &model, &read, &[TEXT.len()], &[(0, 6), (0, 8)])
        };
        let plain = found(None);
        for (changed, block) in [(7, 0), (9, 1), (11, 1), (8, 0)] {
            let rows = |states: &[Tensor<2>]| -> Vec<f32> {
                states.iter().flat_map(|state| to_host(state.clone())[8 * block..][..8].to_vec()).collect()
            };
            assert_eq!(rows(&found(Some(changed))), rows(&plain), "{kind:?}: {changed} in block {block}");
        }
        assert!(largest_difference(&found(Some(5))[..1], &plain[..1]) > 0.0, "{kind:?}");
    }
}

/// What lies behind a block's start changes nothing, to the bit, and what lies before it does.
#[test]
fn a_block_sees_its_own_prefix_only() {
    of_every_kind!(sees_its_prefix);
}

/// Adds `step` to one number, the one at `index` when all parameters are counted through.
struct Nudge {
    index: usize,
    step: f64,
}

impl ModuleMapper for Nudge {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let size: usize = param.val().dims().iter().product();
        let (index, step) = (self.index, self.step);
        self.index = self.index.wrapping_sub(size);
        if index >= size {
            return param;
        }
        param.map(|old| {
            let mut values: Vec<f64> = old.to_data().try_into_vec().unwrap();
            values[index] += step;
            Tensor::from_data(TensorData::new(values, old.dims()), (&old.device(), DType::F64))
        })
    }
}

struct Gradients<'a>(&'a GradientsParams, Vec<Option<f64>>);

impl burn::module::ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let size: usize = param.val().dims().iter().product();
        match self.0.get::<D>(param.id) {
            Some(gradient) => {
                let values = gradient.cast(DType::F64).into_data().try_into_vec::<f64>().unwrap();
                self.1.extend(values.into_iter().map(Some));
            }
            None => self.1.resize(self.1.len() + size, None),
        }
    }
}

fn gradients_agree<K: HeadKind + Debug>(kind: &K) {
    let [_, model] = models();
    let learning = heads(kind, &model, &Device::flex().autodiff(), DType::F64);
    let texts = [&TEXT[..6], &TEXT[..3]];
    let read = read(&model, &learning, &texts).map(|state| state.cast(DType::F64));
    let objective = |heads: &K::Network| -> Tensor<1> {
        let states = states(heads, &model, &read, &[6, 3], &[(0, 2), (0, 5), (1, 1)]);
        let weighted = states.into_iter().enumerate().map(|(head, state)| state.mul_scalar(head as f64 + 0.5).sin());
        weighted.map(Tensor::sum).reduce(|a, b| a + b).unwrap()
    };
    let mut backward = objective(&learning).backward();
    let gradients = GradientsParams::from_module(&mut backward, &learning);
    let mut found = Gradients(&gradients, Vec::new());
    learning.visit(&mut found);
    let (all, plain) = (found.1, learning.valid());
    assert_eq!(all.len(), plain.num_params());
    let value = |index, step| {
        let nudged = plain.clone().map(&mut Nudge { index, step });
        objective(&nudged).into_scalar::<f64>()
    };
    for (index, gradient) in all.iter().enumerate().step_by(7) {
        let difference = (value(index, 1e-5) - value(index, -1e-5)) / 2e-5;
        let gradient = gradient.unwrap_or(0.0);
        assert!((difference - gradient).abs() < 1e-6, "{kind:?} {index}: {gradient} {difference}");
    }
}

#[test]
fn gradients_agree_with_finite_differences_in_float64() {
    of_every_kind!(gradients_agree);
}

#[test]
fn the_backbone_must_suit_the_layers() {
    let kind = |layers| AttentionConfig { layers, ..AttentionConfig::default() };
    let error = kind(4).features(&backbone()).unwrap_err().to_string();
    assert!(error.contains("`heads.architecture.layers` is 4") && error.contains("has 3"), "{error}");
    assert_eq!(kind(2).features(&backbone()).unwrap(), [Feature::Layer(1), Feature::Layer(2)]);
    let error = HiddenTransferConfig { layer: Some(3), ..HiddenTransferConfig::default() }
        .features(&backbone())
        .unwrap_err()
        .to_string();
    assert!(error.contains("`heads.architecture.layer` is 3, but the backbone has 3 layers"), "{error}");
    let error = GlideConfig { layer: Some(3) }.features(&backbone()).unwrap_err().to_string();
    assert!(error.contains("`heads.architecture.layer` is 3, but the backbone has 3 layers"), "{error}");
    let convolution = Some(ConvolutionConfig { kernel: 2, group: 3 });
    let error = DflashConfig { convolution, ..DflashConfig::default() }.features(&backbone()).unwrap_err().to_string();
    assert!(error.contains("`heads.architecture.convolution.group` is 3") && error.contains("width of 8"), "{error}");
}

fn grows_the_lattice<K: HeadKind + Debug>(kind: &K) {
    let [model, _] = models();
    let frozen = FrozenHeads::new(heads(kind, &model, &Device::flex(), DType::F32), &model, None);
    let features = frozen.features();
    let read = FeatureTensors::new(&features, model.features(&[Span::chain(&TEXT[..7])], None, &features));
    let mut cache = frozen.cache(1, 4).unwrap();
    frozen.read(&model, &mut cache, &[7], &read);
    let last = read.map(|state| state.narrow(0, 6, 1));
    let context = Some(Context::new(&mut cache, vec![(0, 6)]));
    let starts = BlockStarts { states: &last, pinned: &TEXT[7..8], context };
    let wanted = Wanted { stats: true, states: false };
    let found = frozen.candidates(&model, starts, 4, wanted).unwrap();
    let path: Vec<u32> = [TEXT[7]].into_iter().chain((0..3).map(|head| found.at(0).ids[4 * head])).collect();
    for lengths in [&[1usize, 2, 3][..], &[3, 1]] {
        let context = Some(Context::new(&mut cache, vec![(0, 6)]));
        let starts = BlockStarts { states: &last, pinned: &TEXT[7..8], context };
        let mut growing = frozen.grow(&model, starts, 4);
        for &length in lengths {
            // Beside another path.
            let mut other = path[..length].to_vec();
            other[length - 1] = (other[length - 1] + u32::from(length > 1)) % VOCABULARY as u32;
            let behind = growing.behind(&[(0, &other), (0, &path[..length])]).unwrap();
            let (at, head) = (found.at(0), length - 1);
            assert_eq!(behind[1].ids, at.ids[4 * head..][..4], "{kind:?}");
            assert_eq!(behind[1].logits, at.scores[4 * head..][..4], "{kind:?}");
            assert_eq!(behind[1].stats, found.stats_at(0).get(head).map(|stats| stats.softmax), "{kind:?}");
            let depends = kind.is_sequential() && length > 1;
            assert_eq!(behind[0] != behind[1], depends, "{kind:?}");
        }
        drop(growing);
        cache.truncate(0, 7);
    }
}

/// Behind first choices, whatever grows is what the lattice holds, to the bit; and rows that were skipped are run when they
/// are needed.
#[test]
fn a_grown_path_of_first_choices_is_the_lattice() {
    of_every_kind!(grows_the_lattice);
}

fn grows_as_alone<K: HeadKind + Debug>(kind: &K) {
    let [model, _] = models();
    let frozen = FrozenHeads::new(heads(kind, &model, &Device::flex(), DType::F32), &model, None);
    let (texts, counts) = ([&TEXT[..7], &TEXT[..4]], [7, 4]);
    let features = frozen.features();
    let spans = texts.map(Span::chain);
    let read = FeatureTensors::new(&features, model.features(&spans, None, &features));
    let mut cache = frozen.cache(2, 4).unwrap();
    frozen.read(&model, &mut cache, &counts, &read);
    // By block: its text and the token before it, that token's place among all, and the token that is pinned.
    let blocks = [((0, 3), 3, 2), ((0, 6), 6, TEXT[7]), ((1, 3), 10, TEXT[4])];
    let mut behind = |numbers: &[usize], paths: &[(usize, &[u32])]| {
        let of_blocks: Vec<_> = numbers.iter().map(|&number| blocks[number]).collect();
        let rows = indices(of_blocks.iter().map(|block| block.1), model.device());
        let states = read.map(|state| state.select(0, rows.clone()));
        let pinned: Vec<u32> = of_blocks.iter().map(|block| block.2).collect();
        let context = Some(Context::new(&mut cache, of_blocks.iter().map(|block| block.0).collect()));
        let mut growing = frozen.grow(&model, BlockStarts { states: &states, pinned: &pinned, context }, 4);
        let found = growing.behind(paths).unwrap();
        drop(growing);
        counts.iter().enumerate().for_each(|(text, &tokens)| cache.truncate(text, tokens));
        found
    };
    // Paths that part at the second token, and that begin with others.
    let [first, second, third] = blocks.map(|block| block.2);
    let paths = [
        (0, vec![first, 1]),
        (1, vec![second, 1, 4]),
        (1, vec![second, 2, 4]),
        (1, vec![second]),
        (1, vec![second, 1, 5]),
        (2, vec![third, 1, 4]),
    ];
    let together = behind(&[0, 1, 2], &paths.iter().map(|(block, path)| (*block, &path[..])).collect::<Vec<_>>());
    for ((block, path), found) in paths.iter().zip(&together) {
        assert_eq!(&behind(&[*block], &[(0, path)])[0], found, "{kind:?}");
    }
    let depends = kind.is_sequential();
    assert!((together[1] != together[2]) == depends && (together[1] != together[4]) == depends, "{kind:?}");
    assert!(together[1] != together[5], "{kind:?}");
}

/// Blocks of several texts, with paths of several lengths: side by side and each alone, to the bit.
#[test]
fn blocks_that_grow_together_grow_as_alone() {
    of_every_kind!(grows_as_alone);
}

/// Returns the gradients of a step, whose heads' states have made-up gradients, by parameter. Heads of float32 learn with the
/// kernels of the CPU, those of float64 by automatic differentiation.
fn step<K: HeadKind>(kind: &K, dtype: DType, asked: &[usize]) -> Vec<f64> {
    let [model, _] = models();
    let learning = heads(kind, &model, &Device::flex().autodiff(), dtype);
    let (texts, counts) = ([&TEXT[..7], &TEXT[..3], &TEXT[..9]], [7, 3, 9]);
    let places = [(0, 2), (0, 6), (1, 1), (2, 0), (2, 5), (2, 8)];
    let read = read(&model, &learning, &texts).map(|state| state.cast(dtype));
    let mut cache = learning.cache(3, 40).unwrap();
    learning.read(&model, &mut cache, &counts, &read);
    let rows = indices(places.iter().map(|&(text, row)| [0, 7, 10][text] + row), model.device());
    let drafted = |slot: usize| {
        let tokens: Vec<u32> = places.iter().map(|place| TEXT[(place.1 + 1 + slot) % TEXT.len()]).collect();
        Tokens::new(&tokens, model.embed(&tokens).cast(dtype).autodiff())
    };
    let starts = Starts {
        model: &model,
        states: read.map(|state| state.select(0, rows.clone()).autodiff()),
        pinned: drafted(0),
        context: Some(Context { cache: &mut cache, places: places.to_vec(), texts: Some(&read) }),
    };
    let mut pass = learning.learn(starts, &drafted);
    let gradients = asked.iter().map(|&head| {
        let state = pass.state(head);
        (head, (state + head as f64).sin())
    });
    let gradients = gradients.collect();
    let (objective, known) = pass.back(gradients);
    let gradients = gradient(&learning, objective, known);
    let mut found = Gradients(&gradients, Vec::new());
    learning.visit(&mut found);
    found.1.into_iter().map(|gradient| gradient.unwrap_or(0.0)).collect()
}

fn learns_alike<K: HeadKind + Debug>(kind: &K) {
    for asked in [&[0usize, 1, 2][..], &[1], &[0, 2]] {
        let [found, expected] = [DType::F32, DType::F64].map(|dtype| step(kind, dtype, asked));
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        assert!(expected.iter().filter(|x| x.abs() > 1e-3 * largest).count() > expected.len() / 4, "{kind:?}");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() < 3e-5 * largest, "{kind:?}, {asked:?}, {at}: {found} {expected}");
        }
    }
}

#[test]
fn the_kernels_learn_what_automatic_differentiation_does() {
    of_every_kind!(learns_alike);
}
