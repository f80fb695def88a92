//! The command line. It turns arguments into a configuration and calls the library once. Results go to standard output;
//! progress and errors go to standard error. The exit codes are 0 for success, 1 for a failed check, 2 for an error and
//! 130 for an interrupt.

mod ablate;
mod args;
mod doctor;
mod estimate;
mod export;
mod generate;
mod init;
mod inspect;
mod ngram;
mod stages;
mod store;
mod terminal;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::config;
use crate::error::{self, Error, ErrorKind, Result, bail};
use crate::report;
use crate::stages::Runs;
use args::{Arguments, Command};
use terminal::Verbosity;

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    // A panic is a bug in this program. It is reported in one paragraph instead of a stack trace.
    std::panic::set_hook(Box::new(|panic| {
        if error::in_guarded_code() {
            return;
        }
        terminal::complain(&format!("this is a bug in draftsmith, please report it with the command you ran: {panic}"));
    }));
    let arguments = Arguments::parse();
    let outcome = std::panic::catch_unwind(|| dispatch(&arguments));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            terminal::complain(&error.to_string());
            ExitCode::from(match error.kind() {
                ErrorKind::CheckFailed => 1,
                ErrorKind::Fault | ErrorKind::NotPermitted => 2,
                ErrorKind::Interrupted => 130,
            })
        }
        Err(_) => ExitCode::from(2),
    }
}

/// The threads that a process may be asked to compute with.
const THREADS: usize = 1024;

/// Refuses numbers of threads that no machine has.
fn check_threads() -> Result<()> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.trim().parse::<usize>().ok());
    match asked {
        Some(asked) if asked > THREADS => {
            bail!("RAYON_NUM_THREADS is {asked}; at most {THREADS} threads can be had. Lower it, or leave it out.")
        }
        _ => Ok(()),
    }
}

fn dispatch(arguments: &Arguments) -> Result<()> {
    if arguments.common.no_verify {
        crate::store::skip_verification();
    }
    let verbosity = match (arguments.common.quiet, arguments.common.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, false) => Verbosity::Normal,
        (false, true) => Verbosity::Verbose,
    };
    terminal::watch(verbosity, arguments.common.log_format);
    check_threads()?;
    let common = &arguments.common;
    match &arguments.command {
        Command::Init(options) => init::init(options),
        Command::Doctor(config) => doctor::doctor(common, config),
        Command::Run(config) => stages::run(common, config),
        Command::Pretrain(config) => stages::pretrain(common, config),
        Command::Trace(options) => stages::trace(common, options),
        Command::TrainHeads { config, init_from, accept_backbone } => {
            stages::train_heads(common, config, init_from.as_deref(), *accept_backbone)
        }
        Command::TrainRescorer { config, only } => stages::train_rescorer(common, config, only.as_deref()),
        Command::Ablate(options) => ablate::ablate(common, options),
        Command::Plan(config) => ablate::plan(common, config),
        Command::Clean { dry_run } => store::clean(common, *dry_run),
        Command::Status { path } => ablate::status(common, path),
        Command::Evaluate { config, keep_steps, all_checkpoints, heads, accept_backbone, gates } => {
            let flags = [
                ("evaluation.keep_steps", *keep_steps),
                ("evaluation.all_checkpoints", *all_checkpoints),
                (ACCEPT_BACKBONE, *accept_backbone),
            ];
            stages::evaluate(common, config, &flags, heads.as_deref(), gates)
        }
        Command::Report { schema: true, .. } => print(&report::schema()),
        Command::Report { runs, output, gates, .. } => stages::report(common, runs, output.as_deref(), gates),
        Command::Export(options) => export::export(common, options),
        Command::Import { checkpoint, backbone, output } => export::import(common, checkpoint, backbone, output),
        Command::Generate(options) => generate::generate(common, options),
        Command::Ngram(command) => ngram::ngram(common, command),
        Command::Inspect(options) => inspect::inspect(common, options),
        Command::Schema { markdown: false } => print(&config::json_schema()),
        Command::Schema { markdown: true } => print(&config::reference()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "draftsmith", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { output } => man(output),
    }
}

/// Writes `draftsmith.1`, and `draftsmith-COMMAND.1` for every command, into `folder`.
fn man(folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("write the manual pages in", folder, e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)
}

/// Returns the folders in which the command line keeps runs.
fn runs() -> Runs {
    Runs { folder: "runs".into(), command: std::env::args().collect() }
}

/// The key that `--accept-backbone` sets.
const ACCEPT_BACKBONE: &str = "heads.accept_backbone";

/// Writes to standard output. It is not an error if the reader has gone away.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write", "standard output", e)),
        _ => Ok(()),
    }
}

/// Writes a JSON value as a line to standard output.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}
