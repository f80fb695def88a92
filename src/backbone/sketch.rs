//! What a model's values are, in a few numbers: enough to know the same model in another float type.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::storage_type::StorageType;

/// Norm and random projections of every tensor of a checkpoint, as float32 values.
///
/// Saved again in a coarser type, every value moves by at most that type's unit roundoff u, relative to itself. So the norm moves by at most
/// u times itself, and a projection on random signs by u times the norm in the root mean square at most, whereas other values move
/// both by as much as they differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValueSketch {
    /// The type that the matrices were stored in.
    weights: StorageType,
    tensors: BTreeMap<String, TensorSketch>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TensorSketch {
    shape: Vec<usize>,
    norm: f64,
    /// Sums of the values under random signs.
    projections: [f64; PROJECTIONS],
}

const PROJECTIONS: usize = 4;

/// Root mean squares that a projection may move by. Of a million projections, less than one moves farther by rounding.
const DEVIATIONS: f64 = 6.0;

impl ValueSketch {
    /// An empty sketch of a checkpoint whose matrices are stored in that type.
    pub(super) fn new(weights: StorageType) -> Self {
        Self { weights, tensors: BTreeMap::new() }
    }

    /// Adds a tensor.
    pub(super) fn add(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) {
        let (mut squares, mut projections) = (0.0, [0.0; PROJECTIONS]);
        let mut signs = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
        let mut bytes = [0; 4096];
        // A byte has the signs of two values.
        for values in values.chunks(2 * bytes.len()) {
            signs.fill(&mut bytes);
            for (place, &value) in values.iter().enumerate() {
                let (value, bits) = (f64::from(value), bytes[place / 2] >> (4 * (place % 2)));
                squares += value * value;
                for (number, projection) in projections.iter_mut().enumerate() {
                    *projection += if bits >> number & 1 == 1 { value } else { -value };
                }
            }
        }
        let sketch = TensorSketch { shape, norm: squares.sqrt(), projections };
        self.tensors.insert(name.to_owned(), sketch);
    }

    /// Returns the name of a tensor that differs from `other`'s by more than the coarser of the two types rounds; none where both are the
    /// same model.
    pub fn differing_tensor<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let unit = unit_roundoff(self.weights).max(unit_roundoff(other.weights));
        let names = self.tensors.keys().chain(other.tensors.keys());
        let differs = |name: &&String| match (self.tensors.get(*name), other.tensors.get(*name)) {
            (Some(one), Some(two)) => one.differs(two, unit),
            _ => true,
        };
        names.into_iter().find(differs).map(String::as_str)
    }
}

impl TensorSketch {
    fn differs(&self, other: &Self, unit: f64) -> bool {
        if self.shape != other.shape {
            return true;
        }
        // Values too small for float16's normal range move by an absolute amount, and sums of their own are rounded as well.
        let floor = (self.shape.iter().product::<usize>() as f64).sqrt() * 2f64.powi(-24);
        let allowed = unit * self.norm.max(other.norm) + floor;
        let projections = self.projections.iter().zip(&other.projections);
        (self.norm - other.norm).abs() > allowed
            || projections.into_iter().any(|(one, two)| (one - two).abs() > DEVIATIONS * allowed)
    }
}

/// The largest relative error of rounding to the type.
fn unit_roundoff(dtype: StorageType) -> f64 {
    match dtype {
        StorageType::Float32 => 2f64.powi(-24),
        StorageType::Float16 => 2f64.powi(-11),
        StorageType::Bfloat16 => 2f64.powi(-8),
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sketch(dtype: StorageType, tensors: &[Vec<f32>]) -> ValueSketch {
        let mut sketch = ValueSketch::new(dtype);
        for (number, values) in tensors.iter().enumerate() {
            let rounded: Vec<f32> = match dtype {
                StorageType::Float32 => values.clone(),
                StorageType::Float16 => values.iter().map(|&value| f16::from_f32(value).to_f32()).collect(),
                StorageType::Bfloat16 => values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect(),
            };
            sketch.add(&format!("tensor.{number}"), vec![values.len()], &rounded);
        }
        sketch
    }

    fn tensors(seed: u64) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // From a few values to more than the signs of one filling.
        let values = [3usize, 64, 1000, 20_000];
        values.iter().map(|&count| (0..count).map(|_| rng.random_range(-0.2..0.2)).collect()).collect()
    }

    const TYPES: [StorageType; 3] = [StorageType::Float32, StorageType::Float16, StorageType::Bfloat16];

    #[test]
    fn rounding_to_another_type_is_the_same_model() {
        for seed in 0..20 {
            let tensors = tensors(seed);
            let sketches = TYPES.map(|dtype| sketch(dtype, &tensors));
            for one in &sketches {
                for two in &sketches {
                    assert_eq!(one.differing_tensor(two), None);
                }
            }
            // Rounded twice: to float16, and that to bfloat16.
            let half: Vec<Vec<f32>> =
                tensors.iter().map(|t| t.iter().map(|&value| f16::from_f32(value).to_f32()).collect()).collect();
            assert_eq!(sketch(StorageType::Bfloat16, &half).differing_tensor(&sketches[0]), None);
        }
    }

    #[test]
    fn other_values_are_another_model() {
        let values = tensors(1);
        let whole = sketch(StorageType::Float32, &values);
        // Of one type: a single value, two that change places, a sign.
        let change = |change: &dyn Fn(&mut Vec<f32>)| {
            let mut changed = values.clone();
            change(&mut changed[2]);
            sketch(StorageType::Float32, &changed).differing_tensor(&whole).map(str::to_owned)
        };
        assert_eq!(change(&|_| {}), None);
        assert_eq!(change(&|values| values[7] *= 1.01).as_deref(), Some("tensor.2"));
        assert_eq!(change(&|values| values.swap(7, 8)).as_deref(), Some("tensor.2"));
        assert_eq!(change(&|values| values[9] = -values[9]).as_deref(), Some("tensor.2"));
        // Of another type: a model trained further by a few per cent.
        for dtype in TYPES {
            let mut rng = ChaCha8Rng::seed_from_u64(2);
            let further: Vec<Vec<f32>> =
                values.iter().map(|t| t.iter().map(|value| value + rng.random_range(-0.02..0.02)).collect()).collect();
            assert!(sketch(dtype, &further).differing_tensor(&whole).is_some(), "{dtype:?}");
        }
        let mut fewer = values.clone();
        fewer.pop();
        assert_eq!(sketch(StorageType::Float32, &fewer).differing_tensor(&whole), Some("tensor.3"));
    }
}
