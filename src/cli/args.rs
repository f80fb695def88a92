//! The arguments of the command line, with their help texts.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::ngram::NgramCommand;
use super::terminal::LogFormat;
use crate::decoding::Rule;
use crate::drafting::Variant;
use crate::report::Gate;
use crate::shard::Shard;

/// Trains prediction heads and draft rescorers for blockwise parallel decoding, and measures what they buy.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Examples:
  draftsmith run configs/quickstart.toml
  draftsmith run mine.toml --set heads.training.steps=1000 --device cuda
  draftsmith generate --model checkpoints/tales --prompt \"Write a short story about a shy dragon.\"
  draftsmith completions bash > ~/.local/share/bash-completion/completions/draftsmith"
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to compute: auto, cpu, cuda[:N] or wgpu[:N]; overrides the configuration
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Form of what is printed on standard output
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Say more on standard error
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say nothing on standard error but errors, and where work of other settings is left aside
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Form of what is written to standard error
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Read finished work without checking that its files are what they were when it was finished; reports then say so
    #[arg(long, global = true)]
    pub no_verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// A configuration file.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration, a TOML file
    pub config: PathBuf,
    /// Print the resolved configuration, which runs again as it is, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Seed of every random choice; overrides the configuration
    #[arg(long)]
    pub seed: Option<u64>,
    /// Lay another file over the configuration, such as one of configs/systems; may be repeated. The run is then called after both
    #[arg(long, value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// Override a key of the configuration, for instance --set heads.block_size=5; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What a report must reach.
