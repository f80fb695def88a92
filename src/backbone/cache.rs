//! Keys and values of the tokens already seen.

use burn::tensor::Tensor;

use super::columns::{CacheSlot, Columns, Span};
use super::model_config::ModelConfig;
use super::tensor_layers::Padding;
use crate::kernels::LayerCache;
use crate::nn::{from_host, indices, to_host};

/// Keys and values of some texts side by side, each of its own length. Grows as needed; nothing is copied when tokens are
/// appended.
pub struct KvCache {
    pub(super) texts: Vec<Columns>,
    /// Of every text, the state `[1, n]` of its last token that [`KvCache::states_before`] was given, if it was given any.
    last: Vec<Option<Tensor<2>>>,
    /// Of every text, the states of all its tokens that [`KvCache::keep_states`] was given, one after the other, and their width.
    kept: (Vec<Vec<f32>>, usize),
    pub(super) storage: Storage,
}

/// Given states `[tokens, n]` of `counts` tokens of some texts, text after text, returns those of the tokens before each of them.
/// Before a text's first token here stands the state that `last` gives for it, or zero.
pub fn states_before(counts: &[usize], states: &Tensor<2>, last: &[Option<Tensor<2>>]) -> Tensor<2> {
    let ([tokens, width], device) = (states.dims(), states.device());
    let nothing = || Tensor::zeros([1, width], (&device, states.dtype()));
    let begins: Vec<Tensor<2>> = last.iter().map(|last| last.clone().unwrap_or_else(nothing)).collect();
    let mut rows = Vec::with_capacity(tokens);
    for (text, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let first = rows.len();
        rows.push(tokens + text);
        rows.extend(first..first + count - 1);
    }
    let all = Tensor::cat([vec![states.clone()], begins].concat(), 0);
    if rows.is_empty() { states.clone() } else { all.select(0, indices(rows, &device)) }
}

/// Where the numbers lie.
pub(super) enum Storage {
    /// By text and layer.
    Host(Vec<Vec<LayerCache>>),
    /// In tensors of a device.
    Device(DeviceCache),
}

impl KvCache {
    /// Makes an empty cache for `layers` layers and `texts` texts, with room for `tokens` tokens each before it first grows.
    pub(super) fn on_host(config: &ModelConfig, layers: usize, texts: usize, tokens: usize) -> Self {
        let layer = || LayerCache::new(config.num_key_value_heads, config.head_dim, tokens);
        let text = || (0..layers).map(|_| layer()).collect();
        Self::of(texts, Storage::Host((0..texts).map(|_| text()).collect()))
    }

    /// Does the same as [`KvCache::on_host`] in tensors.
    pub(super) fn on_device(config: &ModelConfig, layers: usize, texts: usize, tokens: usize) -> Self {
        let device = DeviceCache {
            width: config.head_dim,
            layers: (0..layers).map(|_| None).collect(),
            used: 0,
            capacity: tokens.max(1),
            places: vec![Vec::new(); texts],
        };
        Self::of(texts, Storage::Device(device))
    }

    fn of(texts: usize, storage: Storage) -> Self {
        let (columns, kept) = (vec![Columns::default(); texts], (vec![Vec::new(); texts], 0));
        Self { texts: columns, last: vec![None; texts], kept, storage }
    }

    /// Hides the first `hidden` columns of every text, which nothing sees, and with `paired` gives every token two columns.
    #[must_use]
    pub fn with_columns(mut self, hidden: usize, paired: bool) -> Self {
        self.texts.iter_mut().for_each(|columns| *columns = Columns::new(hidden, paired));
        self
    }

    /// Keeps states `[tokens, n]` of `counts` more tokens of each text, text after text. To be called before the tokens are appended.
    pub fn keep_states(&mut self, counts: &[usize], states: &Tensor<2>) {
        let (of_texts, width) = &mut self.kept;
        *width = states.dims()[1];
        let numbers = to_host(states.clone());
        let mut rest = &numbers[..];
        for ((kept, columns), &count) in of_texts.iter_mut().zip(&self.texts).zip(counts) {
            let (mine, others) = rest.split_at(count * *width);
            kept.truncate(columns.len() * *width);
            kept.extend(mine);
            rest = others;
        }
    }

