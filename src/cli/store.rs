//! The command `clean`, and the command `status` for a run.

use indicatif::HumanBytes;
use serde_json::json;

use super::args::{Common, Format};
use super::{print, print_json, runs};
use crate::config::Config;
use crate::device;
use crate::error::Result;
use crate::files;
use crate::stages::{self, ArtefactState, Workspace};
use crate::store::unused;

pub fn clean(common: &Common, dry_run: bool) -> Result<()> {
    let runs = runs();
    let store = runs.store();
    if !store.is_dir() {
        return print(&format!("{}: nothing has been made yet.\n", store.display()));
    }
    // Processes that work in the store hold this lock.
    let lock = if dry_run { None } else { Some(files::lock(&store)?) };
    let unused = unused(&store, &runs.folder)?;
    let bytes = unused.iter().map(|unused| unused.bytes).sum();
    let mut removed = Vec::new();
    for unused in unused {
        let modified = jiff::Timestamp::try_from(unused.modified).unwrap_or_default();
        removed.push(json!({
            "name": unused.name, "finished": unused.finished, "bytes": unused.bytes,
            "modified": modified.round(jiff::Unit::Second).unwrap_or(modified).to_string(),
        }));
        if common.format == Format::Table {
            let state = if unused.finished { "" } else { "  unfinished" };
            let size = HumanBytes(unused.bytes).to_string();
            print(&format!("{}  {size:>11}  {}{state}\n", modified.strftime("%F %R"), unused.name))?;
        }
        if !dry_run {
            unused.remove()?;
        }
    }
    drop(lock);
    if common.format == Format::Json {
        return print_json(&json!({"dry_run": dry_run, "bytes": bytes, "removed": removed}));
    }
    let done = if dry_run { "can be removed" } else { "removed" };
    print(&format!("{} {done}, {}\n", removed.len(), HumanBytes(bytes)))
}

/// Shows which parts of a run exist, which do not, and why.
pub fn status(common: &Common, config: Config) -> Result<()> {
    let device = device::open(config.device_choices()?[0])?;
    let name = config.name.clone();
    let status = stages::status(&Workspace::look(config, device, runs())?);
    if common.format == Format::Json {
        return print_json(&json!({"name": name, "parts": status}));
    }
    for part in status {
        let state = match part.state {
            ArtefactState::Finished => "finished",
            ArtefactState::InTheMaking => "in the making",
            ArtefactState::Stale => "stale",
            ArtefactState::Missing => "missing",
        };
        let differs = match part.differences.is_empty() {
            true => String::new(),
            false => format!("  {}", part.differences.join(", ")),
        };
        print(&format!("{state:<13}  {}{differs}\n", part.name))?;
    }
    Ok(())
}
