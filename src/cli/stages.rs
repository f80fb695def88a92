//! The commands that work on a configuration or a run.

use std::path::{Path, PathBuf};

use super::args::{Common, ConfigFile, Format, Gates, TraceInstead, TraceOptions};
use super::{ACCEPT_BACKBONE, estimate, print, print_json, runs, terminal};
use crate::config::{self, Config, Overrides};
use crate::device;
use crate::doctor;
use crate::error::{ErrorKind, Result, bail};
use crate::progress;
use crate::report::{self, EvaluatedRun, Report};
use crate::stages::{self, Workspace};

/// Reads the configuration with the overrides of the command line. Returns none if it was only to be printed.
pub(super) fn load(common: &Common, file: &ConfigFile) -> Result<Option<Config>> {
    let (with, set) = (file.with.clone(), file.set.clone());
    let overrides = Overrides { with, set, seed: file.seed, device: common.device.clone() };
    let config = config::load(&file.config, &overrides)?;
    if file.print_config {
        print(&config.to_toml())?;
        return Ok(None);
    }
    terminal::listen_for_interrupt()?;
    Ok(Some(config))
}

fn open(config: Config, heads: Option<&Path>) -> Result<Workspace> {
    let device = device::open(config.device_choices()?[0])?;
    Workspace::open(config, device, runs(), heads)
}

pub fn run(common: &Common, file: &ConfigFile) -> Result<()> {
    let Some(config) = load(common, file)? else { return Ok(()) };
    let workspace = open(config, None)?;
    if !workspace.is_evaluated() {
        for finding in doctor::quick(&workspace)?.iter().filter(|finding| !finding.passed) {
            progress::warn(format!("warning: {}: {}", finding.check, finding.words));
        }
    }
    finish(common, &workspace, &Gates { fail_under: Vec::new() })
}

pub fn pretrain(common: &Common, file: &ConfigFile) -> Result<()> {
    let Some(config) = load(common, file)? else { return Ok(()) };
    let device = device::open(config.device_choices()?[0])?;
    let folder = stages::pretrain(&config, &device, &runs())?;
    print(&format!("{}\n", folder.display()))
}

pub fn trace(common: &Common, options: &TraceOptions) -> Result<()> {
    let Some(mut config) = load(common, &options.config)? else { return Ok(()) };
    let TraceInstead { dry_run, shard, merge, prompts } = &options.instead;
    if prompts.is_some() {
        // Responses come after the prompts.
        config.traces.from.clear();
    }
    if *dry_run || prompts.is_some() {
        let device = device::open(config.device_choices()?[0])?;
        let workspace = Workspace::look(config, device, runs())?;
        return match prompts {
            Some(path) => stages::write_prompts(&workspace, path),
            None => estimate::show(common, &stages::estimate_traces(&workspace)?),
        };
    }
    if let Some(shard) = *shard {
        let device = device::open(config.device_choices()?[0])?;
        let workspace = Workspace::open_shared(config, device, runs())?;
        stages::trace_shard(&workspace, shard)?;
        return print(&format!("{}\n", workspace.folder.join("shards").display()));
    }
    let workspace = open(config, None)?;
    match *merge {
        Some(count) => stages::merge_traces(&workspace, count as usize)?,
        None => drop(stages::trace(&workspace)?),
    }
    print(&format!("{}\n", workspace.folder.join("traces").display()))
}

pub fn train_heads(common: &Common, file: &ConfigFile, init_from: Option<&Path>, accept_backbone: bool) -> Result<()> {
    let mut file = file.clone();
    file.set.extend(accept_backbone.then(|| format!("{ACCEPT_BACKBONE}=true")));
    file.set.extend(init_from.map(|folder| format!("heads.init_from={:?}", folder.display().to_string())));
    let Some(config) = load(common, &file)? else { return Ok(()) };
    let workspace = open(config, None)?;
    let traces = stages::trace(&workspace)?;
    stages::train_heads(&workspace, &traces)?;
    print(&format!("{}\n", workspace.folder.join("heads").display()))
}

pub fn train_rescorer(common: &Common, file: &ConfigFile, only: Option<&str>) -> Result<()> {
    let Some(config) = load(common, file)? else { return Ok(()) };
    if let Some(name) = only
        && !config.rescorer.contains_key(name)
    {
        let known: Vec<&str> = config.rescorer.keys().map(String::as_str).collect();
        bail!("--only {name}: the configuration has no [rescorer.{name}]; it has: {}.", known.join(", "));
    }
    let workspace = open(config, None)?;
    let traces = stages::trace(&workspace)?;
    let heads = if stages::rescorers_need_heads(&workspace.config, only) {
        Some(stages::train_heads(&workspace, &traces)?)
    } else {
        None
    };
    stages::train_rescorers(&workspace, &traces, heads.as_ref(), only)?;
    print(&format!("{}\n", workspace.folder.join("rescorers").display()))
}

