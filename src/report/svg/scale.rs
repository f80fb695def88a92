//! Scales of axes: from values to places in the drawing, and round values for labels.

/// A map from an interval of values to an interval of places, linear or logarithmic to base 2.
#[derive(Clone, Copy)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log2: bool,
}

impl Scale {
    /// Maps `low..high` to `from..to`. An empty interval is widened, so that a single point is drawn in the middle.
    pub fn linear([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        let pad = if high > low { 0.0 } else { 0.5 };
        Self { low: low - pad, high: high + pad, from, to, log2: false }
    }

    /// Maps the base-2 logarithms of positive values in the same way.
    pub fn log2([low, high]: [f64; 2], places: [f64; 2]) -> Self {
        Self { log2: true, ..Self::linear([low.log2(), high.log2()], places) }
    }

    /// Returns the place of `value`.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.log2 { value.log2() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
}

/// Returns roughly `about` round values that cover `[low, high]`. The first is at or below `low`, and the last at or
/// above `high`.
///
/// Around a single value, the interval is widened to a width of 1.
pub fn ticks([low, high]: [f64; 2], about: usize) -> Vec<f64> {
    let [low, high] = if high > low { [low, high] } else { [low - 0.5, high + 0.5] };
    let rough = (high - low) / about as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(10.0 * power);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect()
}

/// Returns the number of decimals that tell `ticks` apart.
pub fn decimals(ticks: &[f64]) -> usize {
    let step = ticks.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
    if step.is_finite() { (-(step * 1.001).log10().floor()).max(0.0) as usize } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover() {
        assert_eq!(ticks([0.0, 1.0], 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks([1.02, 3.9], 5), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(decimals(&ticks([2.0, 2.0], 5)), 1);
        for (low, high) in [(0.0, 2.135), (1.511, 1.523), (5.0, 5.0), (0.0, 90.0), (-3.0, 0.1)] {
            let ticks = ticks([low, high], 5);
            assert!(ticks[0] <= low && *ticks.last().unwrap() >= high && ticks.len() <= 9, "{low} {high} {ticks:?}");
            assert!(decimals(&ticks) <= 4);
        }
    }

    #[test]
    fn decimals_tell_ticks_apart() {
        assert_eq!(decimals(&[0.0, 0.5, 1.0]), 1);
        assert_eq!(decimals(&[0.0, 0.02]), 2);
        assert_eq!(decimals(&[0.0, 20.0]), 0);
        assert_eq!(decimals(&[1.0]), 0);
    }

    #[test]
    fn scales_map_ends_to_ends() {
        let scale = Scale::log2([1.0, 64.0], [0.0, 60.0]);
        assert_eq!([1.0, 8.0, 64.0].map(|v| scale.place(v)), [0.0, 30.0, 60.0]);
        assert_eq!(Scale::linear([3.0, 3.0], [0.0, 10.0]).place(3.0), 5.0);
    }
}
