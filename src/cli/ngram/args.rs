//! The arguments of `ngram`, with their help texts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::{Result, bail};
use crate::ngram::{Memory, Smoothing};

#[derive(Debug, Subcommand)]
pub enum NgramCommand {
    /// Count the n-grams of a text; stopped at any moment, it goes on when it is started again
    #[command(after_help = "Examples:
  draftsmith ngram count --order 4 --token-ids train-*.ids.gz --out train.counts
  draftsmith ngram count --order 4 --text train.txt --tokenizer models/my-llama --out train.counts --parquet table")]
    Count {
        #[command(flatten)]
        text: TextOptions,
        /// Longest n-gram, 1 to 6
        #[arg(long, default_value_t = 4)]
        order: usize,
        /// The file of counts to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Write the counts as a Parquet table (order, ids, count) to this folder as well
        #[arg(long, value_name = "FOLDER")]
        parquet: Option<PathBuf>,
        #[command(flatten)]
        memory: MemoryOption,
    },
    /// Add counts of parts of a text up: the same bytes as counting the whole at once
    #[command(after_help = "Example:\n  draftsmith ngram merge shard-*.counts --out all.counts")]
    Merge {
        /// Files of counts
        #[arg(required = true, value_name = "COUNTS")]
        counts: Vec<PathBuf>,
        /// The file of counts to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Estimate a model from a text or from counts
    #[command(after_help = "Examples:
  draftsmith ngram estimate --order 4 --discount-fallback --token-ids train.ids.gz --arpa model.arpa
  draftsmith ngram estimate --counts all.counts --prune 0 0 1 --held-out dev.ids --model model.ngram")]
    Estimate(EstimateOptions),
    /// Leave out the n-grams that matter least by relative entropy (Stolcke 1998)
    #[command(after_help = "Example:
  draftsmith ngram prune model.ngram --threshold 1e-8 --held-out dev.ids --out small.ngram
Pruning by count is a matter of estimation: `ngram estimate --prune`.")]
    Prune {
        /// The model: ARPA text where the name ends in .arpa or .arpa.gz, else a model file
        #[arg(value_name = "MODEL")]
        model: PathBuf,
        /// Leave out an n-gram if that raises the model's own perplexity by a share below this
        #[arg(long, value_name = "SHARE")]
        threshold: f64,
        /// Lines of token ids: print their perplexity before and after
        #[arg(long, value_name = "FILE")]
        held_out: Option<PathBuf>,
        /// What to write, by its name ARPA text or a model file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        memory: MemoryOption,
    },
    /// ARPA text to a model file and back
    #[command(after_help = "Examples:
  draftsmith ngram convert model.arpa.gz model.ngram
  draftsmith ngram convert model.ngram small.ngram --quantise")]
    Convert {
        /// The model: ARPA text where the name ends in .arpa or .arpa.gz, else a model file
        from: PathBuf,
        /// What to write, by its name ARPA text or a model file
        to: PathBuf,
        /// Keep probabilities and weights as codes of 8 bits, and print what that costs; for model files
        #[arg(long)]
        quantise: bool,
        #[command(flatten)]
        memory: MemoryOption,
    },
    /// Score lines of token ids
    #[command(after_help = "Example:\n  draftsmith ngram score --arpa model.arpa --token-ids test.ids --format json")]
    Score {
        /// The model as ARPA text
        #[arg(long, value_name = "FILE", required_unless_present = "model")]
        arpa: Option<PathBuf>,
        /// The model as a model file
        #[arg(long, value_name = "FILE", conflicts_with = "arpa")]
        model: Option<PathBuf>,
        /// Lines of token ids, one document a line; .gz is read too
        #[arg(long, value_name = "FILE")]
        token_ids: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct EstimateOptions {
    #[command(flatten)]
    pub text: TextOptions,
    /// Files of counts, or a folder with a Parquet table of counts
    #[arg(long, value_name = "COUNTS", num_args = 1.., conflicts_with_all = ["token_ids", "text", "traces", "order"])]
    pub counts: Vec<PathBuf>,
    /// Longest n-gram, 1 to 6 (4 unless the counts tell)
    #[arg(long)]
    pub order: Option<usize>,
    /// How probability is set aside for what was not seen
    #[arg(long, value_parser = smoothing, default_value = "kneser-ney", value_name = "kneser-ney|katz")]
    pub smoothing: Smoothing,
    /// Discounts for an order whose counts of counts are degenerate (0.5 1 1.5 when no numbers follow)
    #[arg(long, num_args = 0..=3, value_names = ["D1", "D2", "D3"])]
    pub discount_fallback: Option<Vec<f64>>,
    /// Leave out n-grams that occur at most so often: a number per order, unigrams first; the last stands for the rest
    #[arg(long, num_args = 1..=6, value_name = "COUNT")]
    pub prune: Vec<u64>,
    /// Lines of token ids: print their perplexity (with --prune, that without pruning as well)
    #[arg(long, value_name = "FILE")]
    pub held_out: Option<PathBuf>,
    /// Write the model as ARPA text; .gz is written too
    #[arg(long, value_name = "FILE", required_unless_present = "model")]
    pub arpa: Option<PathBuf>,
    /// Write the model as a model file, which is mapped at once
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryOption,
}

/// Text in one of three forms.
#[derive(Debug, Args)]
pub struct TextOptions {
    /// Lines of token ids separated by blanks, one document a line; .gz is read too
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub token_ids: Vec<PathBuf>,
    /// Plain text, one document a line; .gz is read too
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "tokenizer")]
    pub text: Vec<PathBuf>,
    /// Folders of traces: prompts and the backbone's own text
    #[arg(long, value_name = "FOLDER", num_args = 1.., requires = "tokenizer")]
    pub traces: Vec<PathBuf>,
    /// The model whose tokenizer makes, or made, the ids: its end-of-text ids become </s>, and its whole vocabulary has a
    /// share of the probability
    #[arg(long, value_name = "MODEL")]
    pub tokenizer: Option<String>,
}

#[derive(Debug, Args)]
pub struct MemoryOption {
    /// Memory for sorting, such as 512M or 2G; what does not fit goes to temporary files beside the result
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = bytes)]
    memory: usize,
}

impl MemoryOption {
    /// The memory, with temporary files beside `result`.
    pub fn beside(&self, result: &std::path::Path) -> Result<Memory> {
        if self.memory < Memory::LEAST {
            bail!("--memory is {} bytes; it must be at least {}M.", self.memory, Memory::LEAST >> 20);
        }
        let folder = result.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(Memory::new(self.memory, folder.unwrap_or(std::path::Path::new("."))))
    }
}

fn smoothing(text: &str) -> std::result::Result<Smoothing, String> {
    match text {
        "kneser-ney" => Ok(Smoothing::KneserNey),
        "katz" => Ok(Smoothing::Katz),
        _ => Err("it is kneser-ney or katz".to_owned()),
    }
}

/// A number of bytes: digits and K, M or G (of 1,024).
fn bytes(text: &str) -> std::result::Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "a number of bytes is digits and K, M or G, such as 512M".to_owned())
}
