//! The command `doctor`, which looks for mistakes before anything long is started.

use super::args::{Common, ConfigFile, Format};
use super::{print, print_json, runs, stages, terminal};
use crate::device;
use crate::doctor::{self, Findings};
use crate::error::{Error, Result};
use crate::stages::Workspace;

pub fn doctor(common: &Common, file: &ConfigFile) -> Result<()> {
    let Some(config) = stages::load(common, file)? else { return Ok(()) };
    let device = device::open(config.device_choices()?[0])?;
    let findings = doctor::doctor(&Workspace::look(config, device, runs())?)?;
    match common.format {
        Format::Json => print_json(&serde_json::to_value(&findings).expect("findings are JSON"))?,
        Format::Table => print(&table(&findings, terminal::coloured()))?,
    }
    let failed: Vec<&str> = findings.checks.iter().filter(|check| !check.passed).map(|check| check.check).collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::check_failed(format!("failed: {}.", failed.join(", ")))) }
}

/// Returns the findings as text. Where it is coloured, targets that count in training are green, and the others are dim.
fn table(findings: &Findings, coloured: bool) -> String {
    let mark = |passed| if passed { "ok    " } else { "FAILED" };
    let checks =
        findings.checks.iter().map(|check| format!("{} {:<12} {}\n", mark(check.passed), check.check, check.words));
    let shown = findings.shown.iter().map(|shown| {
        let (paint, plain) = match (coloured, shown.counts) {
            (false, _) => ("", ""),
            (true, true) => ("\x1b[32m", "\x1b[0m"),
            (true, false) => ("\x1b[2m", "\x1b[0m"),
        };
        format!(
            "{paint}{:>6}  {:<16} {:<16} {:<16} {}{plain}\n",
            shown.place,
            shown.token.escape_debug().to_string(),
            shown.pinned.escape_debug().to_string(),
            shown.target.escape_debug().to_string(),
            if shown.counts { "yes" } else { "no" }
        )
    });
    format!(
        "{}\n place  {:<16} {:<16} {:<16} counts\n{}",
        checks.collect::<String>(),
        "token",
        "pinned next",
        "head 2 predicts",
        shown.collect::<String>()
    )
}
