//! Gates (`--fail-under`): numbers that a report must reach.

use std::str::FromStr;

use super::model::Report;
use crate::error::{Error, Result, bail};
use crate::evaluation::analyses::VariantRow;
use crate::tables::{Cell, ORACLE, Record, Table};

/// A lower bound for a number of a variant: `block_efficiency[ngram]=1.8` on every data set, or
/// `block_efficiency[ngram,tales]=1.8` on one.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// The name of a column in the table of variants, [`VariantRow`].
    metric: String,
    variant: String,
    set: Option<String>,
    least: f64,
}

impl FromStr for Gate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let (what, least) = text.rsplit_once('=')?;
            let (metric, place) = what.trim().strip_suffix(']')?.split_once('[')?;
            let (variant, set) = place.split_once(',').map_or((place, None), |(variant, set)| (variant, Some(set)));
            let least: f64 = least.trim().parse().ok()?;
            let words = [Some(metric), Some(variant), set].map(|word| word.map(str::trim));
            let valid = least.is_finite() && words.iter().flatten().all(|word| !word.is_empty());
            let [metric, variant, set] = words.map(|word| word.map(str::to_owned));
            Some(Self { metric: metric?, variant: variant?, set, least }).filter(|_| valid)
        };
        parts().ok_or_else(|| {
            Error::new(format!(
                "`{text}` is no gate; write METRIC[VARIANT]=NUMBER or METRIC[VARIANT,SET]=NUMBER, such as block_efficiency[ngram]=1.8."
            ))
        })
    }
}

impl Gate {
    /// Checks that a report of these data sets and variants has what the gate looks at, before anything long is done for it.
    fn check_names(&self, sets: &[&str], variants: &[String]) -> Result<()> {
        if let Some(set) = &self.set
            && !sets.contains(&&**set)
        {
            bail!("--fail-under: `{set}` is no data set with a `test` share; there are: {}.", sets.join(", "));
        }
        if self.variant != ORACLE && !variants.contains(&self.variant) {
            let known = variants.join(", ");
            bail!("--fail-under: there will be no variant `{}`; there are: {known}, {ORACLE}.", self.variant);
        }
        let metrics: Vec<&str> = VariantRow::fields().iter().map(|field| field.id).collect();
        if !metrics.contains(&&*self.metric) {
            bail!("--fail-under: `{}` is no number of a variant; there are: {}.", self.metric, metrics.join(", "));
        }
        Ok(())
    }

    /// Returns a line for each data set on which the number is below the bound.
    ///
    /// # Errors
    /// Returns an error if the report lacks the data set, the variant or the number, because such a gate would check
    /// nothing.
    fn failures(&self, report: &Report) -> Result<Vec<String>> {
        let known = |names: Vec<&str>| names.join(", ");
        let sets: Vec<_> =
            report.datasets.iter().filter(|set| self.set.as_ref().is_none_or(|name| *name == set.name)).collect();
        if sets.is_empty() {
            let names = known(report.datasets.iter().map(|set| set.name.as_str()).collect());
            bail!("--fail-under: the report has no such data set; it has: {names}.");
        }
        let mut failures = Vec::new();
        for set in sets {
            let Some(table) = set.table(VariantRow::TABLE) else { continue };
            let Some(row) = table.rows.iter().find(|row| row.name == self.variant) else {
                let names = known(table.rows.iter().map(|row| row.name.as_str()).collect());
                bail!("--fail-under: {} has no variant `{}`; it has: {names}.", set.name, self.variant);
            };
            let Some(found) = table.cell(&row.name, &self.metric).and_then(number) else {
                let names = known(numbers(table, &row.cells));
                bail!("--fail-under: `{}` of {} is no number; there are: {names}.", self.metric, self.variant);
            };
            if found < self.least {
                failures
                    .push(format!("{}[{},{}] is {found}, under {}", self.metric, self.variant, set.name, self.least));
            }
        }
        Ok(failures)
    }
}

