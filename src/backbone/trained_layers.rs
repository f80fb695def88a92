//! Decoder layers in training on the CPU: the forward of [`HostLayers`], and its gradient by the same kernels.
//!
//! Rows may come in levels: those of a level attend to the cache's columns, which those of earlier levels have been
//! written to. Gradients go back through the levels in reverse, so that the gradient of a level's keys and values is
//! complete when its turn comes. The gradients of matrices wait for the rows of all levels, since one long product is
//! faster than many short ones.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::columns::CacheSlot;
use super::host_layers::{HostLayer, HostLayers, Step, cross_matrices, matrices, visible_text};
use crate::kernels::{
    ColumnGradients, LayerCache, NormGradient, NormWeights, PackedMatrix, Rotations, VisibleSpan, activate,
    activate_backward, attend_backward, gate, gate_backward, on_pool, weight_gradient,
};

/// The last layers of a decoder, in training.
pub(super) struct TrainedLayers {
    layers: HostLayers,
    transposed: Vec<Transposed>,
}

/// The matrices of a layer, transposed: they take gradients from outputs to inputs.
struct Transposed {
    query_key_value: PackedMatrix,
    attention_output: PackedMatrix,
    cross: Option<TransposedCross>,
    up: PackedMatrix,
    down: PackedMatrix,
}

/// The same of attention to the backbone's keys and values.
struct TransposedCross {
    query: PackedMatrix,
    output: PackedMatrix,
}

/// What the forward of some levels leaves for its gradient. It serves step after step, as its memory is used again.
#[derive(Default)]
pub(super) struct Tape {
    layers: Vec<LayerTape>,
    /// The levels that have not been gone back through.
    levels: Vec<Level>,
    /// The rows of all levels.
    rows: usize,
}

struct Level {
    texts: Vec<Vec<CacheSlot>>,
    rows: Range<usize>,
}

/// The rows of all levels in one layer.
#[derive(Default)]
struct LayerTape {
    /// What attention reads, where rows bring it along.
    read: Vec<f32>,
    entered: Vec<f32>,
    projected: Vec<f32>,
    mixed: Vec<f32>,
    /// Of attention to the backbone's keys and values.
    crossing: Vec<f32>,
    asked: Vec<f32>,
    crossed: Vec<f32>,
    attended: Vec<f32>,
    expanded: Vec<f32>,
    /// The gradients of what the products give.
    of_projected: Vec<f32>,
    of_attended: Vec<f32>,
    of_asked: Vec<f32>,
    of_crossed: Vec<f32>,
    of_expanded: Vec<f32>,
    of_left: Vec<f32>,
    attention_norm: NormGradient,
    query_norm: NormGradient,
    key_norm: NormGradient,
    mlp_norm: NormGradient,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tape {{ layers: {}, rows: {} }}", self.layers.len(), self.rows)
    }
}

impl Tape {
    /// Forgets all levels and gradients.
    pub fn clear(&mut self) {
        self.levels.clear();
        self.rows = 0;
        for layer in &mut self.layers {
            for rows in [
                &mut layer.read,
                &mut layer.entered,
                &mut layer.projected,
                &mut layer.mixed,
                &mut layer.crossing,
                &mut layer.asked,
                &mut layer.crossed,
                &mut layer.attended,
                &mut layer.expanded,
            ] {
                rows.clear();
            }
            for norm in [&mut layer.attention_norm, &mut layer.query_norm, &mut layer.key_norm, &mut layer.mlp_norm] {
                *norm = NormGradient::default();
            }
        }
    }
}

/// Returns the numbers of some rows of `[rows, width]`.
fn rows(all: &[f32], rows: &Range<usize>, total: usize) -> Range<usize> {
    let width = all.len() / total.max(1);
    rows.start * width..rows.end * width
}