    /// Returns the states that were kept of the tokens `distance` before those at `places`, each a text and the number of a token in it,
    /// in the type of `like`. Before a text's first token they are zero.
    pub fn kept_before(&self, places: &[(usize, usize)], distance: usize, like: &Tensor<2>) -> Tensor<2> {
        let (of_texts, width) = &self.kept;
        let before = |&(text, token): &(usize, usize)| match token.checked_sub(distance) {
            Some(before) => of_texts[text][before * width..][..*width].to_vec(),
            None => vec![0.0; *width],
        };
        let device = like.device().without_autodiff();
        from_host::<2>(places.iter().flat_map(before).collect(), [places.len(), *width], &device).cast(like.dtype())
    }

    /// Returns the places of `counts` more tokens of each text, text after text.
    pub fn next_places(&self, counts: &[usize]) -> Vec<(usize, usize)> {
        let of_text = |(text, &count): (usize, &usize)| {
            let tokens = self.len(text);
            (tokens..tokens + count).map(move |token| (text, token))
        };
        counts.iter().enumerate().flat_map(of_text).collect()
    }

    /// Given states `[tokens, n]` of `counts` more tokens of each text, text after text, returns those of the tokens before each of
    /// them. Before a text's first token they are zero. To be called before the tokens are appended; the last state of each text is
    /// kept for its next tokens.
    pub fn states_before(&mut self, counts: &[usize], states: &Tensor<2>) -> Tensor<2> {
        let begins = |columns: &Columns| columns.len() == 0;
        let lasts = self.last.iter_mut().zip(&self.texts);
        lasts.filter(|(_, columns)| begins(columns)).for_each(|(last, _)| *last = None);
        let before = states_before(counts, states, &self.last);
        let mut end = 0;
        for (last, &count) in self.last.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
            end += count;
            *last = Some(states.clone().narrow(0, end - 1, 1));
        }
        before
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Columns that text `text` uses.
    pub fn len(&self, text: usize) -> usize {
        self.texts[text].len()
    }

