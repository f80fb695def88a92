//! The training of heads on traces. The loss is the weighted mean loss of all heads, or that of one head drawn at random.
//!
//! The frozen unembedding needs no gradient. Therefore the loss and its gradient with respect to each head's output are
//! computed outside autodiff, and the graph contains only the heads. If a head trains its own unembedding, the gradient
//! with respect to that enters the graph in the same way.

use std::cell::RefCell;
use std::collections::HashMap;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, Value, json};

use super::dev::DevSet;
use super::network::{Context, Starts};
use super::positions::{Position, Texts, drafted, features_at, of_trace, targets, teacher_of};
use super::selector::{SelectorLoss, SelectorSlots};
use super::vocabulary::Vocabulary;
use super::{ChooseBy, DraftHeads, Feed, HeadLoss, HeadPhase, HeadsConfig, LossWeights};
use crate::backbone::{Feature, FeatureRows, FeatureTensors, KvCache, Model};
use crate::device::require_memory;
use crate::error::{Result, bail};
use crate::nn::{
    Criterion, FrozenLoss, FrozenUnembedding, IGNORE, Targets, Taught, Tokens, TransitionNetwork, Unembedded,
    from_host, indices, to_host, unembed,
};
use crate::storage_type::StorageType;
use crate::traces::Trace;
use crate::training::{Batch, Evaluated, OptimizationConfig, Schedule, SchedulePhase, Task};

/// A trace together with the name of its corpus.
#[derive(Clone, Copy)]
pub struct TrainingText<'a> {
    /// The NAME of `[data.NAME]`.
    pub corpus: &'a str,
    /// The trace.
    pub trace: &'a Trace,
}

/// The task of training heads on traces.
pub struct HeadTraining<'a> {
    train: Vec<&'a Trace>,
    dev: Vec<&'a Trace>,
    model: &'a Model,
    /// The states that the heads read.
    features: Vec<Feature>,
    options: &'a HeadsConfig,
    phases: Vec<Prepared>,
    /// The factors of the learning rates of parameters by the beginnings of their paths; 1 for the others.
    rate_factors: Vec<(String, f64)>,
    /// The loss weight of each head. Their mean is 1.
    weights: Vec<f64>,
    seed: u64,
    /// The tokens that heads are trained on, or none for the whole vocabulary.
    vocabulary: Option<Vocabulary>,
    dev_set: DevSet,
    /// The unembedding of the tokens trained on, or none if every head has its own.
    unembedding: Option<FrozenUnembedding>,
    /// The unembedding of the tokens drafted from, if these are more than the tokens trained on.
    whole_unembedding: Option<FrozenUnembedding>,
    /// The backbone's unembedding `[V, d]`, if heads with their own learn from the backbone's distributions.
    teacher_unembedding: Option<Tensor<2>>,
    device: Device,
}

/// A phase of the training with its positions.
struct Prepared {
    config: HeadPhase,
    /// Groups of positions, each with the probability of drawing from it.
    groups: Vec<(f64, Vec<Position>)>,
}

/// What heads read at some positions.
struct Read {
    states: FeatureTensors,
    context: Option<ReadTexts>,
}

/// The texts before some positions, for heads that attend to them.
struct ReadTexts {
    /// What the heads keep of them.
    cache: KvCache,
    /// The text and the token of each position.
    places: Vec<(usize, usize)>,
    /// The states at all tokens, text after text.
    states: FeatureTensors,
}

impl Read {
    /// Returns the starts of blocks at the positions, given the pinned tokens.
    fn starts<'a>(&'a mut self, model: &'a Model, pinned: Tokens) -> Starts<'a> {
        let context = self.context.as_mut().map(|ReadTexts { cache, places, states }| Context {
            cache,
            places: places.clone(),
            texts: Some(states),
        });
        Starts { model, states: self.states.clone(), pinned, context }
    }
}

/// The backbone's distributions that heads learn from in a step.
#[derive(Default)]
struct Teacher {
    /// The rows by the places that the backbone predicts from.
    numbers: HashMap<Position, usize>,
    /// What the distributions teach through: for heads with unembeddings of their own, the backbone's states. None where nothing
    /// is taught.
    rows: Option<Taught>,
}

impl Teacher {
    /// Returns what a head is taught at the positions, one row each. Where it is taught nothing, the row means nothing.
    fn of(&self, positions: &[Position], head: usize, device: &Device) -> Option<Taught> {
        let rows = self.rows.as_ref()?;
        let number = |position| self.numbers.get(&teacher_of(position, head)).copied().unwrap_or(0);
        Some(rows.select(&indices(positions.iter().map(number), device)))
    }
}

/// The contents of a batch.
struct Drawn<'a> {
    phase: &'a Prepared,
    positions: Vec<Position>,
    heads: Vec<usize>,
}

