//! The analysis of whether heads that lose confidence later draft better, across data sets (arXiv 2404.09221).

use super::block_efficiency::VariantRow;
use super::heads::HMaxRow;
use crate::error::Result;
use crate::tables::{BASELINE, Dataset, Record, Section, Table, format, record};

record! {
    /// The least-squares line of plain bpd's block_efficiency on h_max over the data sets; left out for fewer than three sets, and
    /// where one of the two does not vary.
    struct LineRow in "efficiency-by-h-max", each "line" {
        /// The data sets that the line is fitted to.
        sets: u64 = "data sets" as Count;
        /// The line's rise in tokens per backbone call for each further head of h_max.
        slope: f64 = "slope" as ThreeDecimals;
        /// The line's value at h_max 0.
        intercept: f64 = "intercept" as ThreeDecimals;
        /// Pearson's correlation of the two over the data sets.
        r: f64 = "r" as TwoDecimals;
    }
}

/// Fits a line through the data sets.
///
/// # Errors
/// Returns an error if the tables do not have the shape that this program writes.
pub fn across(datasets: &[Dataset]) -> Result<Option<Section>> {
    let mut points = Vec::new();
    for set in datasets {
        let (heads, variants) = (set.rows::<HMaxRow>()?, set.rows::<VariantRow>()?);
        let plain = variants.iter().find(|(name, _)| *name == BASELINE);
        if let ([(_, heads)], Some((_, plain))) = (&heads[..], plain) {
            points.push([heads.h_max as f64, plain.block_efficiency]);
        }
    }
    Ok(regression(&points).map(|line| {
        let mut section = Section::new(LineRow::TABLE, "Block efficiency by h_max", LineRow::DEFINITION);
        section.claims.push(format!(
            "Over {} data sets, {BASELINE}'s block efficiency changes by {} tokens per call with each head up to which entropy \
             rises (h_max; r = {}).",
            format::count(line.sets),
            format::fixed(line.slope, 3),
            format::fixed(line.r, 2)
        ));
        section.tables.push(Table::of([(BASELINE.to_owned(), line)]));
        section
    }))
}

/// Fits a line through `[x, y]` points. Returns none if there are fewer than three, or if all x or all y are equal.
fn regression(points: &[[f64; 2]]) -> Option<LineRow> {
    let n = points.len() as f64;
    let mean = |axis: usize| points.iter().map(|p| p[axis]).sum::<f64>() / n;
    let [x, y] = [mean(0), mean(1)];
    let moment = |a: usize, b: usize| points.iter().map(|p| (p[a] - [x, y][a]) * (p[b] - [x, y][b])).sum::<f64>();
    let [xx, xy, yy] = [moment(0, 0), moment(0, 1), moment(1, 1)];
    let line = || {
        let slope = xy / xx;
        LineRow { sets: points.len() as u64, slope, intercept: y - slope * x, r: xy / (xx * yy).sqrt() }
    };
    (points.len() >= 3 && xx > 0.0 && yy > 0.0).then(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_that_of_another_implementation() {
        // The expected values come from Python's statistics.linear_regression(x, y) and statistics.correlation(x, y).
        let found = regression(&[[3.0, 1.1], [5.0, 1.7], [9.0, 3.12], [4.0, 1.27]]).unwrap();
        for (found, expected) in [
            (found.slope, 0.347_590_361_445_783_1),
            (found.intercept, -0.027_349_397_590_361_146),
            (found.r, 0.996_768_909_268_639_1),
        ] {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn two_points_or_a_point_thrice_make_no_line() {
        assert_eq!(regression(&[[1.0, 2.0], [2.0, 3.0]]), None);
        assert_eq!(regression(&[[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]), None);
        assert_eq!(regression(&[[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), None);
    }
}