/// Evaluates a run. `flags` are keys, each with whether the command line sets it.
pub fn evaluate(
    common: &Common,
    file: &ConfigFile,
    flags: &[(&str, bool)],
    heads: Option<&Path>,
    gates: &Gates,
) -> Result<()> {
    let mut file = file.clone();
    file.set.extend(flags.iter().filter(|(_, set)| *set).map(|(key, _)| format!("{key}=true")));
    let Some(config) = load(common, &file)? else { return Ok(()) };
    let reported = config.data.iter().filter(|(_, data)| data.test > 0.0);
    let variants: Vec<String> = config.variants().iter().map(ToString::to_string).collect();
    let sets: Vec<&str> = reported.map(|(name, _)| name.as_str()).collect();
    report::check_gate_names(&gates.fail_under, &sets, &variants)?;
    finish(common, &open(config, heads)?, gates)
}

/// Does every stage of a run that is not finished, and shows the report.
fn finish(common: &Common, workspace: &Workspace, gates: &Gates) -> Result<()> {
    let result = stages::run(workspace)?;
    update_index();
    show(common, &result, &workspace.folder.join("report"))?;
    report::check_gates(&result, &gates.fail_under)
}

/// Writes the page that leads to all runs anew. A finished run does not fail for it.
pub(super) fn update_index() {
    if let Err(error) = report::write_index(&runs().folder) {
        progress::say(format!("the page of all runs is as it was: {error}"));
    }
}

/// Renders the report of one run again, or compares several runs.
pub fn report(common: &Common, runs: &[PathBuf], output: Option<&Path>, gates: &Gates) -> Result<()> {
    match (runs, output) {
        ([run], None) => one_report(common, run, gates),
        ([_], Some(_)) => bail!("--output is for a comparison; name at least two runs."),
        _ if !gates.fail_under.is_empty() => bail!("--fail-under looks at one run; name one."),
        _ => compare(common, runs, output),
    }
}

fn compare(common: &Common, runs: &[PathBuf], output: Option<&Path>) -> Result<()> {
    let runs = runs.iter().map(|run| {
        require_report(run)?;
        EvaluatedRun::read(run)
    });
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let comparison = report::compare(&runs)?;
    if let Some(folder) = output {
        comparison.write(&runs, folder)?;
        progress::say(format!("comparison: {}", folder.join("comparison.html").display()));
    }
    match common.format {
        Format::Table => print(&comparison.table(terminal::width())),
        Format::Json => print_json(&serde_json::to_value(&comparison).expect("a comparison is JSON")),
    }
}

/// Returns the path of a run's `report.json`, or an error if there is no such file.
fn require_report(run: &Path) -> Result<PathBuf> {
    let path = run.join("report").join("report.json");
    if !path.exists() {
        bail!(
            "{} has no report: {} is missing. Finish it with `draftsmith evaluate CONFIG`.",
            run.display(),
            path.display()
        );
    }
    Ok(path)
}

fn one_report(common: &Common, run: &Path, gates: &Gates) -> Result<()> {
    let folder = run.join("report");
    let report = report::read(&require_report(run)?)?;
    match report::write(&report, &folder).and_then(|()| write_trainings(run)) {
        Err(error) if error.kind() == ErrorKind::NotPermitted => {
            progress::warn(format!("what lies beside the report stays as it was: {error}"));
        }
        outcome => outcome?,
    }
    show(common, &report, &folder)?;
    report::check_gates(&report, &gates.fail_under)
}

/// Writes the pages of all trainings in `run` that left a log. N-gram models leave none.
fn write_trainings(run: &Path) -> Result<()> {
    let mut trainings = vec![(run.join("heads"), "Training of the heads".to_owned())];
    for entry in std::fs::read_dir(run.join("rescorers")).into_iter().flatten().flatten() {
        trainings.push((entry.path(), format!("Training of rescorer {}", entry.file_name().display())));
    }
    for (folder, title) in trainings {
        if folder.join("metrics.jsonl").exists() {
            report::write_training(&folder, &title)?;
        }
    }
    Ok(())
}

fn show(common: &Common, result: &Report, folder: &Path) -> Result<()> {
    match common.format {
        Format::Table => {
            print(&report::table(result, terminal::width()))?;
            print(&format!("\nreport: {}\n", folder.join("report.html").display()))
        }
        Format::Json => {
            progress::say(format!("report: {}", folder.join("report.html").display()));
            let value = serde_json::to_value(result).expect("a report is JSON");
            print_json(&value)
        }
    }
}