impl<'a> HeadTraining<'a> {
    /// Makes the task that `heads` are trained on, above `model`. Copies of the heads on other devices may share it.
    ///
    /// # Errors
    /// Returns an error if the train traces of a phase, or the dev traces, contain no position with a target, or if the
    /// partial vocabulary is as large as the whole one.
    pub fn new(
        train: &[TrainingText<'a>],
        dev: &[TrainingText<'a>],
        model: &'a Model,
        heads: &dyn DraftHeads,
        options: &'a HeadsConfig,
        seed: u64,
    ) -> Result<Self> {
        let phases: Vec<Prepared> = options
            .phases()
            .into_iter()
            .map(|phase| prepare(train, phase, options.prompt_positions))
            .collect::<Result<_>>()?;
        let traces = |texts: &[TrainingText<'a>]| texts.iter().map(|text| text.trace).collect::<Vec<_>>();
        let (train, dev) = (traces(train), traces(dev));
        let dev_set = DevSet::new(&dev);
        if dev_set.positions.is_empty() {
            bail!("the traces give no dev positions; heads need some. Give more documents, or larger dev shares.");
        }
        let states =
            [options.positions_per_step, heads.features().len() + options.block_size, model.config().hidden_size];
        require_memory(
            states.iter().fold(size_of::<f32>() as u64, |bytes, &n| bytes.saturating_mul(n as u64)),
            &format!("the states of the {} positions of a step", options.positions_per_step),
            "Lower `heads.positions_per_step`; `heads.training.accumulate` sums over several batches.",
        )?;
        let whole = model.config().vocab_size;
        let vocabulary = match &options.vocabulary {
            None => None,
            Some(part) if part.size >= whole => bail!(
                "`heads.vocabulary.size` is {}, but the backbone's whole vocabulary has {whole} tokens. Make it smaller, or leave `heads.vocabulary` out.",
                part.size
            ),
            Some(part) => Some(Vocabulary::most_frequent(&train, part.size, whole)),
        };
        let device = model.device().clone();
        let own = heads.unembedding(0).is_some();
        let frozen = |ids: Option<&[u32]>| {
            let table = model.projection();
            FrozenUnembedding::new(ids.map_or(table.clone(), |ids| table.select(ids)))
        };
        let drafts_from_all = options.vocabulary.as_ref().is_some_and(|part| !part.drafting);
        Ok(Self {
            unembedding: (!own).then(|| frozen(vocabulary.as_ref().map(Vocabulary::ids))),
            whole_unembedding: drafts_from_all.then(|| frozen(None)),
            teacher_unembedding: (own && phases.iter().any(|phase| phase.config.soft_targets > Some(0.0)))
                .then(|| model.unembedding()),
            weights: options.loss_weights.with_mean_one(options.block_size - 1),
            train,
            dev,
            model,
            features: heads.features(),
            rate_factors: heads.rate_factors(),
            options,
            phases,
            seed,
            vocabulary,
            dev_set,
            device,
        })
    }

    /// Describes in one line what there is to train on.
    pub fn words(&self) -> String {
        let positions: usize = self.phases.iter().flat_map(|phase| &phase.groups).map(|(_, group)| group.len()).sum();
        let documents: usize = self.train.iter().map(|trace| trace.documents().len()).sum();
        let phases = if self.phases.len() > 1 { format!(" in {} phases", self.phases.len()) } else { String::new() };
        let part = self.vocabulary.as_ref().map_or_else(String::new, |vocabulary| {
            format!(
                "; the {} most frequent tokens are {:.2} % of the train and {:.2} % of the dev continuations",
                vocabulary.ids().len(),
                100.0 * vocabulary.coverage(&self.train),
                100.0 * vocabulary.coverage(&self.dev)
            )
        });
        format!("{positions} positions of {documents} documents{phases}{part}")
    }

    /// Returns the ids that the heads are to draft from, ascending, or none for all.
    pub fn draft_vocabulary(&self) -> Option<Vec<u32>> {
        let drafting = self.options.vocabulary.as_ref().is_some_and(|part| part.drafting);
        self.vocabulary.as_ref().filter(|_| drafting).map(|vocabulary| vocabulary.ids().to_vec())
    }

    /// Returns batch `number`, drawn with replacement. The random generator depends on the seed and the number alone,
    /// so that training can be resumed without saving the generator's state.
    fn draw(&self, number: usize) -> Drawn<'_> {
        let step = number / self.options.training.accumulate;
        let phase = &self.phases[self.rates(&self.options.training).phase(step).0];
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number as u64 + 1);
        // Some positions of a document, which is the more likely the more it has.
        let draw = |rng: &mut ChaCha8Rng| {
            let group = match &phase.groups[..] {
                [(_, only)] => only,
                groups => {
                    let mut point = rng.random::<f64>();
                    let place = groups.iter().position(|(share, _)| {
                        point -= share;
                        point < 0.0
                    });
                    &groups[place.unwrap_or(groups.len() - 1)].1
                }
            };
            let first = group[rng.random_range(0..group.len())];
            let key = |position: &Position| (position.trace, position.document);
            let begin = group.partition_point(|position| key(position) < key(&first));
            let end = group.partition_point(|position| key(position) <= key(&first));
            let others = 1..self.options.positions_per_document;
            let mut drawn = vec![first];
            drawn.extend(others.map(|_| group[rng.random_range(begin..end)]));
            drawn
        };
        let mut positions = Vec::with_capacity(self.options.positions_per_step);
        while positions.len() < self.options.positions_per_step {
            positions.extend(draw(&mut rng));
        }
        if self.options.positions_per_document > 1 {
            positions.sort_unstable();
        }
        let count = self.weights.len();
        let all = match self.options.loss {
            HeadLoss::All => true,
            HeadLoss::OneRandom => false,
            HeadLoss::Annealed(steps) => rng.random::<f64>() < step as f64 / steps.max(1) as f64,
        };
        let heads = if all { (0..count).collect() } else { vec![rng.random_range(0..count)] };
        Drawn { phase, positions, heads }
    }

    /// Returns the learning rates of all phases, one after the other.
    fn rates(&self, options: &OptimizationConfig) -> Schedule {
        let phase = |phase: &Prepared| SchedulePhase {
            steps: phase.config.steps,
            learning_rate: phase.config.learning_rate.unwrap_or(options.learning_rate),
            warmup_steps: phase.config.warmup_steps.unwrap_or(options.warmup_steps),
        };
        Schedule::of_phases(self.phases.iter().map(phase).collect(), options.final_rate)
    }

    /// Returns the number by which a head's mean cross-entropy is divided before it is added to the loss; the batch
    /// covers `covered` heads. If a single head is drawn, it stands for all, so the expected loss is the same.
    fn divisor(&self, head: usize, covered: usize) -> f64 {
        covered as f64 / self.weights[head]
    }

    /// Returns what these heads predict of the slots beside their own, as far as it is to be learnt.
    fn neighbours(&self, model: &dyn DraftHeads, heads: &[usize]) -> Vec<Neighbour> {
        let weight = self.options.neighbour_loss;
        let of_head = |&head: &usize| {
            let all = if weight > 0.0 { model.neighbours(head) } else { Vec::new() };
            let share = weight / all.len() as f64 / self.divisor(head, heads.len());
            all.into_iter().map(move |(state, head)| Neighbour { state, head, share })
        };
        heads.iter().flat_map(of_head).collect()
    }

    /// Reads the heads' inputs at the positions: the states there and, for heads that attend, what they keep of the texts
    /// before them. With the number of a batch, `heads.feature_noise` is added.
    fn read<N: DraftHeads>(
        &self,
        heads: &N,
        traces: &[&Trace],
        positions: &[Position],
        batch: Option<usize>,
    ) -> Result<Read> {
        let tokens = |trace: usize, document: usize| traces[trace].documents()[document].len();
        let texts = Texts::of(positions);
        let Some(mut cache) = heads.cache(texts.counts.len(), texts.columns(heads.count())) else {
            let states = features_at(traces, positions, &self.features)?.to_device(&self.device);
            let lengths = positions.iter().map(|position| tokens(position.trace as usize, position.document as usize));
            return Ok(Read { states: self.noisy(states, batch, lengths), context: None });
        };
        let all = texts.states(traces, &self.features)?.to_device(&self.device);
        let of_text = |(&(trace, document), &count)| std::iter::repeat_n(tokens(trace, document), count);
        let all = self.noisy(all, batch, texts.documents.iter().zip(&texts.counts).flat_map(of_text));
        heads.read(self.model, &mut cache, &texts.counts, &all);
        let rows = indices(texts.rows(), &self.device);
        let states = all.map(|state| state.select(0, rows.clone()));
        Ok(Read { states, context: Some(ReadTexts { cache, places: texts.places, states: all }) })
    }

    /// Adds the noise of a batch to states of texts of these lengths, one for each row.
    fn noisy(
        &self,
        states: FeatureTensors,
        batch: Option<usize>,
        lengths: impl Iterator<Item = usize>,
    ) -> FeatureTensors {
        let Some(number) = batch.filter(|_| self.options.feature_noise > 0.0) else { return states };
        let scale = |length: usize| (self.options.feature_noise * 512.0 / length as f64) as f32;
        let scales: Vec<f32> = lengths.map(scale).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Batches are drawn with the first streams.
        rng.set_stream(u64::MAX - number as u64);
        let mut of_feature = |&feature: &Feature| {
            let read = states.get(feature);
            if feature == Feature::Layer(0) {
                return read;
            }
            let shape = read.dims();
            let noise = scales.iter().flat_map(|scale| vec![*scale; shape[1]]);
            let noise = noise.map(|scale| scale * (rng.random::<f32>() - 0.5)).collect();
            read + from_host(noise, shape, &self.device)
        };
        FeatureTensors::new(&self.features, self.features.iter().map(&mut of_feature).collect())
    }

    /// Returns the sum over the rows of the smooth L1 loss of a head's states, and its gradient with respect to them. Rows without a
    /// target are left out.
    fn feature_loss(
        &self,
        positions: &[Position],
        head: usize,
        state: Tensor<2>,
        targets: &Targets,
    ) -> Result<(f64, Tensor<2>)> {
        let counts = |(row, position): (usize, &Position)| match targets.takes_part(row) {
            true => (teacher_of(position, head), 1.0),
            false => (*position, 0.0),
        };
        let (places, counts): (Vec<Position>, Vec<f32>) = positions.iter().enumerate().map(counts).unzip();
        let sought = features_at(&self.train, &places, &[Feature::Last])?.to_device(&self.device).get(Feature::Last);
        let [rows, _] = state.dims();
        Ok(smooth_l1((state - sought) * from_host::<2>(counts, [rows, 1], &self.device)))
    }

    /// Reads the backbone's distributions that heads with these targets learn from. Blocks that begin close to one another
    /// learn from the same ones.
    fn teacher<'t>(
        &self,
        positions: &[Position],
        targets: impl Iterator<Item = &'t (usize, Targets)>,
        unembedding: Option<&FrozenUnembedding>,
    ) -> Result<Teacher> {
        let mut teacher = Teacher::default();
        let mut places = Vec::new();
        for (head, targets) in targets {
            for (_, position) in positions.iter().enumerate().filter(|&(row, _)| targets.taught(row) > 0.0) {
                let place = teacher_of(position, *head);
                teacher.numbers.entry(place).or_insert_with(|| {
                    places.push(place);
                    places.len() - 1
                });
            }
        }
        if !places.is_empty() {
            let states = features_at(&self.train, &places, &[Feature::Last])?.to_device(&self.device);
            let states = states.get(Feature::Last);
            teacher.rows = Some(match unembedding {
                Some(frozen) => {
                    // The backbone itself has no bias.
                    let [n, d] = states.dims();
                    let states = match frozen.width() - d {
                        0 => states,
                        more => Tensor::cat(vec![states, Tensor::zeros([n, more], &self.device)], 1),
                    };
                    frozen.teach(&states, self.options.criterion, self.options.bias.is_some())
                }
                None => Taught::by_states(states),
            });
        }
        Ok(teacher)
    }

