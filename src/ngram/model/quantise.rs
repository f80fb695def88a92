//! Stores values as codes of one byte: a smaller model whose answers are slightly off.

use std::io::{self, Seek, Write};
use std::path::Path;

use super::Model;
use super::layout::{ColumnWriter, Header, Values};
use crate::error::{Result, bail};
use crate::files;

/// The error that the codes make, in log10.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantisation {
    /// The root mean square error of the probabilities.
    pub probs_rms: f64,
    /// The largest error of a probability.
    pub probs_largest: f64,
    /// The root mean square error of the back-off weights.
    pub backoffs_rms: f64,
    /// The largest error of a back-off weight.
    pub backoffs_largest: f64,
}

/// The number of different values in a column.
const CODES: usize = 256;
/// Values that keep a code of their own: what cannot occur, and what changes nothing.
const EXACT: [f32; 4] = [f32::NEG_INFINITY, f32::INFINITY, -0.0, 0.0];

fn is_exact(value: f32) -> bool {
    value == 0.0 || value.is_infinite()
}

/// 256 values: the exact ones first, then the others in ascending order.
struct Codebook {
    values: Vec<f32>,
}

impl Codebook {
    /// Fits bins of equal width, each standing for the mean of its values, so that no value is off by more than a bin.
    /// Signs have a meaning, so values of different signs never share a bin.
    fn fit(values: Values) -> Self {
        let inexact = || (0..values.len()).map(|index| values.get(index)).filter(|value| !is_exact(*value));
        let bins = CODES - EXACT.len();
        let range = |negative: bool| {
            let of_sign = inexact().filter(|value| value.is_sign_negative() == negative);
            of_sign.fold(None, |range, value| {
                let (low, high) = range.unwrap_or((value, value));
                Some((value.min(low), value.max(high)))
            })
        };
        let ranges = [range(true), range(false)];
        let width = |range: Option<(f32, f32)>| range.map_or(0.0, |(low, high)| f64::from(high) - f64::from(low));
        let whole = width(ranges[0]) + width(ranges[1]);
        // The sum and the number of the values in every bin, the negative bins first.
        let mut sums = vec![(0.0, 0u64); bins];
        let for_negative = if whole > 0.0 { (bins as f64 * width(ranges[0]) / whole) as usize } else { 1 };
        let for_negative = for_negative.clamp(1, bins - 1);
        for value in inexact() {
            let negative = value.is_sign_negative();
            let (first, bins) = if negative { (0, for_negative) } else { (for_negative, bins - for_negative) };
            let range = ranges[usize::from(!negative)];
            let low = range.map_or(0.0, |range| f64::from(range.0));
            let place = (f64::from(value) - low) / width(range).max(f64::MIN_POSITIVE) * bins as f64;
            let bin = &mut sums[first + (place as usize).min(bins - 1)];
            *bin = (bin.0 + f64::from(value), bin.1 + 1);
        }
        let mut means: Vec<f32> =
            sums.iter().filter(|bin| bin.1 > 0).map(|&(sum, number)| (sum / number as f64) as f32).collect();
        means.resize(bins, means.last().copied().unwrap_or(0.0));
        Self { values: [&EXACT[..], &means].concat() }
    }

    /// Returns the code of the nearest value of the same sign.
    fn code(&self, value: f32) -> u8 {
        if let Some(exact) = EXACT.iter().position(|exact| exact.to_bits() == value.to_bits()) {
            return exact as u8;
        }
        let means = &self.values[EXACT.len()..];
        let above = means.partition_point(|&mean| mean < value).min(means.len() - 1);
        let below = above.saturating_sub(1);
        let fits = |index: usize| means[index].is_sign_negative() == value.is_sign_negative();
        let nearer = (value - means[below]).abs() <= (means[above] - value).abs();
        let nearest = if fits(below) && (nearer || !fits(above)) { below } else { above };
        (EXACT.len() + nearest) as u8
    }
}

impl Model {
    /// Writes the model with its values as codes, and returns the error that they make.
    ///
    /// # Errors
    /// When the model is quantised already, or the file cannot be written.
    pub fn write_quantised(&self, path: &Path) -> Result<Quantisation> {
        if self.header.quantised {
            bail!("the model is quantised already. Quantise the one it was made from.");
        }
        let books = [Codebook::fit(self.columns.probs()), Codebook::fit(self.columns.backoffs())];
        let [probs, backoffs] = [self.columns.probs(), self.columns.backoffs()];
        files::write_with(path, |out| self.write_codes(&books, out))?;
        let (probs_rms, probs_largest) = error(probs, &books[0]);
        let (backoffs_rms, backoffs_largest) = error(backoffs, &books[1]);
        Ok(Quantisation { probs_rms, probs_largest, backoffs_rms, backoffs_largest })
    }

    /// Writes the file.
    fn write_codes(&self, [probs, backoffs]: &[Codebook; 2], out: &mut (impl Write + Seek)) -> io::Result<()> {
        let mut header = Header { quantised: true, hashes: Header::no_hashes(), ..self.header.clone() };
        let (old, new) = (self.header.layout().0, header.layout().0);
        let mut hashes = Vec::new();
        for (index, range) in new.iter().enumerate() {
            let mut column = ColumnWriter::new(range);
            match index {
                0 => {
                    for at in 0..self.columns.backoffs().len() {
                        column.push(backoffs.code(self.columns.backoffs().get(at)), out)?;
                    }
                }
                1 => {
                    for at in 0..self.columns.probs().len() {
                        column.push(probs.code(self.columns.probs().get(at)), out)?;
                    }
                }
                5 => {
                    for &value in probs.values.iter().chain(&backoffs.values) {
                        column.push(value, out)?;
                    }
                }
                _ => {
                    for &byte in &self.columns.bytes()[old[index].start as usize..old[index].end as usize] {
                        column.push(byte, out)?;
                    }
                }
            }
            hashes.push(column.finish(out)?);
        }
        header.hashes = hashes;
        header.write(out)
    }
}

/// Returns the root mean square and the largest of the errors of the finite values.
fn error(values: Values, book: &Codebook) -> (f64, f64) {
    let (mut squares, mut largest, mut number) = (0.0, 0f64, 0u64);
    for value in (0..values.len()).map(|index| values.get(index)).filter(|value| value.is_finite()) {
        let difference = f64::from(value) - f64::from(book.values[usize::from(book.code(value))]);
        squares += difference * difference;
        largest = largest.max(difference.abs());
        number += 1;
    }
    ((squares / number.max(1) as f64).sqrt(), largest)
}
