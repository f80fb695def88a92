//! Means over seeds and their intervals.

/// Returns the mean, which is NaN if there are no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the 95 % interval of the mean, or none for fewer than two values. Its half width is the standard error times
/// the quantile of Student's t with n - 1 degrees of freedom.
pub fn interval(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    let (n, centre) = (values.len() as f64, mean(values));
    let variance = values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t_quantile(values.len() - 1) * (variance / n).sqrt();
    Some([centre - half, centre + half])
}

/// Returns the 97.5 % quantile of Student's t. Small degrees of freedom are looked up in a table. For the others, the
/// quantile is expanded around that of the normal distribution, with an error below 0.0005.
fn t_quantile(degrees: usize) -> f64 {
    const FIRST: [f64; 8] = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060];
    if let Some(quantile) = FIRST.get(degrees - 1) {
        return *quantile;
    }
    let (z, n) = (1.959_964_f64, degrees as f64);
    z + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, expected) in
            [(1, 12.7062), (4, 2.7764), (8, 2.3060), (9, 2.2622), (10, 2.2281), (20, 2.0860), (100, 1.9840)]
        {
            assert!((t_quantile(degrees) - expected).abs() < 5e-4, "{degrees}: {}", t_quantile(degrees));
        }
    }

    #[test]
    fn intervals_by_hand() {
        // The mean is 2, the standard deviation 1 and the standard error 1/sqrt(3).
        let [low, high] = interval(&[1.0, 2.0, 3.0]).unwrap();
        assert!((high - 2.0 - 4.3027 / 3f64.sqrt()).abs() < 1e-9 && (low + high - 4.0).abs() < 1e-9);
        assert_eq!(interval(&[2.0, 2.0]), Some([2.0, 2.0]));
        assert_eq!(interval(&[2.0]), None);
    }
}
