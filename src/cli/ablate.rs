//! The commands `ablate`, `plan` and `status`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};

use super::args::{AblateOptions, Common, ConfigFile, Format};
use super::stages::{load, update_index};
use super::{print, print_json, runs, store, terminal};
use crate::ablation::{self, Ablation, AblationPlan, Jobs, Status, Worker, collect, run_jobs};
use crate::claims::Claims;
use crate::config::{self, Config, Overrides};
use crate::device;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::progress;
use crate::report::ablation as report;

pub fn ablate(common: &Common, options: &AblateOptions) -> Result<()> {
    let Some(config) = load(common, &options.config)? else { return Ok(()) };
    let ablation = Ablation::new(config, runs())?;
    if let Some(attempt) = &options.child {
        stop_with_parent();
        return work(&ablation, options, attempt);
    }
    let claims = Claims::watching();
    let elsewhere = || !ablation.running(&claims).is_empty();
    let lock = files::share(&ablation.folder, elsewhere)?;
    files::write_atomic(&ablation.folder.join("run.toml"), ablation.config.to_toml().as_bytes())?;
    let attempt = format!("{} {}", std::process::id(), jiff::Timestamp::now());
    match options.jobs {
        0 => bail!("--jobs must be at least 1."),
        1 => work(&ablation, options, &attempt)?,
        count => {
            let arguments = arguments(common, options, &attempt);
            run_jobs(&ablation, &Jobs { count, arguments })?;
        }
    }
    let folder = ablation.folder.join("report");
    // If two processes finish at once, the later one writes a report that includes everything the earlier one finished.
    let writers = Claims::new();
    let claim = writers.wait(&folder.join("ablation"), "report")?;
    let result = collect(&ablation)?;
    report::write(&result, &folder)?;
    claim.finish();
    drop(lock);
    update_index();
    match common.format {
        Format::Table => print(&format!(
            "{}\nreport: {}\n",
            report::table(&result, terminal::width()),
            folder.join("ablation.html").display()
        ))?,
        Format::Json => print_json(&serde_json::to_value(&result).expect("an ablation is JSON"))?,
    }
    match result.count(report::CellState::Failed) {
        0 => Ok(()),
        failed => Err(Error::check_failed(format!(
            "{failed} of {} cells failed; the table above names them, and so does `draftsmith status {}`. Mend what is wrong and start the same command again: finished cells are skipped.",
            result.cells.len(),
            ablation.folder.display()
        ))),
    }
}

fn work(ablation: &Ablation, options: &AblateOptions, attempt: &str) -> Result<()> {
    let device = device::open(ablation.config.device.parse()?)?;
    if let Some(note) = &device.note {
        progress::say(note);
    }
    Worker::new(ablation, device)?.work(options.shard, attempt)
}

/// Returns the arguments that a job is started with.
fn arguments(common: &Common, options: &AblateOptions, attempt: &str) -> Vec<String> {
    let file = &options.config;
    let mut arguments = vec!["ablate".to_owned(), file.config.display().to_string(), "--quiet".to_owned()];
    let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    add("child", attempt.to_owned());
    common.device.iter().for_each(|device| add("device", device.clone()));
    file.seed.iter().for_each(|seed| add("seed", seed.to_string()));
    file.set.iter().for_each(|set| add("set", set.clone()));
    options.shard.iter().for_each(|shard| add("shard", shard.to_string()));
    arguments
}

/// Stops the job when its parent ends or closes the job's standard input.
fn stop_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        terminal::interrupt();
    });
}

pub fn plan(common: &Common, file: &ConfigFile) -> Result<()> {
    let Some(config) = load(common, file)? else { return Ok(()) };
    let ablation = Ablation::new(config, runs())?;
    let device = device::open(ablation.config.device.parse()?)?;
    let worker = Worker::looking(&ablation, device);
    let plan = ablation::plan(&ablation, &worker, &Claims::watching())?;
    match common.format {
        Format::Table => print(&plan_table(&plan)),
        Format::Json => print_json(&serde_json::to_value(&plan).expect("a plan is JSON")),
    }
}

fn plan_table(plan: &AblationPlan) -> String {
    let mut text = String::new();
    for cell in &plan.cells {
        text += &format!("{:<8} {}\n", cell.state, cell.cell);
    }
    let same = plan.cells.len() - plan.different_cells;
    let same = if same > 0 { format!(", {same} of them the same as others") } else { String::new() };
    text += &format!("\n{} cells{same}\n\n", plan.cells.len());
    text += "stage       needed  different  finished  time left  disk\n";
    for sort in &plan.stages {
        let about = if sort.measured || sort.seconds == 0.0 { "" } else { "~" };
        text += &format!(
            "{:<10}  {:>6}  {:>9}  {:>8}  {:>9}  {}\n",
            sort.makes,
            sort.needed,
            sort.different,
            sort.finished,
            format!("{about}{}", duration(sort.seconds)),
            HumanBytes(sort.bytes)
        );
    }
    text + &format!(
        "\nabout {} in one process (~: counted from sizes; else what finished ones took) and {} of disk, {} are free; goes to {}\n",
        duration(plan.seconds),
        HumanBytes(plan.bytes),
        HumanBytes(plan.bytes_free),
        plan.folder.display()
    )
}

/// Shows the progress of an ablation or a run.
pub fn status(common: &Common, path: &Path) -> Result<()> {
    let config = resolved(common, path)?;
    if config.ablation.is_none() {
        return store::status(common, config);
    }
    let ablation = Ablation::new(config, runs())?;
    if !ablation.folder.exists() {
        bail!("{}: nothing has been started yet; `draftsmith ablate` makes it.", ablation.folder.display());
    }
    let status = ablation::status(&ablation, &Claims::watching());
    match common.format {
        Format::Table => print(&status_table(&status)),
        Format::Json => print_json(&serde_json::to_value(&status).expect("a status is JSON")),
    }
}

/// Returns the configuration in a file, or that of the run in a folder.
fn resolved(common: &Common, path: &Path) -> Result<Config> {
    let overrides = Overrides { device: common.device.clone(), ..Overrides::default() };
    if !path.is_dir() {
        return config::load(path, &overrides);
    }
    let file: PathBuf = path.join("run.toml");
    if !file.exists() {
        bail!(
            "{} is no run: {} is missing. Give the configuration, or a folder in runs/.",
            path.display(),
            file.display()
        );
    }
    config::load(&file, &overrides)
}

fn status_table(status: &Status) -> String {
    let Status { name, cells, done, running, failed, waiting, seconds_left } = status;
    let left = seconds_left.filter(|_| done < cells);
    let left = left.map_or(String::new(), |seconds| format!("; about {} of work left", duration(seconds)));
    let mut text = format!(
        "{name}: {done} of {cells} cells done, {} running, {} failed, {waiting} waiting{left}\n",
        running.len(),
        failed.len()
    );
    for cell in running {
        let doing = if cell.doing.is_empty() { String::new() } else { format!(": {}", cell.doing) };
        text +=
            &format!("running  {} (process {} on {}, since {}){doing}\n", cell.cell, cell.pid, cell.host, cell.since);
    }
    for cell in failed {
        text += &format!("failed   {}: {}\n", cell.cell, cell.error);
    }
    text
}

fn duration(seconds: f64) -> String {
    HumanDuration(Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX)).to_string()
}