impl TrainedLayers {
    /// Takes layers whose matrices are packed as float32.
    pub fn new(layers: HostLayers) -> Self {
        let transposed = |layer: &HostLayer| Transposed {
            query_key_value: layer.query_key_value.transposed(),
            attention_output: layer.attention_output.transposed(),
            cross: layer
                .cross
                .as_ref()
                .map(|cross| TransposedCross { query: cross.query.transposed(), output: cross.output.transposed() }),
            up: layer.up.transposed(),
            down: layer.down.transposed(),
        };
        let transposed = on_pool(|| layers.layers.iter().map(transposed).collect());
        Self { layers, transposed }
    }

    /// Takes `x` `[rows, d]`, the rows of a level, text after text, through the layers, as inference does, to the bit.
    /// `read` is what attention reads where rows bring it along. `texts` are the places of the rows, `caches` those of the texts,
    /// by layer, with room for the new columns, which are written.
    pub fn forward(
        &self,
        (x, read): (&mut [f32], &[f32]),
        texts: &[Vec<CacheSlot>],
        caches: &mut [Vec<LayerCache>],
        tape: &mut Tape,
    ) {
        let Tape { layers, levels, rows } = tape;
        layers.resize_with(self.layers.len(), LayerTape::default);
        let first = *rows;
        *rows += texts.iter().map(Vec::len).sum::<usize>();
        levels.push(Level { texts: texts.to_vec(), rows: first..*rows });
        layers[0].read.extend_from_slice(read);
        let parallel = self.layers.config.parallel_residual;
        let keep = |index: usize, step: Step, values: &[f32]| {
            let layer = &mut layers[index];
            match step {
                Step::Entered => layer.entered.extend_from_slice(values),
                Step::Projected => layer.projected.extend_from_slice(values),
                Step::Mixed => layer.mixed.extend_from_slice(values),
                Step::Crossing => layer.crossing.extend_from_slice(values),
                Step::Asked => layer.asked.extend_from_slice(values),
                Step::Crossed => layer.crossed.extend_from_slice(values),
                // In parallel, the MLP reads what has entered.
                Step::Attended if !parallel => layer.attended.extend_from_slice(values),
                Step::Attended | Step::Left => {}
                Step::Expanded => layer.expanded.extend_from_slice(values),
            }
        };
        on_pool(|| self.layers.forward((x, read), texts, caches, self.layers.len(), keep));
    }

    /// Goes back through the last level that has not been gone back through: takes `dx` from d loss/d`x` after the layers
    /// to d loss/d`x` before them. Returns that of what attention reads where rows bring it along.
    ///
    /// `gradients`, by text and layer, are those of the caches' columns. They collect what the level's rows give to the
    /// columns that they see, and must hold what later levels gave to the level's own.
    ///
    /// # Panics
    /// When there is no such level, or the sizes do not agree.
    pub fn backward(
        &self,
        dx: &mut [f32],
        caches: &[Vec<LayerCache>],
        gradients: &mut [Vec<ColumnGradients>],
        tape: &mut Tape,
    ) -> Vec<f32> {
        let level = tape.levels.pop().expect("a level for each way back");
        let (seen, seen_text) = (self.layers.visible(&level.texts), visible_text(&level.texts));
        let rotations = self.layers.rotations(&level.texts);
        assert!(caches.len() == level.texts.len() && gradients.len() == level.texts.len());
        let mut of_read = Vec::new();
        on_pool(|| {
            for index in (0..self.layers.len()).rev() {
                let seen = &seen[self.layers.windowed(index)];
                let (mut own, mut crossed) = (Vec::new(), Vec::new());
                for (text, (caches, gradients)) in caches.iter().zip(&mut *gradients).enumerate() {
                    let placed = &level.texts[text];
                    // Behind those of the layers are the backbone's keys and values, if they are attended to.
                    let (of_layers, of_backbone) = gradients.split_at_mut(self.layers.len());
                    let (cache, gradients) = (&caches[index], &mut of_layers[index]);
                    own.push(TextRows { placed, seen: &seen[text], cache, gradients });
                    let of_backbone = caches.get(self.layers.len()).zip(of_backbone.first_mut());
                    crossed.extend(of_backbone.map(|(cache, gradients)| TextRows {
                        placed,
                        seen: &seen_text[text],
                        cache,
                        gradients,
                    }));
                }
                let layer = &mut tape.layers[index];
                let rows = (&level.rows, tape.rows);
                let waiting = self.layers.waiting(index, dx);
                waiting.silence(dx);
                of_read = self.layer_backward(index, rows, dx, [own, crossed], &rotations, layer);
                waiting.restore(dx);
            }
        });
        of_read
    }

