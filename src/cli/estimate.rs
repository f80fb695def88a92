//! The option `trace --dry-run`, which estimates the time and space of the missing traces.

use indicatif::{HumanBytes, HumanCount};

use super::args::{Common, Format};
use super::{print, print_json};
use crate::error::Result;
use crate::progress::duration;
use crate::stages::TracesEstimate;

pub fn show(common: &Common, all: &TracesEstimate) -> Result<()> {
    match common.format {
        Format::Table => print(&table(all)),
        Format::Json => print_json(&serde_json::to_value(all).expect("an estimate is JSON")),
    }
}

fn table(all: &TracesEstimate) -> String {
    let widest = all.traces.iter().map(|trace| trace.name.len()).chain([5]).max().unwrap_or(0);
    let mut text = format!(
        "{:<widest$}  documents  done  prompt tokens  new tokens, at most  disk, at most  time left\n",
        "trace"
    );
    for trace in &all.traces {
        let estimate = &trace.estimate;
        let about = |words: String| if estimate.exact { words } else { format!("~{words}") };
        text += &format!(
            "{:<widest$}  {:>9}  {:>4}  {:>13}  {:>19}  {:>13}  {:>9}\n",
            trace.name,
            HumanCount(estimate.documents as u64).to_string(),
            HumanCount(estimate.documents_done as u64).to_string(),
            about(HumanCount(estimate.prompt_tokens).to_string()),
            about(HumanCount(estimate.new_tokens_at_most).to_string()),
            about(HumanBytes(estimate.bytes_at_most).to_string()),
            estimate.seconds.map_or(String::new(), duration),
        );
    }
    for name in &all.finished {
        text += &format!("{name:<widest$}  finished\n");
    }
    text + &format!(
        "\n{} of disk at most, {} are free in {}; about {}\n",
        HumanBytes(all.bytes_at_most),
        HumanBytes(all.bytes_free),
        all.folder.display(),
        duration(all.seconds)
    )
}
