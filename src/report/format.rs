//! Numbers as text: one way for every rendering, the same bytes on every machine.

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
        assert_eq!(counted(1, "mismatch", "mismatches"), "1 mismatch");
    }
}