    /// Computes what a selector learns at the positions, given the states of all heads there.
    fn selector_loss(
        &self,
        selector: &TransitionNetwork,
        positions: &[Position],
        states: Vec<Tensor<2>>,
    ) -> SelectorLoss {
        let Self { options, train, model, unembedding, whole_unembedding, .. } = self;
        let drafting = self.vocabulary.as_ref().filter(|_| whole_unembedding.is_none());
        let known = |targets: &Targets, row| Some(targets.token(row)).filter(|&token| token != IGNORE);
        let config = options.selector.expect("heads have a selector where the configuration has one");
        let (mut of_slots, count) = (SelectorSlots { states, ..SelectorSlots::default() }, self.weights.len());
        for head in 0..count {
            let targets = targets(train, positions, head, 0.0, drafting);
            let divisor = targets.counted().max(1) as f64 * self.divisor(head, count);
            of_slots.targets.push((0..targets.len()).map(|row| known(&targets, row)).collect());
            of_slots.before.push(drafted(train, positions, head));
            of_slots.weights.push(config.weight / divisor);
        }
        let unembedding = whole_unembedding.as_ref().or(unembedding.as_ref());
        let unembedding = unembedding.expect("heads with a selector share the backbone's");
        of_slots.loss(selector, config.top_k, (unembedding, drafting.map(Vocabulary::ids)), model)
    }

