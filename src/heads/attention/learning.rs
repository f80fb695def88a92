//! The training of attention heads on the CPU. Layers are run and gone back through by the crate's own kernels, everything
//! else by automatic differentiation, piece by piece between them.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use super::{AttentionHeads, by_text, following};
use crate::backbone::{FeatureTensors, LayerGradients, TrainedRows, states_before};
use crate::heads::network::{Context, DraftedTokens, Learning, Starts};
use crate::nn::{ParameterPath, from_host};

/// Heads in a training step.
pub(super) struct AttentionLearning<'a> {
    heads: &'a AttentionHeads,
    rows: TrainedRows<'a>,
    drafted: &'a DraftedTokens<'a>,
    /// The states of the texts' tokens, if the layers attend to what is made of them.
    texts: Option<&'a FeatureTensors>,
    /// The text of each start, and the column of the newest row behind it.
    places: Vec<(usize, usize)>,
    levels: Vec<Level>,
}

/// The rows of a level, `[rows, d]` each, or wider where they carry more on.
struct Level {
    /// What enters the layers, and what rows carry on behind it, as the end of the piece that makes it.
    made: Tensor<2>,
    /// The same, and what left the layers: leaves of the pieces that read them, where gradients stop.
    entered: Tensor<2>,
    left: Tensor<2>,
    /// The heads' states, which are made of `left`.
    states: Tensor<2>,
}

fn leaf(tensor: Tensor<2>) -> Tensor<2> {
    tensor.without_autodiff().autodiff().require_grad()
}

/// Puts zeros behind rows, so that they have `width` numbers.
fn padded(rows: Tensor<2>, width: usize) -> Tensor<2> {
    let ([n, own], options) = (rows.dims(), (&rows.device(), rows.dtype()));
    if own == width { rows } else { Tensor::cat(vec![rows, Tensor::zeros([n, width - own], options)], 1) }
}

impl<'a> AttentionLearning<'a> {
    pub fn new(heads: &'a AttentionHeads, starts: Starts<'a>, drafted: &'a DraftedTokens<'a>) -> Self {
        let Starts { states, pinned, context, .. } = starts;
        let Context { cache, places, texts } = context.expect("heads that attend are given a context");
        let before = heads.before_starts(&states, cache, &places);
        let first = heads.entry.first_rows(&states, before, pinned.embeddings, heads.count);
        let (rows, texts) = (heads.decoder.begin_step(cache), texts.filter(|_| heads.makes_context()));
        let mut learning = Self { heads, rows, drafted, texts, places, levels: Vec::new() };
        learning.run(first);
        learning
    }

    /// Runs the rows that enter the layers as `made`.
    fn run(&mut self, made: Tensor<2>) {
        let columns = by_text(self.rows.texts(), &self.places);
        let lengths = (0..columns.len()).map(|text| self.rows.len(text)).collect();
        let entering = self.heads.entering(&made).without_autodiff();
        let left = leaf(self.rows.run(entering, self.heads.new_rows(&columns)));
        self.places = following(&self.places, lengths);
        let entered = leaf(made.clone());
        let states = self.heads.states(&entered, left.clone());
        self.levels.push(Level { made, entered, left, states });
    }

    /// Returns the state `[n, d]` of a head whose level was run.
    fn state_of(&self, head: usize) -> Tensor<2> {
        if self.heads.entry.is_sequential() {
            return self.levels[head].states.clone();
        }
        self.heads.slot(&self.levels[0].states, self.places.len(), head)
    }
}

impl Learning for AttentionLearning<'_> {
    fn state(&mut self, head: usize) -> Tensor<2> {
        if self.heads.entry.is_sequential() {
            while self.levels.len() <= head {
                let Level { entered, left, .. } = &self.levels[self.levels.len() - 1];
                let tokens = (self.drafted)(self.levels.len()).embeddings;
                self.run(self.heads.entry.next(entered.clone(), left.clone(), tokens));
            }
        }
        self.state_of(head).without_autodiff()
    }

    fn back(mut self: Box<Self>, gradients: Vec<(usize, Tensor<2>)>) -> (Tensor<1>, GradientsParams) {
        let (heads, trains_context) = (self.heads, self.texts.is_some());
        let mut of_parameters = GradientsAccumulator::new();
        // The gradient of what the level behind was made as.
        let mut of_made: Option<Tensor<2>> = None;
        for number in (0..self.levels.len()).rev() {
            let is_of_level = |head: usize| head == number || !heads.entry.is_sequential();
            let read = |&&(head, _): &&(usize, Tensor<2>)| is_of_level(head);
            let of_states = gradients.iter().filter(read).map(|(head, g)| (self.state_of(*head) * g.clone()).sum());
            // Rows that are made of their tokens alone read nothing of the level before.
            let of_next = of_made.filter(|_| heads.entry.reads_rows());
            let of_next = of_next.map(|of_made| (self.levels[number + 1].made.clone() * of_made).sum());
            let Level { entered, left, .. } = &self.levels[number];
            let (mut past, mut of_left) = (None, None);
            if let Some(piece) = of_states.chain(of_next).reduce(|a, b| a + b) {
                let mut backward = piece.backward();
                (past, of_left) = (entered.grad_remove(&mut backward), left.grad_remove(&mut backward));
                of_parameters.accumulate(heads, GradientsParams::from_module(&mut backward, heads));
            }
            // What leaves the layers for a row that nobody predicts with may be read by nothing. The rows behind still see its keys
            // and values.
            let of_left = of_left.unwrap_or_else(|| left.clone().without_autodiff().zeros_like());
            let through = self.rows.back(of_left, trains_context);
            let through = padded(through, entered.dims()[1]);
            of_made = Some(past.map_or(through.clone(), |past| past + through));
        }
        let of_first = (self.levels[0].made.clone() * of_made.expect("at least one level")).sum();
        let lengths = self.rows.lengths().to_vec();
        let LayerGradients { parameters, context } = self.rows.finish(trains_context);
        let of_context = self.texts.into_iter().flat_map(|texts| {
            let nothing = vec![None; lengths.len()];
            let before = |of_tokens: &Tensor<2>| states_before(&lengths, of_tokens, &nothing);
            let read = heads.context(texts, before).expect("a context of features");
            let kept = heads.decoder.keys_and_values(&read, &lengths);
            kept.into_iter()
                .flatten()
                .zip(context.iter().flatten())
                .map(|(kept, gradient)| {
                    let gradient = from_host(gradient.clone(), kept.dims(), &kept.device().without_autodiff());
                    (kept * gradient).sum()
                })
                .collect::<Vec<_>>()
        });
        let of_pieces = of_context.fold(of_first, |a, b| a + b);
        let mut known = OfLayers { path: ParameterPath::default(), found: parameters, known: GradientsParams::new() };
        heads.visit(&mut known);
        of_parameters.accumulate(heads, known.known);
        (of_pieces, of_parameters.grads())
    }
}

/// Gives the gradients found for layers to their parameters.
struct OfLayers {
    path: ParameterPath,
    found: BTreeMap<String, Vec<f32>>,
    known: GradientsParams,
}

impl ModuleVisitor for OfLayers {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (value, name) = (param.val(), self.path.name());
        if let Some(gradient) = name.strip_prefix("decoder.").and_then(|name| self.found.remove(name)) {
            let device = value.device().without_autodiff();
            self.known.register(param.id, from_host(gradient, value.dims(), &device));
        }
    }
}