    /// Columns that text `text` uses in the cache, where a token may have two.
    pub(super) fn columns(&self, text: usize) -> usize {
        self.texts[text].in_cache(self.len(text))
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Takes the tokens of one span a text.
    pub(super) fn place(&mut self, spans: &[Span]) -> Vec<Vec<CacheSlot>> {
        assert_eq!(spans.len(), self.texts.len(), "one span for each text of the cache");
        self.place_with(|text, columns| columns.place(&spans[text]))
    }

    /// Takes what `place` places in each text.
    pub(super) fn place_with(
        &mut self,
        mut place: impl FnMut(usize, &mut Columns) -> Vec<CacheSlot>,
    ) -> Vec<Vec<CacheSlot>> {
        let texts = self.texts.iter_mut().enumerate();
        let placed: Vec<Vec<CacheSlot>> = texts.map(|(text, columns)| place(text, columns)).collect();
        match &mut self.storage {
            Storage::Host(layers) => {
                for (layers, columns) in layers.iter_mut().zip(&self.texts) {
                    let needed = columns.in_cache(columns.len());
                    if layers.first().is_some_and(|layer| layer.capacity() < needed) {
                        layers.iter_mut().for_each(|layer| layer.grow(2 * needed));
                    }
                }
            }
            Storage::Device(device) => device.take(placed.iter().map(Vec::len)),
        }
        placed
    }

    /// Takes `counts` more tokens of each text.
    pub(super) fn append(&mut self, counts: &[usize]) -> Vec<Vec<CacheSlot>> {
        self.place_with(|text, columns| columns.append(counts[text]))
    }

    /// Writes the keys and the values `[rows, heads x width]` of placed rows, text after text, in layer `layer`.
    pub(super) fn write(&mut self, layer: usize, placed: &[Vec<CacheSlot>], keys: Tensor<2>, values: Tensor<2>) {
        match &mut self.storage {
            Storage::Host(layers) => {
                let width = keys.dims()[1];
                let (keys, values) = (to_host(keys), to_host(values));
                let mut rows = keys.chunks(width).zip(values.chunks(width));
                for (layers, placed) in layers.iter_mut().zip(placed) {
                    for (slot, (keys, values)) in placed.iter().zip(&mut rows) {
                        layers[layer].write(slot.column, keys, values);
                    }
                }
            }
            Storage::Device(device) => device.write(layer, placed, keys, values),
        }
    }

    /// The layers of every text, in this process's memory.
    ///
    /// # Panics
    /// When they are on a device.
    pub(super) fn on_host_mut(&mut self) -> &mut [Vec<LayerCache>] {
        match &mut self.storage {
            Storage::Host(layers) => layers,
            Storage::Device(_) => panic!("a cache on a device"),
        }
    }

    /// Lets what is in the cache take part in automatic differentiation, as constants.
    pub fn autodiff(&mut self) {
        if let Storage::Device(device) = &mut self.storage {
            for (keys, values) in device.layers.iter_mut().flatten() {
                (*keys, *values) = (keys.clone().autodiff(), values.clone().autodiff());
            }
        }
    }

    /// Forgets every column of a text from `len` on.
    pub fn truncate(&mut self, text: usize, len: usize) {
        self.texts[text].truncate(len);
        let in_cache = self.columns(text);
        if let Storage::Device(device) = &mut self.storage {
            device.places[text].truncate(in_cache);
            device.forget_tail();
        }
    }

    /// Forgets a text for good; the last one takes its number.
    pub fn swap_remove(&mut self, text: usize) {
        self.texts.swap_remove(text);
        self.last.swap_remove(text);
        self.kept.0.swap_remove(text);
        match &mut self.storage {
            Storage::Host(layers) => drop(layers.swap_remove(text)),
            Storage::Device(device) => device.swap_remove(text),
        }
    }

    /// Keeps the first `base` columns of a text and then those at `base + offset` for the ascending `offsets`, which must
    /// follow one another: the accepted nodes of a verified draft tree.
    pub fn keep(&mut self, text: usize, base: usize, offsets: &[usize]) {
        self.texts[text].straighten(base + offsets.len());
        match &mut self.storage {
            Storage::Host(layers) => {
                let moved = || offsets.iter().enumerate().filter(|(to, from)| to != *from);
                for layer in &mut layers[text] {
                    moved().for_each(|(to, from)| layer.move_column(base + from, base + to));
                }
            }
            Storage::Device(device) => {
                let places = &mut device.places[text];
                let kept: Vec<usize> = offsets.iter().map(|offset| places[base + offset]).collect();
                places.truncate(base);
                places.extend(kept);
                device.forget_tail();
            }
        }
    }
}

/// Tensors of keys and values. All texts write their new tokens into the same columns; which of them hold which token of a
/// text is kept beside them, so that rolling back and keeping a path of a tree move no numbers.
pub(super) struct DeviceCache {
    /// `[texts, heads, capacity, width]`, made when the first token comes.
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    /// Numbers of one head.
    width: usize,
    /// Columns written.
    used: usize,
    capacity: usize,
    /// By text and token.
    places: Vec<Vec<usize>>,
}

impl DeviceCache {
    /// Takes as many more columns as the largest of `counts`, of which the first `counts[text]` hold tokens of each text.
    fn take(&mut self, counts: impl Iterator<Item = usize> + Clone) {
        let new = counts.clone().max().unwrap_or(0);
        if self.used + new > self.capacity {
            self.compact(new);
        }
        for (places, count) in self.places.iter_mut().zip(counts) {
            places.extend(self.used..self.used + count);
        }
        self.used += new;
    }

    /// Columns in use.
    pub fn columns(&self) -> usize {
        self.used
    }

    /// The columns of a text's tokens.
    pub fn places(&self, text: usize) -> &[usize] {
        &self.places[text]
    }