    /// Returns the unembedding of the tokens trained on beside the heads' bias, if they have one.
    fn biased(&self, heads: &dyn DraftHeads) -> Option<FrozenUnembedding> {
        let bias = heads.bias()?.without_autodiff();
        Some(FrozenUnembedding::new(self.unembedding.as_ref()?.table().beside(bias)))
    }

    /// Computes the loss of one head. Given a `weight`, it also computes the gradient of `weight` times the loss. `own` is the
    /// unembedding of the head, or the bias beside that of the backbone.
    fn one_head(
        &self,
        unembedding: Option<&FrozenUnembedding>,
        own: [Option<Tensor<2>>; 2],
        state: Tensor<2>,
        (targets, taught, criterion): (&Targets, Option<Taught>, Criterion),
        weight: Option<f64>,
    ) -> OneHead {
        match (own, unembedding) {
            ([Some(table), _], _) => {
                let states = taught.as_ref().and_then(|taught| taught.states.as_ref());
                let teacher = states.zip(self.teacher_unembedding.as_ref()).map(<[_; 2]>::from);
                let of_table = table.clone().without_autodiff();
                let Unembedded { loss, choices, gradients } =
                    unembed(state, of_table, targets, teacher, criterion, weight);
                let (gradient, of_own) = gradients.map(<(_, _)>::from).unzip();
                let of_own = of_own.map(|gradient| (table * gradient).sum());
                OneHead { loss, losses: Vec::new(), confidence: Vec::new(), choices, gradient, of_own }
            }
            ([None, bias], Some(frozen)) => {
                let confident = weight.is_some() && matches!(self.options.loss_weights, LossWeights::Pace(_));
                let plain = confident.then(|| state.clone());
                let found = frozen.loss(state.clone(), targets, taught.as_ref(), criterion, weight);
                let of_own = bias.zip(weight).map(|(bias, weight)| {
                    let first = frozen.width() - bias.dims()[1];
                    let sought = (targets, taught.as_ref());
                    (bias * frozen.columns_gradient(state, sought, &found.log_sums, (first, weight))).sum()
                });
                let confidence = plain.map_or_else(Vec::new, |state| {
                    // Rows without a token ask for any.
                    let known = |row| Some(targets.token(row)).filter(|&token| token != IGNORE);
                    let tokens: Vec<u32> = (0..targets.len()).map(|row| known(row).unwrap_or(0)).collect();
                    let logits = frozen.logits_of(state, &tokens).into_iter().zip(&found.log_sums);
                    let q = logits
                        .enumerate()
                        .map(|(row, (logit, log_sum))| known(row).map_or(0.0, |_| (f64::from(logit) - log_sum).exp()));
                    q.collect()
                });
                let FrozenLoss { losses, choices, gradient, .. } = found;
                OneHead { loss: losses.iter().sum(), losses, confidence, choices, gradient, of_own }
            }
            ([None, _], None) => unreachable!("heads without an unembedding of their own share the backbone's"),
        }
    }
}