    /// Goes back through one layer with `rows.0` of all `rows.1` rows of the tape. Returns the gradient of what attention reads where
    /// rows bring it along.
    fn layer_backward(
        &self,
        index: usize,
        (range, total): (&Range<usize>, usize),
        dx: &mut [f32],
        [texts, crossed]: [Vec<TextRows>; 2],
        rotations: &Rotations,
        tape: &mut LayerTape,
    ) -> Vec<f32> {
        let (config, layer, transposed) = (&self.layers.config, &self.layers.layers[index], &self.transposed[index]);
        let inner_width = config.intermediate_size;
        let of = |all: &[f32]| rows(all, range, total);
        tape.of_projected.resize(tape.projected.len(), 0.0);
        tape.of_attended.resize(tape.entered.len(), 0.0);
        tape.of_asked.resize(tape.asked.len(), 0.0);
        tape.of_crossed.resize(tape.crossing.len(), 0.0);
        tape.of_expanded.resize(tape.expanded.len(), 0.0);
        tape.of_left.resize(tape.entered.len(), 0.0);
        let (stream, expanded) = (of(&tape.entered), of(&tape.expanded));
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());

        tape.of_left[stream.clone()].copy_from_slice(dx);
        transposed.down.multiply(dx, &mut wide);
        let (x, of_expanded) = (&tape.expanded[expanded.clone()], &mut tape.of_expanded[expanded]);
        if config.gated {
            gate_backward(config.activation, x, inner_width, &wide, of_expanded);
        } else {
            activate_backward(config.activation, x, inner_width, &wide, of_expanded);
        }
        transposed.up.multiply(of_expanded, &mut narrow);
        let entered = &tape.entered[stream.clone()];
        let attended = if config.parallel_residual { entered } else { &tape.attended[stream.clone()] };
        // What the product of attention's output is added to passes its gradient on; in parallel, the MLP does not read it.
        if config.parallel_residual {
            tape.of_attended[stream].copy_from_slice(dx);
            transposed.attention_output.multiply(dx, &mut wide);
            layer.mlp_norm.backward(attended, &narrow, dx, &mut tape.mlp_norm);
        } else {
            layer.mlp_norm.backward(attended, &narrow, dx, &mut tape.mlp_norm);
            if let Some(cross) = &transposed.cross {
                tape.of_crossed[stream.clone()].copy_from_slice(dx);
                cross.output.multiply(dx, &mut wide);
                let asked = of(&tape.asked);
                let of_asked = &mut tape.of_asked[asked.clone()];
                let rows = (&tape.asked[asked], cross.query.inputs());
                self.attention_backward([&None, &None], rows, &wide, crossed, rotations, of_asked);
                cross.query.multiply_onto(of_asked, dx);
            }
            tape.of_attended[stream].copy_from_slice(dx);
            transposed.attention_output.multiply(dx, &mut wide);
        }