    /// Writes the newest columns of one layer and gives all that are in use.
    pub fn append(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [texts, heads, new, width] = keys.dims();
        // Moved through, never shared: only so does writing happen in place.
        let (all_keys, all_values) = self.layers[layer].take().unwrap_or_else(|| {
            let options = (&keys.device(), keys.dtype());
            let shape = [texts, heads, self.capacity, width];
            (Tensor::zeros(shape, options), Tensor::zeros(shape, options))
        });
        let place = [0..texts, 0..heads, self.used - new..self.used, 0..width];
        let all_keys = all_keys.slice_assign(place.clone(), keys);
        let all_values = all_values.slice_assign(place, values);
        self.layers[layer] = Some((all_keys, all_values));
        self.view(layer)
    }

    /// Returns the columns of one layer that are in use, of which some may hold nothing.
    pub fn view(&self, layer: usize) -> (Tensor<4>, Tensor<4>) {
        let (keys, values) = self.layers[layer].as_ref().expect("a layer that was written");
        let [texts, heads, _, width] = keys.dims();
        let used = [0..texts, 0..heads, 0..self.used, 0..width];
        (keys.clone().slice(used.clone()), values.clone().slice(used))
    }

    /// Writes the newest columns of one layer, given as `[rows, heads x width]`, text after text.
    fn write(&mut self, layer: usize, placed: &[Vec<CacheSlot>], keys: Tensor<2>, values: Tensor<2>) {
        let (counts, device) = (placed.iter().map(Vec::len).collect::<Vec<_>>(), keys.device());
        let padding = Padding::new(&counts, &device);
        let [keys, values] = [keys, values].map(|rows| padding.split(rows, self.width));
        self.append(layer, keys, values);
    }

    /// Copies the rows of all texts but one.
    fn swap_remove(&mut self, text: usize) {
        let mut kept: Vec<usize> = (0..self.places.len()).collect();
        kept.swap_remove(text);
        self.places.swap_remove(text);
        for layer in &mut self.layers {
            let Some((keys, values)) = layer.take().filter(|_| !kept.is_empty()) else { continue };
            let index = indices(kept.iter().copied(), &keys.device());
            *layer = Some((keys.select(0, index.clone()), values.select(0, index)));
        }
        self.forget_tail();
    }

    /// Columns behind the last one that any text uses can be written again.
    fn forget_tail(&mut self) {
        self.used = self.places.iter().flatten().max().map_or(0, |last| last + 1);
    }

    /// Moves the tokens of every text to the front, into tensors with room for `new` more columns.
    fn compact(&mut self, new: usize) {
        let longest = self.places.iter().map(Vec::len).max().unwrap_or(0);
        let columns = longest.max(1);
        self.capacity = (2 * (longest + new)).max(self.capacity);
        // Behind a shorter text's end lies whatever is in its first column; nothing sees it.
        let column = |places: &Vec<usize>, i: usize| places.get(i).or(places.first()).copied().unwrap_or(0);
        let padded = self.places.iter().flat_map(|places| (0..columns).map(move |i| column(places, i)));
        // Where no layer has been written, there is nothing to move.
        if let Some(device) = self.layers.iter().flatten().next().map(|(keys, _)| keys.device()) {
            let index = indices(padded, &device).reshape([self.places.len(), 1, columns, 1]);
            let grow = |tensor: Tensor<4>| {
                let [texts, heads, _, width] = tensor.dims();
                let index = index.clone().expand([texts, heads, columns, width]);
                let larger = Tensor::zeros([texts, heads, self.capacity, width], (&device, tensor.dtype()));
                larger.slice_assign([0..texts, 0..heads, 0..columns, 0..width], tensor.gather(2, index))
            };
            for layer in &mut self.layers {
                *layer = layer.take().map(|(keys, values)| (grow(keys), grow(values)));
            }
        }
        self.places.iter_mut().for_each(|places| *places = (0..places.len()).collect());
        self.used = longest;
    }
}
