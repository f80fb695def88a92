//! Numbers as text: one way for every rendering and every sentence, the same bytes on every machine.

use super::{Cell, Estimate, Format};

impl Format {
    /// A cell of a column with this format as text; an en dash where there is nothing.
    pub fn text(self, cell: &Cell) -> String {
        match cell {
            Cell::Nothing => "–".to_owned(),
            Cell::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Cell::Count(count) if self == Self::Count => self::count(*count),
            Cell::Count(count) => self.number(*count as f64),
            Cell::Number(number) => self.number(*number),
            Cell::Interval(interval) => self.interval(*interval),
            Cell::Estimate(Estimate { value, interval }) => {
                format!("{} {}", self.number(*value), self.interval(*interval))
            }
            Cell::Text(text) => text.clone(),
        }
    }

    fn number(self, x: f64) -> String {
        match self {
            Self::Words | Self::ThreeDigits => three_digits(x),
            Self::Count if x.is_finite() => count(x as u64),
            Self::Count => fixed(x, 0),
            Self::OneDecimal => fixed(x, 1),
            Self::TwoDecimals => fixed(x, 2),
            Self::ThreeDecimals => fixed(x, 3),
            Self::Percent => percent(x),
            Self::SignedPercent => signed_percent(x),
            Self::Bytes => scaled(x, "B"),
            Self::Scaled => scaled(x, ""),
            Self::Times => suffixed(three_digits(x), "×"),
        }
    }

    fn interval(self, [low, high]: [f64; 2]) -> String {
        match self {
            Self::SignedPercent => percent_interval([low, high]),
            _ => format!("[{}, {}]", self.number(low), self.number(high)),
        }
    }
}

/// `x` with so many decimals, a real minus sign and no negative zero; `n/a` for what is not finite.
pub fn fixed(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return "n/a".to_owned();
    }
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| matches!(b, b'0' | b'.')) => digits.to_owned(),
        Some(digits) => format!("\u{2212}{digits}"),
        None => text,
    }
}

/// A block efficiency: three decimals are about what 10,000 tokens can tell apart.
pub fn efficiency(x: f64) -> String {
    fixed(x, 3)
}

/// `0.359` as `35.9 %`.
pub fn percent(x: f64) -> String {
    suffixed(fixed(100.0 * x, 1), " %")
}

/// `0.359` as `+35.9 %`.
pub fn signed_percent(x: f64) -> String {
    suffixed(signed(100.0 * x), " %")
}

/// `[1.489, 1.561]`.
pub fn interval([low, high]: [f64; 2]) -> String {
    format!("[{}, {}]", efficiency(low), efficiency(high))
}

/// `[+33.1, +39.2] %`.
pub fn percent_interval([low, high]: [f64; 2]) -> String {
    format!("[{}, {}] %", signed(100.0 * low), signed(100.0 * high))
}

/// `12288` as `12,288`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `23592960` as `23.6 M` and a unit: three digits and a decimal power of a thousand.
pub fn scaled(x: f64, unit: &str) -> String {
    let steps = ["", "k", "M", "G", "T", "P"];
    // Rounded to three digits first, so that 999,950 is 1.00 M and not 1000 k.
    let rounded = format!("{:.2e}", x.max(0.0)).parse::<f64>().unwrap_or(x);
    let step = if rounded < 1000.0 { 0 } else { ((rounded.log10() + 1e-9) / 3.0) as usize }.min(steps.len() - 1);
    let value = rounded / 1000f64.powi(step as i32);
    let decimals = if step == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{} {}{unit}", fixed(value, decimals), steps[step]).trim_end().to_owned()
}

/// Three digits, as far as decimals go: `0.0123`, `1.23`, `123`.
pub fn three_digits(x: f64) -> String {
    let magnitude = if x > 0.0 { x.log10().floor() as i32 } else { 0 };
    fixed(x, (2 - magnitude).clamp(0, 6) as usize)
}

/// `1 document`, `200 documents`.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

fn signed(x: f64) -> String {
    let text = fixed(x, 1);
    let plus = x.is_finite() && !text.starts_with('\u{2212}') && text != "0.0";
    if plus { format!("+{text}") } else { text }
}

fn suffixed(text: String, suffix: &str) -> String {
    if text == "n/a" { text } else { text + suffix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_written_as_their_column_says() {
        let texts = |format: Format, cells: &[Cell]| cells.iter().map(|cell| format.text(cell)).collect::<Vec<_>>();
        let number = Cell::Number;
        assert_eq!(texts(Format::Count, &[Cell::Count(12_288), number(16.0), Cell::Nothing]), ["12,288", "16", "–"]);
        assert_eq!(
            texts(Format::ThreeDecimals, &[number(1.7392), Cell::Interval([1.0, 2.5])]),
            ["1.739", "[1.000, 2.500]"]
        );
        let estimate = Cell::Estimate(Estimate { value: 1.5, interval: [1.25, 1.75] });
        assert_eq!(Format::ThreeDecimals.text(&estimate), "1.500 [1.250, 1.750]");
        let gain = [number(0.3594), Cell::Interval([-0.01, 0.2])];
        assert_eq!(texts(Format::SignedPercent, &gain), ["+35.9 %", "[\u{2212}1.0, +20.0] %"]);
        assert_eq!(texts(Format::Words, &[Cell::Flag(true), Cell::Text("best".into())]), ["yes", "best"]);
        assert_eq!(texts(Format::Times, &[number(1.234), number(f64::NAN)]), ["1.23×", "n/a"]);
        assert_eq!(texts(Format::Bytes, &[number(23_592_960.0)]), ["23.6 MB"]);
    }

    #[test]
    fn formats() {
        assert_eq!(fixed(-0.0004, 3), "0.000");
        assert_eq!(fixed(-1.5, 1), "\u{2212}1.5");
        assert_eq!(signed_percent(0.3594), "+35.9 %");
        assert_eq!(signed_percent(-0.025), "\u{2212}2.5 %");
        assert_eq!(signed_percent(-0.0001), "0.0 %");
        assert_eq!(percent_interval([-0.01, 0.2]), "[\u{2212}1.0, +20.0] %");
        assert_eq!(percent(f64::NAN), "n/a");
        assert_eq!(interval([1.4894, f64::INFINITY]), "[1.489, n/a]");
        assert_eq!([count(7), count(999), count(1000), count(1234567)], ["7", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 999.0, 999_949.0, 23_592_960.0, 1e9].map(|x| scaled(x, "B")),
            ["0 B", "999 B", "1.00 MB", "23.6 MB", "1.00 GB"]
        );
        assert_eq!([scaled(123_456.0, ""), scaled(12.0, "")], ["123 k", "12"]);
        assert_eq!(counted(1, "mismatch", "mismatches"), "1 mismatch");
    }
}
