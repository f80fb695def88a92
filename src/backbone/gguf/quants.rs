//! The number formats of GGUF tensors: floats, and blocks of 32 or 256 small integers that share scales.
//!
//! Every block format turns integers `q` into `scale * q` or `scale * q ± minimum`, in float32 and in this order, so
//! that the results are the same to the bit as those of llama.cpp's own tools.

use std::fmt;

use half::{bf16, f16};

use crate::error::{Result, bail};

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// For each kind: its number in the file, the numbers in a block, and the bytes of a block.
const KINDS: [(Kind, u32, usize, usize); 11] = [
    (Kind::F32, 0, 1, 4),
    (Kind::F16, 1, 1, 2),
    (Kind::BF16, 30, 1, 2),
    (Kind::Q4_0, 2, 32, 18),
    (Kind::Q4_1, 3, 32, 20),
    (Kind::Q5_0, 6, 32, 22),
    (Kind::Q5_1, 7, 32, 24),
    (Kind::Q8_0, 8, 32, 34),
    (Kind::Q4_K, 12, 256, 144),
    (Kind::Q5_K, 13, 256, 176),
    (Kind::Q6_K, 14, 256, 210),
];

impl Kind {
    /// Returns the kind that a file numbers `id`.
    ///
    /// # Errors
    /// When the kind is not supported; the error names it if llama.cpp has a name for it.
    pub fn from_id(id: u32) -> Result<Self> {
        if let Some((kind, ..)) = KINDS.iter().find(|(_, number, ..)| *number == id) {
            return Ok(*kind);
        }
        let name = match id {
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            40 => "NVFP4",
            41 => "Q1_0",
            _ => "unknown to this program",
        };
        let supported: Vec<String> = KINDS.iter().map(|(kind, ..)| kind.to_string()).collect();
        bail!(
            "numbers of type {id} ({name}) are not supported; these are: {}. Take a file of the same model in one of \
             them (Q4_K_M, Q6_K and Q8_0 files have no others), or convert it with llama-quantize.",
            supported.join(", ")
        )
    }

    /// Returns how many numbers and how many bytes a block has.
    pub fn block(self) -> (usize, usize) {
        let (_, _, numbers, bytes) = KINDS[self as usize];
        (numbers, bytes)
    }

    /// Returns the numbers of all whole blocks; bytes after the last whole block are ignored.
    pub fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        let (numbers, size) = self.block();
        let mut out = Vec::with_capacity(bytes.len() / size * numbers);
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::BF16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Q4_0 => each(bytes, |block: &[u8; 18]| {
                let scale = half(block, 0);
                out.extend(nibbles(&block[2..]).map(|q| scale * (q as f32 - 8.0)));
            }),
            Self::Q4_1 => each(bytes, |block: &[u8; 20]| {
                let (scale, minimum) = (half(block, 0), half(block, 2));
                out.extend(nibbles(&block[4..]).map(|q| scale * q as f32 + minimum));
            }),
            Self::Q5_0 => each(bytes, |block: &[u8; 22]| {
                let scale = half(block, 0);
                out.extend(fives(&block[2..]).map(|q| scale * (q as f32 - 16.0)));
            }),
            Self::Q5_1 => each(bytes, |block: &[u8; 24]| {
                let (scale, minimum) = (half(block, 0), half(block, 2));
                out.extend(fives(&block[4..]).map(|q| scale * q as f32 + minimum));
            }),
            Self::Q8_0 => each(bytes, |block: &[u8; 34]| {
                let scale = half(block, 0);
                out.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
            }),
            Self::Q4_K => each(bytes, |block: &[u8; 144]| {
                let (lows, none) = (&block[16..], [0; 32]);
                scaled_by_six_bits(block, &none, lows, &mut out);
            }),
            Self::Q5_K => each(bytes, |block: &[u8; 176]| {
                let (highs, lows) = block[16..].split_at(32);
                scaled_by_six_bits(block, highs, lows, &mut out);
            }),
            Self::Q6_K => each(bytes, |block: &[u8; 210]| q6_k(block, &mut out)),
        }
        out
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Calls `block` with every whole block.
fn each<const SIZE: usize>(bytes: &[u8], block: impl FnMut(&[u8; SIZE])) {
    bytes.as_chunks().0.iter().for_each(block);
}

/// Reads the float16 number at byte `at` of a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Iterates over the low halves of all bytes, then over the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

/// Iterates over five-bit numbers, which are stored as 32 fifth bits and then 32 nibbles.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (highs, lows) = bytes.split_at(4);
    nibbles(lows).enumerate().map(|(i, low)| low | (highs[i / 8] >> (i % 8) & 1) << 4)
}

/// Decodes a block of Q4_K or Q5_K: eight groups of 32 numbers. A group's scale and minimum have 6 bits each, and all
/// groups share two float16 factors. Bit `g` of a byte of `highs` is the fifth bit of a number in group `g`.
fn scaled_by_six_bits(block: &[u8], highs: &[u8], lows: &[u8], out: &mut Vec<f32>) {
    let (scale_factor, minimum_factor) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    for group in 0..8 {
        // The first four groups have bytes of their own, whose top bits complete the nibbles of the last four.
        let (scale, minimum) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4)
            }
        };
        let (scale, minimum) = (scale_factor * f32::from(scale), minimum_factor * f32::from(minimum));
        // Two neighbouring groups share 32 bytes of nibbles.
        let (pair, shift) = (&lows[group / 2 * 32..][..32], group % 2 * 4);
        out.extend(pair.iter().zip(highs).map(|(low, high)| {
            let q = low >> shift & 15 | (high >> group & 1) << 4;
            scale * f32::from(q) - minimum
        }));
    }
}

/// Decodes a block of Q6_K: two halves of 128 numbers, each with 64 bytes of nibbles, 32 bytes of upper pairs of bits,
/// and a scale for each 16 numbers.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let factor = half(block, 208);
    for part in 0..2 {
        let lows = &block[part * 64..][..64];
        let highs = &block[128 + part * 32..][..32];
        let scales = &block[192 + part * 8..][..8];
        // The low nibbles of the 64 bytes are numbers 0 to 63, the high ones 64 to 127.
        out.extend(nibbles(lows).enumerate().map(|(i, low)| {
            let q = low | (highs[i % 32] >> (i / 32 * 2) & 3) << 4;
            factor * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0)
        }));
    }
}
