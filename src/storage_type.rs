//! The types in which numbers are kept.

use half::{bf16, f16};
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
        match self {
            Self::Float32 => {}
            Self::Float16 => values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            Self::Bfloat16 => values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        }
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
        match self {
            Self::Float32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::Float16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::Bfloat16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        }
    }
}