/// What a head learns to predict of a slot beside its own.
struct Neighbour {
    /// The number of the state that predicts it.
    state: usize,
    /// The head whose slot it is.
    head: usize,
    /// The factor of its mean loss.
    share: f64,
}

/// The loss of one head.
struct OneHead {
    /// The sum over the rows.
    loss: f64,
    /// The loss of each row. Not known of heads with an unembedding of their own.
    losses: Vec<f64>,
    /// The probability of the text's token in each row, where weights go by it; 0 where it is not in the vocabulary.
    confidence: Vec<f64>,
    /// Its first choices, in the numbering of what it is trained on.
    choices: Vec<u32>,
    /// The gradient with respect to the head's state, if one was asked for.
    gradient: Option<Tensor<2>>,
    /// An objective with the gradient with respect to the head's own unembedding, or to the heads' bias, if there is one.
    of_own: Option<Tensor<1>>,
}

/// Returns the sum over the rows of the mean smooth L1 loss of these differences, and its gradient with respect to them.
fn smooth_l1(difference: Tensor<2>) -> (f64, Tensor<2>) {
    let [_, d] = difference.dims();
    let gradient = difference.clone().clamp(-1.0, 1.0);
    // Below 1 a difference and its gradient are the same.
    let losses = gradient.clone() * (difference - gradient.clone().mul_scalar(0.5));
    let loss = losses.sum().into_scalar::<f32>();
    (f64::from(loss) / d as f64, gradient.div_scalar(d as f64))
}

/// What heads learn of their confidence in a step.
struct ConfidenceLoss {
    /// The sum of the cross-entropies with whether first choices are right.
    loss: f64,
    /// Its gradient with respect to the heads' state.
    gradient: Tensor<2>,
    /// An objective with its gradient with respect to the heads' parameters.
    objective: Tensor<1>,
}

/// Returns what heads learn of their confidence from whether their first choices were `correct`, if they know it.
fn confidence_loss(
    heads: &dyn DraftHeads,
    state: Tensor<2>,
    targets: &Targets,
    correct: &[bool],
) -> Option<ConfidenceLoss> {
    let logits = to_host(heads.confidence(state.clone().autodiff())?.without_autodiff());
    let (mut loss, mut slopes) = (0.0, vec![0.0; logits.len()]);
    for (row, (logit, slope)) in logits.iter().zip(&mut slopes).enumerate().filter(|&(row, _)| targets.takes_part(row))
    {
        let sign = if correct[row] { 1.0 } else { -1.0 };
        let wrong = 1.0 / (1.0 + (sign * logit).exp());
        loss -= f64::from(1.0 - wrong).max(f64::MIN_POSITIVE).ln();
        *slope = -sign * wrong;
    }
    let slopes = from_host::<2>(slopes, [logits.len(), 1], &state.device()).autodiff();
    let objective = |state| (heads.confidence(state).expect("known above") * slopes.clone()).sum();
    let leaf = state.clone().autodiff().require_grad();
    let gradient = leaf.grad_remove(&mut objective(leaf.clone()).backward()).expect("it is made of the state");
    Some(ConfidenceLoss { loss, gradient, objective: objective(state.autodiff()) })
}

/// Returns the weights of [`LossWeights::Pace`] for every head and row, with a mean of 1 over those that `take_part`, given the
/// confidence of every head and row.
fn paced(pace: f64, confidence: &[&[f64]], take_part: impl Fn(usize, usize) -> bool) -> Vec<Vec<f64>> {
    let rows = confidence.first().map_or(0, |rows| rows.len());
    let mut weights = vec![vec![0.0; rows]; confidence.len()];
    for row in 0..rows {
        let (mut product, mut products) = (1.0, vec![0.0; confidence.len()]);
        for (head, product_to) in products.iter_mut().enumerate().filter(|&(head, _)| take_part(head, row)) {
            product *= (1.0 - pace) * confidence[head][row] + pace;
            *product_to = product;
        }
        let mut sum = 0.0;
        for head in (0..confidence.len()).rev().filter(|&head| take_part(head, row)) {
            sum += products[head];
            weights[head][row] = sum;
        }
    }
    let (sum, count) =
        weights.iter().flatten().filter(|&&weight| weight > 0.0).fold((0.0, 0.0), |(sum, n), w| (sum + w, n + 1.0));
    weights.iter_mut().flatten().for_each(|weight| *weight *= count / f64::max(sum, f64::MIN_POSITIVE));
    weights
}

/// Finds the positions of a phase.
fn prepare(train: &[TrainingText], config: HeadPhase, prompt: bool) -> Result<Prepared> {
    let chosen =
        |text: &TrainingText| config.data.as_ref().is_none_or(|names| names.iter().any(|name| name == text.corpus));
    let positions = |wanted: &dyn Fn(&TrainingText) -> bool| -> Vec<Position> {
        let texts = train.iter().enumerate().filter(|(_, text)| chosen(text) && wanted(text));
        texts.flat_map(|(number, text)| of_trace(number, text.trace, prompt)).collect()
    };
    let weights = config.text.clone().unwrap_or_default();
    let sum: f64 = weights.values().sum();
    let groups: Vec<(f64, Vec<Position>)> = if weights.is_empty() {
        vec![(1.0, positions(&|_| true))]
    } else {
        let of_text = |(&kind, weight): (_, &f64)| (weight / sum, positions(&|text| text.trace.text() == kind));
        weights.iter().map(of_text).collect()
    };
    if groups.iter().any(|(_, positions)| positions.is_empty()) {
        bail!(
            "the traces give no train positions{}; heads need some. Give more documents, or a larger train share.",
            config.data.as_ref().map_or_else(String::new, |names| format!(" of {}", names.join(", ")))
        );
    }
    Ok(Prepared { config, groups })
}