#[derive(Debug, Args)]
pub struct Gates {
    /// Exit with 1, after the report is written, where a variant's number is lower: METRIC[VARIANT]=NUMBER on every data
    /// set, METRIC[VARIANT,SET]=NUMBER on one; may be repeated
    #[arg(long, value_name = "GATE")]
    pub fail_under: Vec<Gate>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented configuration for a model and a text
    #[command(after_help = "Example:\n  draftsmith init --model models/my-llama --text notes.jsonl --output mine.toml")]
    Init(InitOptions),
    /// Look for mistakes before anything long is started: tokenizer, states, heads, disk; exits with 1 if something is wrong
    #[command(after_help = "Example:\n  draftsmith doctor configs/quickstart.toml")]
    Doctor(ConfigFile),
    /// Do every stage: trace, train-heads, train-rescorer, evaluate; finished stages are skipped
    #[command(after_help = "Example:\n  draftsmith run configs/quickstart.toml")]
    Run(ConfigFile),
    /// Fit a tokenizer and a small language model from scratch ([pretrain] of the configuration)
    #[command(after_help = "Example:\n  draftsmith pretrain configs/pretrain-tales.toml")]
    Pretrain(ConfigFile),
    /// Record text with the backbone's hidden states: its own greedy text, samples, or the corpus's text
    #[command(
        after_help = "Stopped at any moment, it goes on from the last finished batch when it is started again.\n\nExamples:\n  draftsmith trace mine.toml --set traces.dtype=float16\n  draftsmith trace mine.toml --dry-run\n  draftsmith trace mine.toml --shard $SLURM_ARRAY_TASK_ID/8\n  draftsmith trace mine.toml --merge 8"
    )]
    Trace(TraceOptions),
    /// Train the prediction heads on the traces (made first, if they are missing)
    #[command(
        after_help = "Stopped at any moment, it goes on from the last checkpoint when it is started again.\n\nExamples:\n  draftsmith train-heads mine.toml --set heads.block_size=5\n  draftsmith train-heads mine.toml --set name=second --init-from runs/mine/heads"
    )]
    TrainHeads {
        #[command(flatten)]
        config: ConfigFile,
        /// Start from these trained heads instead of new ones: sets heads.init_from
        #[arg(long, value_name = "FOLDER")]
        init_from: Option<PathBuf>,
        /// Start from heads of another backbone as well: sets heads.accept_backbone
        #[arg(long, requires = "init_from")]
        accept_backbone: bool,
    },
    /// Fit the rescorers on text of the train split
    #[command(after_help = "Example:\n  draftsmith train-rescorer mine.toml --only ngram")]
    TrainRescorer {
        #[command(flatten)]
        config: ConfigFile,
        /// Only the rescorer of this name
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Replay every variant on the test traces, check a sample live, write the report
    #[command(
        after_help = "Examples:\n  draftsmith evaluate mine.toml --set lattice.top_k=32\n  draftsmith evaluate mine.toml --set heads.keep_checkpoints=true --all-checkpoints\n  draftsmith evaluate mine.toml --heads runs/other/heads"
    )]
    Evaluate {
        #[command(flatten)]
        config: ConfigFile,
        /// Keep every step of every variant with its drafts: sets evaluation.keep_steps
        #[arg(long)]
        keep_steps: bool,
        /// Evaluate every checkpoint of the heads as well, by training step: sets evaluation.all_checkpoints
        ///
        /// The heads must have been trained with heads.keep_checkpoints. Plain decoding, the oracle and every variant without a
        /// neural model are replayed with each checkpoint, at the settings that dev chose for the best one.
        #[arg(long)]
        all_checkpoints: bool,
        /// Evaluate these trained heads instead of the run's own, and train none
        ///
        /// The folder `heads` of a run, the run's folder, or a heads.safetensors with its heads.json beside it, of the same backbone. What
        /// follows from them goes to runs/NAME/other-heads/KEY, which is as a run of its own; the run's own heads, candidates and report are
        /// not touched.
        #[arg(long, value_name = "PATH")]
        heads: Option<PathBuf>,
        /// With --heads: evaluate heads of another backbone as well, of the same width and tokenizer: sets heads.accept_backbone
        #[arg(long, requires = "heads")]
        accept_backbone: bool,
        #[command(flatten)]
        gates: Gates,
    },
    /// Run every cell of the configuration's [ablation], sharing what cells have in common, and write their table
    #[command(
        after_help = "Finished cells are skipped, so a command that was killed goes on; several on one folder share the cells. Exit code 1 if a cell failed.\n\nExamples:\n  draftsmith ablate mine.toml --jobs 4\n  draftsmith ablate mine.toml --shard $SLURM_ARRAY_TASK_ID/8"
    )]
    Ablate(AblateOptions),
    /// Say what an ablation will do: its cells, what they share, about how much time and disk
    #[command(after_help = "Example:\n  draftsmith plan mine.toml")]
    Plan(ConfigFile),
    /// Say how far a run or an ablation is: what is finished, what is not, and which settings make the difference
    #[command(after_help = "Examples:\n  draftsmith status runs/mine\n  draftsmith status mine.toml")]
    Status {
        /// The configuration, or the run's folder in runs/
        path: PathBuf,
    },
    /// Remove what no run refers to any longer from runs/store, oldest first
    ///
    /// Runs refer to their parts by links in their folders. Change a setting, and the run's links lead to other parts; the earlier ones stay
    /// until they are cleaned away, or until the setting is changed back. Remove a run's folder, and its parts can go.
    #[command(after_help = "Example:\n  draftsmith clean --dry-run")]
    Clean {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the report of a finished run and render its files anew; or compare several runs
    #[command(
        after_help = "Examples:\n  draftsmith report runs/quickstart --format json\n  draftsmith report runs/old runs/new --output comparison\n  draftsmith report runs/quickstart --fail-under 'block_efficiency[ngram,tales]=1.8'"
    )]
    Report {
        /// A run's folder, such as runs/quickstart; of several, the difference of every two on the documents they share
        #[arg(required_unless_present = "schema", conflicts_with = "schema")]
        runs: Vec<PathBuf>,
        /// With several runs: a new folder for comparison.json, comparison.md and comparison.html
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
        #[command(flatten)]
        gates: Gates,
        /// Print the JSON schema of report.json instead
        #[arg(long)]
        schema: bool,
    },
    /// Continue a prompt: token by token with a model alone, or block by block with an evaluated run
    #[command(
        after_help = "Examples:\n  draftsmith generate --model checkpoints/tales --prompt \"Once upon a time\" --max-new 40 --format json\n  draftsmith generate --run runs/quickstart --variant tree-ngram --prompt \"Once upon a time\""
    )]
    Generate(GenerateOptions),
    /// Write trained heads as a checkpoint that engines serve, or check one
    #[command(
        after_help = "Examples:\n  draftsmith export runs/mine --to speculators --output mine-dflash\n  draftsmith export runs/mine/heads --backbone checkpoints/tales --to hf --output mine\n  draftsmith export runs/mine --to flags\n  draftsmith export --check mine-dflash"
    )]
    Export(ExportOptions),
    /// Read the draft checkpoint of another project as heads, which evaluate --heads and train-heads --init-from take
    #[command(
        after_help = "The formats are those of export; what `evaluate --heads` is given may be such a checkpoint itself.\n\nExample:\n  draftsmith import yuhuili/EAGLE3-LLaMA3.1-Instruct-8B --backbone meta-llama/Llama-3.1-8B-Instruct --output eagle3"
    )]
    Import {
        /// A folder with config.json and model.safetensors, or a model of the hub (org/name)
        checkpoint: String,
        /// The backbone that the heads are for: a Hugging Face folder, or a model of the hub
        #[arg(long, value_name = "MODEL")]
        backbone: String,
        /// A new folder for the heads
        #[arg(long, value_name = "FOLDER")]
        output: PathBuf,
    },
    /// Count, estimate, prune, convert and query n-gram language models over token ids
    #[command(subcommand)]
    Ngram(NgramCommand),
    /// Say what a folder or file is: a model, heads, a rescorer, an n-gram model, a trace, a run or a store of runs
    #[command(
        after_help = "Examples:\n  draftsmith inspect checkpoints/tales --tensors\n  draftsmith inspect runs/mine/heads\n  draftsmith inspect runs/store\n  draftsmith inspect checkpoints/tales --check vectors.json"
    )]
    Inspect(InspectOptions),
    /// Print the JSON Schema of configurations, from which editors complete them, or the page of all keys
    #[command(after_help = "Example:\n  draftsmith schema > draftsmith.schema.json")]
    Schema {
        /// Print the reference of all keys instead, as Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages, one for every command
    #[command(after_help = "Example:\n  draftsmith man --output ~/.local/share/man/man1")]
    Man {
        /// The folder for the pages, which is made if it is not there
        #[arg(long, value_name = "FOLDER")]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct TraceOptions {
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub instead: TraceInstead,
}

/// What `trace` does instead of making all traces.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct TraceInstead {
    /// Say how much disk and time the missing traces will take, and make none
    ///
    /// Tokens and bytes are upper bounds: every continuation is taken to reach traces.max_new (or the context's end).
    /// Of more than a thousand documents an even sample is read, and the numbers carry a `~`. The time is that of the
    /// documents still to do, from the first tokens of one batch of middling length.
    #[arg(long)]
    pub dry_run: bool,
    /// Make only every n-th batch from the i-th on: one of n processes, on whatever machines
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Put n finished shards together: the same bytes as if one process had made everything
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub merge: Option<u32>,
    /// Write the prompts of the greedy traces as lines of JSON, for a serving engine whose answers `traces.from` reads
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AblateOptions {
    #[command(flatten)]
    pub config: ConfigFile,
    /// Processes to run side by side, each with its share of the cores
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
    /// Only every n-th cell from the i-th on, for machines that share the folder; the last to finish writes the whole table
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// A job of the attempt so named
    #[arg(long, hide = true)]
    pub child: Option<String>,
}

#[derive(Debug, Args)]
pub struct InspectOptions {
    /// The folder; a model may also be one of the hub (org/name)
    pub path: PathBuf,
    /// List the tensors of a model as well
    #[arg(long, conflicts_with = "check")]
    pub tensors: bool,
    /// Compare the model's tokens, logits, hidden states and greedy texts with these vectors; exit code 1 if they differ
    #[arg(long, value_name = "VECTORS.json")]
    pub check: Option<PathBuf>,
    /// The largest difference of a number that --check allows
    #[arg(long, default_value_t = 1e-3)]
    pub tolerance: f32,
}

/// What `export` writes, and where.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The folder of a run, or of heads
    #[arg(required_unless_present = "check")]
    pub heads: Option<PathBuf>,
    /// The format: speculators, eagle3, eagle1, dflash, medusa, medusa-tgi, mlp-speculator or hf; or flags, to print how engines copy
    /// from the text by themselves
    #[arg(long, value_name = "FORMAT", required_unless_present = "check")]
    pub to: Option<String>,
    /// A new folder for the checkpoint
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// The type of the tensors: bfloat16 (bf16), float16 (f16) or float32 (f32)
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    pub dtype: String,
    /// The backbone of heads that are given without their run: a Hugging Face folder, or a model of the hub
    #[arg(long, value_name = "MODEL")]
    pub backbone: Option<String>,
    /// Check the checkpoint in this folder instead, as its reader would read it
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["heads", "to", "output"])]
    pub check: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InitOptions {
    /// The model: a Hugging Face folder, a .gguf file, or org/name of the hub
    #[arg(long)]
    pub model: String,
    /// The text: JSON lines, CSV, Parquet or plain paragraphs
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// The file to write, whose name becomes the run's
    #[arg(long, value_name = "FILE", default_value = "mine.toml")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "run"]))]
#[command(group = clap::ArgGroup::new("text").required(true).args(["prompt", "prompt_file"]))]
pub struct GenerateOptions {
    /// A Hugging Face folder, or a model of the hub (org/name or org/name@revision), decoded token by token
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// An evaluated run, whose model is decoded block by block
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// With --run: the variant that drafts; the best on dev without it
    #[arg(long, requires = "run")]
    pub variant: Option<Variant>,
    /// With --run: the data set whose settings are taken; the first without it
    #[arg(long, value_name = "NAME", requires = "run")]
    pub data: Option<String>,
    /// With --run: draft with the run's heads though the model is no longer the one that they were trained above
    #[arg(long, requires = "run")]
    pub accept_backbone: bool,
    /// With --run: nodes of the trees of a `tree-` or `grown-` variant, at most: a number, "auto" (as many as pay on this machine, block
    /// by block, by a measurement of about a second, and no drafts while none do; with another rule than greedy, as "run"), or "run" (as
    /// evaluated)
    #[arg(long, value_name = "NODES", default_value = "auto", requires = "run")]
    pub budget: Budget,
    /// With --run: what verification keeps. Lossless: greedy, sample (for drafts of any variant), rejection,
    /// without-replacement and k-seq (for drafts drawn from the heads). Lossy: top-k=K, typical=EPSILON,DELTA
    #[arg(long, default_value = "greedy", requires = "run")]
    pub rule: Rule,
    /// With a rule for drawn drafts: how many tokens are drawn behind a path, slot by slot, such as 4,2,2; one in further slots. A
    /// single number is a number of whole drafts
    #[arg(long, value_name = "N,...", default_value = "4", value_delimiter = ',', requires = "run")]
    pub drafts: Vec<usize>,
    /// The text to continue
    #[arg(long)]
    pub prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Put the prompt as the user's message: "model" for the model's own chat template, or a template's path
    #[arg(long, value_name = "TEMPLATE", requires = "model")]
    pub chat_template: Option<String>,
    /// Short for --chat-template model
    #[arg(long, requires = "model", conflicts_with = "chat_template")]
    pub chat: bool,
    /// Tokens to write, at most
    #[arg(long, default_value_t = 96)]
    pub max_new: usize,
    /// Draw tokens with the logits divided by this; greedy without it
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Draw from the likeliest tokens that have this much probability together
    #[arg(long, default_value_t = 1.0, requires = "temperature", conflicts_with = "run")]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How large the trees of `generate --run` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// As many nodes as pay.
    Auto,
    /// As many as the run was evaluated with.
    Run,
    /// So many.
    Nodes(usize),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "run" => Ok(Self::Run),
            _ => match text.parse() {
                Ok(nodes) if nodes > 0 => Ok(Self::Nodes(nodes)),
                _ => Err("write a number of at least 1, auto or run".into()),
            },
        }
    }
}
