//! The stored candidates of every head at every position of a trace. They are computed once and read by all rescorers
//! and all evaluations. A lattice with a smaller k consists of the first candidates of each slot.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::{BlockStarts, CandidatesAt, FrozenHeads, ReadDocuments, SlotStats, Wanted};
use crate::backbone::Model;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::kernels::SoftmaxStats;
use crate::lattice::Lattice;
use crate::progress::{self, Progress};
use crate::storage_type::StorageType;
use crate::traces::{Trace, TraceDocument};

/// The file `candidates.bin`, which `candidates.json` describes. For every token of every continuation, it holds the
/// candidates of the block that begins there. It has four parts of 4-byte numbers in the machine's byte order: ids
/// `[positions, H - 1, k]`; logits of the same shape; leads of the k-th candidate over the first one left out,
/// `[positions, H - 1]`; and log-sum-exp and entropy of each head's softmax, and its confidence if the heads know it,
/// `[positions, H - 1, 2 or 3]`.
///
/// If the heads' states are kept, `states.bin` has them, `[positions, H - 1, d]`, little-endian.
pub struct StoredCandidates {
    description: Description,
    map: Mmap,
    /// The states, if they are kept.
    states: Option<Mmap>,
    /// The first position of each document, followed by the number of all positions.
    first: Vec<usize>,
    /// The largest number of tokens that each document's continuation could have had.
    limits: Vec<usize>,
    seconds: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    heads: usize,
    k: usize,
    positions: usize,
    /// Whether the heads know their confidence.
    confident: bool,
    states: Option<KeptStates>,
}

impl Description {
    /// The numbers that are known of a slot besides its candidates.
    fn stats(&self) -> usize {
        2 + usize::from(self.confident)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct KeptStates {
    dtype: StorageType,
    width: usize,
}

/// The file for what differs each time that candidates are computed. It is kept apart so that the other files are
/// reproducible.
const TIMINGS: &str = "timings.json";

#[derive(Serialize, Deserialize)]
struct Timings {
    seconds: f64,
}

impl StoredCandidates {
    /// Computes the `k` best tokens of every head for `trace` and writes them into `folder`, together with the heads' states if
    /// these are to be kept in a type.
    ///
    /// # Errors
    /// Returns the errors of [`FrozenHeads::candidates`], and an error after an interrupt or if the disk is full.
    /// Nothing is left behind then.
    pub fn make(
        trace: &Trace,
        (heads, model): (&FrozenHeads, &Model),
        (k, states): (usize, Option<StorageType>),
        folder: &Path,
        title: &str,
    ) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let Some(dtype) = states else {
            return compute(trace, (heads, model), k, folder, title, None, &mut |_| Ok(()));
        };
        // They are written as they are made: there may be more of them than memory holds.
        let mut outcome = Ok(());
        files::write_with(&folder.join(STATES), |file| {
            let mut bytes = Vec::new();
            outcome = compute(trace, (heads, model), k, folder, title, Some(dtype), &mut |states| {
                bytes.clear();
                dtype.encode(states, &mut bytes);
                file.write_all(&bytes).map_err(|e| Error::io("write", folder.join(STATES), e))
            });
            Ok(())
        })?;
        outcome
    }

    /// Maps the candidates in `folder`, which were made for `trace`.
    ///
    /// # Errors
    /// Returns an error if the files are damaged or belong to another trace.
    pub fn open(folder: &Path, trace: &Trace) -> Result<Self> {
        let description: Description = files::read_json(&folder.join("candidates.json"))?;
        let path = folder.join("candidates.bin");
        let map = map_file(&path)?;
        let mut first = vec![0];
        first.extend(trace.documents().iter().scan(0, |end, document| {
            *end += document.continuation;
            Some(*end)
        }));
        let Description { heads, k, positions, states, .. } = description;
        let kept = states.map(|kept| map_file(&folder.join(STATES)).map(|map| (map, kept))).transpose()?;
        // A damaged description may ask for more than can be counted.
        let size = |of_slot: Option<usize>| of_slot?.checked_mul(positions)?.checked_mul(heads);
        let of_states = |kept: &KeptStates| size(kept.width.checked_mul(kept.dtype.bytes()));
        let whole = |(map, kept): &(Mmap, KeptStates)| Some(map.len()) == of_states(kept);
        let of_slot = k.checked_mul(8).and_then(|candidates| candidates.checked_add(4 * (1 + description.stats())));
        if Some(map.len()) != size(of_slot) || positions != first[first.len() - 1] || !kept.as_ref().is_none_or(whole) {
            bail!("{}: not the candidates of this trace. Remove its folder, and they are made again.", path.display());
        }
        let limits = trace.documents().iter().map(|document| document.limit).collect();
        let seconds = files::read_json(&folder.join(TIMINGS)).ok().map(|Timings { seconds }| seconds);
        Ok(Self { description, map, states: kept.map(|(map, _)| map), first, limits, seconds })
    }

    /// Returns the wall-clock seconds that it took to make the candidates, or none if this was not recorded.
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// Returns k, the number of candidates per head.
    pub fn k(&self) -> usize {
        self.description.k
    }

    /// Returns the number of heads, H - 1.
    pub fn heads(&self) -> usize {
        self.description.heads
    }

    /// Returns the candidates of the block that follows the first `t` tokens of a document's continuation.
    pub fn at(&self, document: usize, t: usize) -> CandidatesAt<'_> {
        let Description { heads, k, .. } = self.description;
        let [ids, scores, margins, _] = self.parts();
        let position = self.first[document] + t;
        let cells = position * heads * k..(position + 1) * heads * k;
        CandidatesAt {
            k,
            ids: &ids[cells.clone()],
            scores: bytemuck::cast_slice(&scores[cells]),
            margins: bytemuck::cast_slice(&margins[position * heads..][..heads]),
        }
    }