fn share(correct: &[bool], targets: f64) -> f64 {
    correct.iter().filter(|&&correct| correct).count() as f64 / targets.max(1.0)
}

impl<N: DraftHeads + Module> Task<N> for HeadTraining<'_> {
    fn batch(&self, model: &N, number: usize) -> Result<Batch> {
        let Drawn { phase, positions, heads } = self.draw(number);
        let soft = phase.config.soft_targets.unwrap_or(0.0);
        // What heads read as drafted, by slot. Slots of which nothing is known hold the text.
        let chosen: RefCell<Vec<Vec<u32>>> = RefCell::default();
        let before = |slot| {
            let chosen = chosen.borrow();
            let of_text = || drafted(&self.train, &positions, slot);
            let tokens = chosen.get(slot.wrapping_sub(1)).cloned().unwrap_or_else(of_text);
            Tokens::new(&tokens, self.model.embed(&tokens)).autodiff()
        };
        let mut read = self.read(model, &self.train, &positions, Some(number))?;
        read.states = read.states.map(Tensor::autodiff);
        let mut learning = model.learn(read.starts(self.model, before(0)), &before);
        let (mut found, mut objectives, mut shares, mut states) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let targets_of = |&head: &usize| (head, targets(&self.train, &positions, head, soft, self.vocabulary.as_ref()));
        let targets: Vec<(usize, Targets)> = heads.iter().map(targets_of).collect();
        let neighbours = self.neighbours(model, &heads);
        let of_neighbours: Vec<(usize, Targets)> = neighbours.iter().map(|of| targets_of(&of.head)).collect();
        let biased = self.biased(model);
        let unembedding = biased.as_ref().or(self.unembedding.as_ref());
        let teacher = self.teacher(&positions, targets.iter().chain(&of_neighbours), unembedding)?;
        for (head, targets) in &targets {
            let head = *head;
            let counted = targets.counted().max(1) as f64;
            let divisor = self.divisor(head, heads.len());
            let weight = Some(1.0 / counted / divisor);
            let sought = (targets, teacher.of(&positions, head, &self.device), self.options.criterion);
            let (own, state) = ([model.unembedding(head), model.bias()], learning.state(head));
            let mut one = self.one_head(unembedding, own, state.clone(), sought, weight);
            let correct = targets.right(&one.choices);
            if model.selector().is_some() {
                states.push(state.clone());
            }
            let weight_of_features = self.options.feature_loss;
            if weight_of_features > 0.0 {
                let (loss, gradient) = self.feature_loss(&positions, head, state.clone(), targets)?;
                one.loss += weight_of_features * loss;
                one.gradient =
                    one.gradient.map(|of_loss| of_loss + gradient.mul_scalar(weight_of_features / (counted * divisor)));
            }
            if let Some(of_confidence) = confidence_loss(model, state, targets, &correct) {
                let ConfidenceLoss { loss, gradient, objective } = of_confidence;
                let weight = (1.0 / (counted * divisor)) as f32;
                one.loss += loss;
                one.gradient = one.gradient.map(|of_loss| of_loss + gradient * weight);
                objectives.push(objective * weight);
            }
            if self.options.feed == Feed::Drafted {
                let id = |choice: &u32| self.vocabulary.as_ref().map_or(*choice, |part| part.ids()[*choice as usize]);
                chosen.borrow_mut().push(one.choices.iter().map(id).collect());
            }
            objectives.extend(one.of_own.take());
            shares.push(share(&correct, counted));
            found.push((head, counted * divisor, one));
        }
        let mut besides = Vec::new();
        for (&Neighbour { state: number, share, .. }, (head, targets)) in neighbours.iter().zip(&of_neighbours) {
            let (divisor, state) = (targets.counted().max(1) as f64 / share, learning.state(number));
            let sought = (targets, teacher.of(&positions, *head, &self.device), self.options.criterion);
            let one = self.one_head(unembedding, [None, None], state, sought, Some(1.0 / divisor));
            besides.push((number, divisor, one));
        }
        if let LossWeights::Pace(pace) = self.options.loss_weights {
            let confidence: Vec<&[f64]> = found.iter().map(|(_, _, one)| &one.confidence[..]).collect();
            let weights = paced(pace, &confidence, |head, row| targets[head].1.takes_part(row));
            for ((_, _, one), weights) in found.iter_mut().zip(weights) {
                one.loss = one.losses.iter().zip(&weights).map(|(loss, weight)| loss * weight).sum();
                let column: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
                let column = from_host(column, [positions.len(), 1], &self.device);
                one.gradient = one.gradient.take().map(|gradient| gradient * column);
            }
        }
        let selected = model.selector().map(|selector| self.selector_loss(selector, &positions, states));
        if let Some(SelectorLoss { states, .. }) = &selected {
            for ((_, _, one), more) in found.iter_mut().zip(states) {
                one.gradient = one.gradient.take().map(|gradient| gradient + more.clone());
            }
        }
        found.extend(besides);
        let loss: f64 = found.iter().map(|(_, divisor, one)| one.loss / divisor).sum();
        let loss = loss + selected.as_ref().map_or(0.0, |selected| selected.loss);
        let gradients = found.into_iter().map(|(head, _, one)| (head, one.gradient.expect("a weight was given")));
        let gradients = gradients.collect();
        // Null for a head that took no part in the step.
        let mut by_head = vec![Value::Null; model.count()];
        heads.iter().zip(&shares).for_each(|(head, share)| by_head[*head] = json!(share));
        let mut metrics = Map::from_iter([
            ("accuracy".to_owned(), json!(shares.iter().sum::<f64>() / heads.len() as f64)),
            ("accuracy_by_head".to_owned(), by_head.into()),
        ]);
        let (objective, mut gradients) = learning.back(gradients);
        if let Some(SelectorLoss { parameters, right: (right, all), .. }) = selected {
            metrics.insert("selector_accuracy".to_owned(), json!(right as f64 / all.max(1) as f64));
            let mut known = GradientsAccumulator::new();
            known.accumulate(model, gradients);
            known.accumulate(model, parameters);
            gradients = known.grads();
        }
        let objective = objectives.into_iter().fold(objective, |sum, own| sum + own);
        let by_head: Vec<String> = shares.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
        let words = format!(" accuracy by head {} %", by_head.join("/"));
        Ok(Batch { objective, gradients, loss, tokens: positions.len(), metrics, words })
    }

    /// Computes loss, accuracies and block efficiency on the dev documents, against the text's tokens. Accuracies and
    /// block efficiency count tokens that cannot be drafted as misses; the loss leaves them out.
    fn evaluate(&self, model: &N) -> Result<Evaluated> {
        let positions = &self.dev_set.positions;
        let before = |slot| {
            let tokens = drafted(&self.dev, positions, slot);
            Tokens::new(&tokens, self.model.embed(&tokens))
        };
        // Decoder layers run much faster packed.
        let mut packed = model.clone();
        if model.cache(0, 0).is_some() {
            packed.pack(StorageType::Float32);
        }
        let model = &packed;
        let mut read = self.read(model, &self.dev, positions, None)?;
        let mut states = model.begin(read.starts(self.model, before(0))).chains(&before);
        let vocabulary = self.vocabulary.as_ref().filter(|_| self.whole_unembedding.is_none());
        let biased = self.biased(model);
        let unembedding = biased.as_ref().or(self.whole_unembedding.as_ref()).or(self.unembedding.as_ref());
        let (mut loss, mut accuracy, mut hits) = (0.0, Vec::new(), Vec::new());
        for head in 0..model.count() {
            let inside = targets(&self.dev, positions, head, 0.0, vocabulary);
            let all = targets(&self.dev, positions, head, 0.0, None).counted() as f64;
            let sought = (&inside, None, Criterion::CrossEntropy);
            let one = self.one_head(unembedding, [model.unembedding(head), None], states(head), sought, None);
            loss += one.loss / inside.counted().max(1) as f64 / self.divisor(head, model.count());
            let correct = inside.right(&one.choices);
            accuracy.push(share(&correct, all));
            hits.push(correct);
        }
        let block_efficiency = self.dev_set.block_efficiency(&hits);
        let metrics = Map::from_iter([
            ("loss".to_owned(), json!(loss)),
            ("accuracy".to_owned(), json!(accuracy.iter().sum::<f64>() / accuracy.len().max(1) as f64)),
            ("accuracy_by_head".to_owned(), json!(accuracy)),
            ("block_efficiency".to_owned(), json!(block_efficiency)),
        ]);
        let score = match self.options.choose_by {
            ChooseBy::DevLoss => loss,
            // A loss that is not finite must be noticed, whatever the choice is made by.
            ChooseBy::DevBlockEfficiency => {
                if loss.is_finite() {
                    -block_efficiency
                } else {
                    loss
                }
            }
        };
        Ok(Evaluated { score, metrics })
    }

    fn describe(&self, number: usize) -> Value {
        let Drawn { positions, heads, .. } = self.draw(number);
        let finite = |position: &Position| {
            let read = features_at(&self.train, std::slice::from_ref(position), &self.features);
            let finite = |read: &FeatureRows| {
                self.features.iter().all(|&feature| read.get(feature).iter().all(|x| x.is_finite()))
            };
            read.is_ok_and(|read| finite(&read))
        };
        let one = |position: &Position| {
            json!({
                "document": position.id(&self.train),
                "token": position.row,
                "states_are_finite": finite(position),
                "slots": (0..=self.weights.len()).map(|slot| drafted(&self.train, std::slice::from_ref(position), slot)[0]).collect::<Vec<_>>(),
            })
        };
        json!({"heads": heads.iter().map(|head| head + 2).collect::<Vec<_>>(), "positions": positions.iter().map(one).collect::<Vec<_>>()})
    }

    fn schedule(&self, options: &OptimizationConfig) -> Schedule {
        self.rates(options)
    }

    fn rate_factor(&self, parameter: &str) -> f64 {
        let factor = self.rate_factors.iter().find(|(prefix, _)| parameter.starts_with(prefix));
        factor.map_or(1.0, |(_, factor)| *factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that are right, wrong, and without a target: the loss by its formula, and its gradient by differences.
    #[cfg(feature = "cpu")]
    #[test]
    fn confidence_learns_whether_first_choices_are_right() {
        use crate::backbone::{LanguageModelConfig, ModelConfig, Transformer};
        use crate::heads::{BiasConfig, BiasedHeads, FfnConfig, HeadKind, HeadShape};
        use crate::nn::{Init, collect_parameters, gradients_by_name, load_parameters};
        use burn::optim::GradientsParams;

        let (device, width) = (Device::flex(), 4 + 2);
        let size = LanguageModelConfig { hidden: 4, layers: 1, heads: 1, kv_heads: 1, intermediate: 4, context: 8 };
        let config = ModelConfig::from_scratch(&size, 5);
        let model = Model::in_tensors(Transformer::new(&config, &mut Init::empty(&device)));
        let init = &mut Init::seeded(1, &device.clone().autodiff());
        let below = FfnConfig { hidden: 3, ..FfnConfig::default() }.network(HeadShape::new(2, &model), init);
        let bias = BiasConfig { rank: 2, confidence: true, ..BiasConfig::default() };
        let heads = BiasedHeads::new(below, bias, (model.config(), 5), init);
        let weights = [0.5, -1.0, 0.25, 2.0, -0.75, 1.5];
        let mut values = collect_parameters(&heads);
        values.get_mut("confidence.weight").unwrap().1 = weights.to_vec();
        values.get_mut("confidence.bias").unwrap().1 = vec![0.3];
        let heads = load_parameters(heads, values).unwrap();

        let states: Vec<f32> = (0..3 * width).map(|at| (at as f32 * 1.3).sin()).collect();
        let targets = Targets::of_tokens(&[1, 2, IGNORE]);
        let loss_of = |states: &[f32]| -> f64 {
            let logit = |row: usize| {
                let products = states[row * width..][..width].iter().zip(weights).map(|(x, w)| f64::from(x * w));
                products.sum::<f64>() + f64::from(0.3f32)
            };
            (1.0 + (-logit(0)).exp()).ln() + (1.0 + logit(1).exp()).ln()
        };
        let state = from_host(states.clone(), [3, width], &device);
        let found = confidence_loss(&heads, state, &targets, &[true, false, true]).unwrap();
        let ConfidenceLoss { loss, gradient, objective } = found;
        assert!((loss - loss_of(&states)).abs() < 1e-5);
        let of_heads = GradientsParams::from_grads(objective.backward(), &heads);
        let of_bias = gradients_by_name(&heads, &of_heads)["confidence.bias"][0];
        let slope = |row: usize, right: f32| {
            let products = states[row * width..][..width].iter().zip(weights).map(|(x, w)| x * w);
            1.0 / (1.0 + (-products.sum::<f32>() - 0.3).exp()) - right
        };
        assert!((of_bias - slope(0, 1.0) - slope(1, 0.0)).abs() < 1e-5, "{of_bias}");
        for (at, found) in to_host(gradient).into_iter().enumerate() {
            let nudged = |by: f32| {
                let mut states = states.clone();
                states[at] += by;
                loss_of(&states)
            };
            let expected = (nudged(1e-2) - nudged(-1e-2)) / 2e-2;
            assert!((f64::from(found) - expected).abs() < 1e-3, "{at}: {found} {expected}");
        }
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn the_loss_on_states_is_smooth_l1() {
        let differences = [-2.5f32, -0.5, 0.25, 0.0, 0.75, 3.0];
        let one = |x: f32| if x.abs() < 1.0 { 0.5 * x * x } else { x.abs() - 0.5 };
        let loss_of = |all: &[f32]| f64::from(all.iter().map(|&x| one(x)).sum::<f32>()) / 3.0;
        let (loss, gradient) = smooth_l1(from_host(differences.to_vec(), [2, 3], &Device::flex()));
        assert!((loss - loss_of(&differences)).abs() < 1e-6);
        for (at, found) in to_host(gradient).into_iter().enumerate() {
            let nudged = |by: f32| {
                let mut all = differences;
                all[at] += by;
                loss_of(&all)
            };
            let expected = (nudged(1e-2) - nudged(-1e-2)) / 2e-2;
            assert!((f64::from(found) - expected).abs() < 1e-4, "{at}: {found} {expected}");
        }
    }

    /// Three slots of two blocks, the second of which ends before the last.
    #[test]
    fn paced_weights_are_the_sums_of_the_products_behind() {
        let confidence = [[0.5, 0.0], [1.0, 1.0], [0.25, 0.9]];
        let rows: Vec<&[f64]> = confidence.iter().map(|rows| &rows[..]).collect();
        let weights = paced(0.5, &rows, |head, row| row == 0 || head < 2);
        // c = .75, 1, .625 and .5, 1.
        let plain = [[0.75 + 0.75 + 0.46875, 0.5 + 0.5], [0.75 + 0.46875, 0.5], [0.46875, 0.0]];
        let mean = plain.iter().flatten().sum::<f64>() / 5.0;
        for (found, plain) in weights.iter().flatten().zip(plain.iter().flatten()) {
            assert!((found - plain / mean).abs() < 1e-12, "{weights:?}");
        }
        let constant = paced(1.0, &rows, |head, _| head == 0);
        assert_eq!(constant, [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]);
    }
}