/// Returns the number in a cell, if it has one that a gate can check.
fn number(cell: &Cell) -> Option<f64> {
    matches!(cell, Cell::Count(_) | Cell::Number(_)).then(|| cell.number()).flatten()
}

/// Returns the names of the columns in which a row has a number.
fn numbers<'a>(table: &'a Table, row: &[Cell]) -> Vec<&'a str> {
    let of_row = table.columns.iter().zip(row).filter(|(column, cell)| column.key.is_none() && number(cell).is_some());
    of_row.map(|(column, _)| column.id.as_str()).collect()
}

/// Checks that the report of a run with these data sets and variants will have what the gates look at.
///
/// # Errors
/// Returns an error that names what it will not have.
pub fn check_gate_names(gates: &[Gate], sets: &[&str], variants: &[String]) -> Result<()> {
    gates.iter().try_for_each(|gate| gate.check_names(sets, variants))
}

/// Checks all gates.
///
/// # Errors
/// Returns a failed check if a number is below its bound, or a usage error if a gate names something that the report
/// lacks.
pub fn check_gates(report: &Report, gates: &[Gate]) -> Result<()> {
    let failures = gates.iter().map(|gate| gate.failures(report)).collect::<Result<Vec<_>>>()?.concat();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::check_failed(format!("--fail-under: {}.", failures.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::report::fixture;

    fn check(gates: &[&str]) -> Result<()> {
        let gates: Vec<Gate> = gates.iter().map(|gate| gate.parse().unwrap()).collect();
        check_gates(&fixture::report(), &gates)
    }

    #[test]
    fn a_number_under_its_gate_fails_and_an_equal_one_does_not() {
        check(&["block_efficiency[ngram]=1.739", "gain[ngram, tales]=-1"]).unwrap();
        let error = check(&["block_efficiency[ngram]=1.7391", "block_efficiency[bpd]=1", "drafts[bpd,tales]=2"]);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckFailed);
        let expected =
            "--fail-under: block_efficiency[ngram,tales] is 1.739, under 1.7391; drafts[bpd,tales] is 1, under 2.";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_gate_is_checked_before_there_is_a_report() {
        let check = |gate: &str| {
            check_gate_names(&[gate.parse().unwrap()], &["tales"], &["bpd".to_owned(), "ngram".to_owned()])
        };
        for gate in ["block_efficiency[ngram]=1", "lm_scale[bpd,tales]=0", "block_efficiency[oracle]=2"] {
            check(gate).unwrap();
        }
        for (gate, expected) in [
            ("block_efficiency[3-gram]=1", "no variant `3-gram`; there are: bpd, ngram, oracle."),
            ("block_efficiency[bpd,news]=1", "`news` is no data set with a `test` share; there are: tales."),
            ("speed[bpd]=1", "`speed` is no number of a variant; there are: block_efficiency, ci95, "),
        ] {
            let error = check(gate).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_gate_that_looks_at_nothing_is_a_mistake() {
        for (gate, expected) in [
            ("block_efficiency[3-gram]=1", "no variant `3-gram`; it has: bpd, ngram"),
            ("block_efficiency[bpd,news]=1", "no such data set; it has: tales"),
            ("name[bpd]=1", "`name` of bpd is no number; there are: block_efficiency, drafts."),
            ("gain[bpd]=1", "`gain` of bpd is no number"),
            ("ci95[bpd]=1", "`ci95` of bpd is no number"),
        ] {
            let error = check(&[gate]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fault);
            assert!(error.to_string().contains(expected), "{error}");
        }
        for wrong in ["", "x", "x=1", "x[y]", "x[y]=z", "x[]=1", "[y]=1", "x[y,]=1", "x[y]=nan", "x[y]=inf"] {
            assert!(wrong.parse::<Gate>().unwrap_err().to_string().contains("METRIC[VARIANT]"), "{wrong}");
        }
    }
}