    /// Returns the heads' states `[H - 1, d]` at that block; empty if they are not kept.
    pub fn states(&self, document: usize, t: usize) -> Vec<f32> {
        let mut states = Vec::new();
        if let Some((map, KeptStates { dtype, width })) = self.states.as_ref().zip(self.description.states) {
            let bytes = self.heads() * width * dtype.bytes();
            dtype.decode(&map[(self.first[document] + t) * bytes..][..bytes], &mut states);
        }
        states
    }

    /// Returns what is known of every slot of that block besides its candidates.
    pub fn stats(&self, document: usize, t: usize) -> impl Iterator<Item = SlotStats> {
        let (numbers, count) = (self.description.stats(), self.description.stats() * self.heads());
        let at: &[f32] = bytemuck::cast_slice(&self.parts()[3][(self.first[document] + t) * count..][..count]);
        at.chunks(numbers).map(|slot| SlotStats {
            softmax: SoftmaxStats { log_sum: slot[0], entropy: slot[1] },
            confidence: slot.get(2).copied(),
        })
    }

    fn parts(&self) -> [&[u32]; 4] {
        let Description { heads, k, positions, .. } = self.description;
        let (ids, rest) = bytemuck::cast_slice(&self.map).split_at(positions * heads * k);
        let (scores, rest) = rest.split_at(positions * heads * k);
        let (margins, stats) = rest.split_at(positions * heads);
        [ids, scores, margins, stats]
    }

    /// Returns the lattice of that block with the `k` best candidates of every slot. It has H slots, or fewer if the
    /// document's limit is reached before. `first` is the token with index `t` of the continuation.
    ///
    /// # Errors
    /// Returns an error if the candidates are damaged.
    pub fn lattice(&self, document: usize, t: usize, first: u32, k: usize) -> Result<Lattice> {
        let at = self.at(document, t);
        let slots = (self.limits[document] - t).min(self.heads() + 1);
        Lattice::pinned(first, at.k, at.ids, at.scores)?.prefix(slots, k)
    }
}

/// Maps a file.
fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    // SAFETY: this program writes a file under another name and renames it. It never changes a file in place, so a mapped file
    // stays as it was opened.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}

/// The file of the heads' states.
const STATES: &str = "states.bin";

/// Computes candidates and writes all of them but the heads' states, which `keep` is given document by document if they are
/// wanted as a type.
fn compute(
    trace: &Trace,
    (heads, model): (&FrozenHeads, &Model),
    k: usize,
    folder: &Path,
    title: &str,
    dtype: Option<StorageType>,
    keep: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let (started, wanted) = (Instant::now(), Wanted { stats: true, states: dtype.is_some() });
    let (mut ids, mut scores, mut margins, mut stats) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut width, mut confident) = (0, false);
    let mut bar = Progress::with_costs(title, 0, trace.documents().iter().map(|document| document.len() as f64));
    let mut found_k = k.min(heads.vocabulary());
    let mut read = ReadDocuments::new(heads, model, trace, 1);
    for (number, document) in trace.documents().iter().enumerate() {
        progress::stop_if_interrupted(title)?;
        if document.continuation > 0 {
            read.read(0, number)?;
            let places: Vec<_> = (document.prompt - 1..document.len() - 1).map(|token| (0, token)).collect();
            let (states, context) = read.behind(&places);
            let starts = BlockStarts { states: &states, pinned: trace.continuation(document), context };
            let found = heads.candidates(model, starts, k, wanted).map_err(|e| e.within(&document.id))?;
            keep(&found.states)?;
            width = found.states.len() / found.margins.len();
            found_k = found.k;
            ids.extend(found.ids);
            scores.extend(found.scores);
            margins.extend(found.margins);
            for SlotStats { softmax, confidence } in found.stats {
                confident |= confidence.is_some();
                stats.extend([softmax.log_sum, softmax.entropy].into_iter().chain(confidence));
            }
        }
        bar.advance(String::new);
    }
    let positions = margins.len() / heads.count().max(1);
    let states = dtype.map(|dtype| KeptStates { dtype, width });
    let description = Description { heads: heads.count(), k: found_k, positions, confident, states };
    files::write_with(&folder.join("candidates.bin"), |file| {
        file.write_all(bytemuck::cast_slice(&ids))?;
        file.write_all(bytemuck::cast_slice(&scores))?;
        file.write_all(bytemuck::cast_slice(&margins))?;
        file.write_all(bytemuck::cast_slice(&stats))
    })?;
    files::write_json(&folder.join("candidates.json"), &description)?;
    files::write_json(&folder.join(TIMINGS), &Timings { seconds: started.elapsed().as_secs_f64() })?;
    bar.finish(&format!("{} positions, the {found_k} best tokens of {} heads", description.positions, heads.count()));
    Ok(())
}

/// Returns the positions of a trace where a rescorer can learn from a block, each as the document and the number of
/// tokens of its continuation before the block.
pub fn block_starts(documents: &[TraceDocument]) -> Vec<(usize, usize)> {
    let starts = |(document, entry): (usize, &TraceDocument)| {
        (0..entry.continuation.saturating_sub(1)).map(move |t| (document, t))
    };
    documents.iter().enumerate().flat_map(starts).collect()
}
