//! The types in which numbers are kept.

use half::{bf16, f16};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageType {
    /// 4 bytes a number.
    Float32,
    /// 2 bytes, 11 significant bits, largest value 65,504.
    Float16,
    /// 2 bytes, 8 significant bits, the range of float32.
    Bfloat16,
}

impl StorageType {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        if self == Self::Float32 { 4 } else { 2 }
    }

    /// Rounds numbers to what this type can hold.
    pub fn round(self, values: &mut [f32]) {
        let round: fn(f32) -> f32 = match self {
            Self::Float32 => return,
            Self::Float16 => |x| f16::from_f32(x).to_f32(),
            Self::Bfloat16 => |x| bf16::from_f32(x).to_f32(),
        };
        let all = |values: &mut [f32]| values.iter_mut().for_each(|x| *x = round(*x));
        if values.len() <= SHARE { all(values) } else { values.par_chunks_mut(SHARE).for_each(all) }
    }

    /// Appends the little-endian bytes of `values`.
    pub fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::Float32 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::Float16 => bytes.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
            Self::Bfloat16 => bytes.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        }
    }

    /// Appends the numbers of little-endian `bytes`.
    pub fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        let begin = values.len();
        values.resize(begin + bytes.len() / self.bytes(), 0.0);
        let (values, size) = (&mut values[begin..], self.bytes());
        if values.len() <= SHARE {
            return self.decode_into(bytes, values);
        }
        let shares = values.par_chunks_mut(SHARE).zip(bytes.par_chunks(SHARE * size));
        shares.for_each(|(values, bytes)| self.decode_into(bytes, values));
    }

    fn decode_into(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::Float32 => fill(values, bytes, f32::from_le_bytes),
            Self::Float16 => fill(values, bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bfloat16 => fill(values, bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

/// The numbers above which the threads share the work.
const SHARE: usize = 1 << 16;

/// Fills `values` with what `read` makes of each number's bytes.
fn fill<const N: usize>(values: &mut [f32], bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = read(*bytes));
}