        let projected = of(&tape.projected);
        let of_projected = &mut tape.of_projected[projected.clone()];
        let norms = [&layer.query_norm, &layer.key_norm];
        let rows = (&tape.projected[projected], layer.query_key_value.outputs());
        let norms = self.attention_backward(norms, rows, &wide, texts, rotations, of_projected);
        for [query_norm, key_norm] in &norms {
            tape.query_norm.add(query_norm);
            tape.key_norm.add(key_norm);
        }
        transposed.query_key_value.multiply(of_projected, &mut narrow);
        match &layer.attention_norm {
            Some(norm) => {
                norm.backward(entered, &narrow, dx, &mut tape.attention_norm);
                Vec::new()
            }
            None => narrow,
        }
    }

    /// From the gradient `of_mixed` `[rows, query heads, width]` to that of the projections, which are given with the numbers of a
    /// row, text by text. Returns the gradients of each text's norms of queries and keys.
    fn attention_backward(
        &self,
        norms: [&Option<NormWeights>; 2],
        (projected, numbers): (&[f32], usize),
        of_mixed: &[f32],
        texts: Vec<TextRows>,
        rotations: &Rotations,
        of_projected: &mut [f32],
    ) -> Vec<[NormGradient; 2]> {
        let (q, _) = self.layers.widths();
        let mut parts = Vec::new();
        let (mut rest, mut first) = (of_projected, 0);
        for text in texts {
            let count = text.placed.len();
            let (mine, others) = rest.split_at_mut(count * numbers);
            let projected = &projected[first * numbers..][..mine.len()];
            parts.push((text, projected, &of_mixed[first * q..][..count * q], mine, first));
            (rest, first) = (others, first + count);
        }
        let text = |(text, projected, of_mixed, of_projected, first): (TextRows, _, _, &mut [f32], _)| {
            self.text_backward(norms, text, (projected, of_mixed, of_projected), (rotations, first))
        };
        parts.into_par_iter().map(text).collect()
    }

    /// Does the work of [`TrainedLayers::attention_backward`] for one text, whose first row is the level's row `first`.
    fn text_backward(
        &self,
        [query_norm, key_norm]: [&Option<NormWeights>; 2],
        TextRows { placed, seen, cache, gradients }: TextRows,
        (projected, of_mixed, of_projected): (&[f32], &[f32], &mut [f32]),
        (rotations, first): (&Rotations, usize),
    ) -> [NormGradient; 2] {
        let mut norms = [NormGradient::default(), NormGradient::default()];
        if placed.is_empty() {
            return norms;
        }
        let ((q, kv), numbers) = (self.layers.widths(), projected.len() / placed.len());
        let (scale, width) = (self.layers.query_scale(), self.layers.config.head_dim);
        let (mut queries, mut turned) = (Vec::with_capacity(of_mixed.len()), Vec::new());
        for (i, row) in projected.chunks(numbers).enumerate() {
            self.layers.turn(&row[..q], query_norm, (rotations, first + i), &mut turned);
            queries.extend(turned.iter().map(|x| x * scale));
        }
        let mut of_queries = vec![0.0; queries.len()];
        attend_backward(&queries, seen, cache, of_mixed, &mut of_queries, gradients);
        // Back through the rotation and the norm.
        let back = |row: usize, slope: &mut [f32], x: &[f32], norm: &Option<NormWeights>, sum: &mut NormGradient| {
            slope.chunks_mut(width).for_each(|head| rotations.turn_back(first + row, head));
            if let Some(norm) = norm {
                let mut of_x = vec![0.0; x.len()];
                norm.backward(x, slope, &mut of_x, sum);
                slope.copy_from_slice(&of_x);
            }
        };
        let rows = projected.chunks(numbers).zip(of_projected.chunks_mut(numbers));
        for (i, ((row, slopes), of_queries)) in rows.zip(of_queries.chunks(q)).enumerate() {
            let (of_query, rest) = slopes.split_at_mut(q);
            of_query.iter_mut().zip(of_queries).for_each(|(to, from)| *to = from * scale);
            back(i, of_query, &row[..q], query_norm, &mut norms[0]);
            // Rows may have queries alone.
            if let Some((of_key, of_value)) = rest.split_at_mut_checked(kv) {
                let [of_keys, of_values] = gradients.column(placed[i].column);
                of_key.copy_from_slice(&of_keys);
                of_value.copy_from_slice(&of_values);
                back(i, of_key, &row[q..q + kv], key_norm, &mut norms[1]);
            }
        }
        norms
    }

    /// Returns the gradients of all parameters by name, each in the order of the parameter's numbers, summed over all
    /// levels of the tape, and clears it.
    ///
    /// # Panics
    /// When a level has not been gone back through.
    pub fn gradients(&self, tape: &mut Tape) -> BTreeMap<String, Vec<f32>> {
        assert!(tape.levels.is_empty(), "every level gives its gradient");
        let mut all = BTreeMap::new();
        on_pool(|| {
            for (index, (layer, tape)) in self.layers.layers.iter().zip(&mut tape.layers).enumerate() {
                self.layer_gradients(layer, tape, |name, gradient| {
                    all.insert(format!("{index}.{name}"), gradient);
                });
            }
        });
        tape.clear();
        all
    }

    /// Gives the gradient of every parameter of a layer to `put`, with its name.
    fn layer_gradients(&self, layer: &HostLayer, tape: &mut LayerTape, mut put: impl FnMut(String, Vec<f32>)) {
        let config = &self.layers.config;
        let inner_width = config.intermediate_size;
        let attended = if config.parallel_residual { &tape.entered } else { &tape.attended };
        let (mut normed, mut inner) = (Vec::new(), Vec::new());
        let [query_key_value, attention_output, up, down] = matrices(config, layer.query_key_value.inputs());
        let mut matrix = |(parts, inputs, biased): (Vec<(&str, usize)>, usize, bool), dy: &[f32], x: &[f32]| {
            let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
            let mut weight = weight_gradient(dy, outputs, x, inputs);
            let mut bias = vec![0.0; if biased { outputs } else { 0 }];
            for row in dy.chunks(outputs) {
                bias.iter_mut().zip(row).for_each(|(sum, dy)| *sum += dy);
            }
            for (name, outputs) in parts.iter().rev() {
                put(format!("{name}.weight"), weight.split_off(weight.len() - outputs * inputs));
                if biased {
                    put(format!("{name}.bias"), bias.split_off(bias.len() - outputs));
                }
            }
        };
        match &layer.attention_norm {
            Some(norm) => {
                norm.forward(&tape.entered, &mut normed);
                matrix(query_key_value, &tape.of_projected, &normed);
            }
            None => matrix(query_key_value, &tape.of_projected, &tape.read),
        }
        matrix(attention_output, &tape.of_attended, &tape.mixed);
        if layer.cross.is_some() {
            let [query, output] = cross_matrices(config);
            matrix(query, &tape.of_asked, &tape.crossing);
            matrix(output, &tape.of_crossed, &tape.crossed);
        }
        layer.mlp_norm.forward(attended, &mut normed);
        matrix(up, &tape.of_expanded, &normed);
        if config.gated {
            gate(config.activation, &tape.expanded, inner_width, &mut inner);
        } else {
            activate(config.activation, &tape.expanded, inner_width, &mut inner);
        }
        matrix(down, &tape.of_left, &inner);
        for (name, norm) in [
            ("input_layernorm", &mut tape.attention_norm),
            ("self_attn.q_norm", &mut tape.query_norm),
            ("self_attn.k_norm", &mut tape.key_norm),
            ("post_attention_layernorm", &mut tape.mlp_norm),
        ] {
            for (part, values) in [("weight", &mut norm.weight), ("bias", &mut norm.bias)] {
                if !values.is_empty() {
                    put(format!("{name}.{part}"), std::mem::take(values));
                }
            }
        }
    }
}

/// One text's rows of a level, in one layer.
struct TextRows<'a> {
    placed: &'a [CacheSlot],
    seen: &'a [VisibleSpan],
    cache: &'a LayerCache,
    gradients: &'a mut ColumnGradients,
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
