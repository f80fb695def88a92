//! The command `init`, which writes a commented configuration for a model and a text.

use std::path::Path;

use super::args::InitOptions;
use super::print;
use crate::config::{self, Overrides};
use crate::error::{Result, bail};
use crate::files;
use crate::progress;
use crate::text::field_names;

/// Names that fields with prompts, and with the texts that follow them, usually have.
const PROMPTS: [&str; 9] =
    ["prompt", "question", "instruction", "input", "dialogue", "document", "article", "query", "text"];
const COMPLETIONS: [&str; 8] =
    ["completion", "answer", "response", "output", "summary", "highlights", "solution", "target"];

pub fn init(options: &InitOptions) -> Result<()> {
    let InitOptions { model, text, output } = options;
    if output.exists() {
        bail!("{}: this file is there already, and is not written over. Name another with --output.", output.display());
    }
    let fields = field_names(text)?;
    let known = |names: &[&'static str]| names.iter().find(|name| fields.iter().any(|field| field == *name)).copied();
    let prompt = known(&PROMPTS);
    let chat = known(&["messages", "conversations"]);
    if prompt.is_none() && chat.is_none() && !fields.is_empty() {
        progress::say(format!(
            "{}: which field holds the prompt is not plain; the file has {}. Say it in {}.",
            text.display(),
            fields.join(", "),
            output.display()
        ));
    }
    let name = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let of_records = if let Some(chat) = chat {
        format!(
            "# The field with the messages of a conversation, of which every answer is a document.\nchat = {}\n",
            quoted(chat)
        )
    } else if fields.is_empty() {
        "# Plain text: a document is so many paragraphs, and the first of them is its prompt.\nparagraphs = 8\n"
            .to_owned()
    } else {
        format!(
            "# The fields of a record: where the prompt is, and what follows it in the text (\"\" where there is nothing).\nprompt = {}\ncompletion = {}\n# What stands between the two.\nseparator = \"\\n\"\n",
            quoted(prompt.unwrap_or("prompt")),
            quoted(known(&COMPLETIONS).unwrap_or("")),
        )
    };
    let written = TEMPLATE
        .replace("{name}", &quoted(&name))
        .replace("{model}", &quoted(model))
        .replace("{text}", &quoted(&text.to_string_lossy()))
        .replace("{template}", if chat.is_some() { "chat_template = \"model\"\n" } else { "" })
        .replace("{records}", &of_records);
    files::write_atomic(output, written.as_bytes())?;
    // What was written is a configuration, or this program has a bug.
    config::load(output, &Overrides::default())?;
    print(&format!("{}\n", output.display()))?;
    progress::say(format!(
        "next: `draftsmith doctor {0}` looks for mistakes, and `draftsmith run {0}` does everything.",
        Path::new(output).display()
    ));
    Ok(())
}

/// Returns a text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The configuration. Every key that is left out has its default, which `docs/configuration.md` lists.
const TEMPLATE: &str = r#"# Results go to runs/NAME.
name = {name}
seed = 1

# The frozen model: a Hugging Face folder, a .gguf file, or org/name of the hub.
[backbone]
path = {model}
{template}
# Documents to learn from, to choose settings on (dev), and to report on (test).
[data.text]
path = {text}
{records}dev = 0.1
test = 0.2

# What the model writes behind the prompts is recorded once, with the states that heads read.
[traces]
max_new = 96
dtype = "float16"
# More text makes better heads, and takes longer; `draftsmith trace --dry-run` says how long.
train_documents = 1000
dev_documents = 30
test_documents = 100

[heads]
# Tokens proposed at once; the first of them is the model's own next token.
block_size = 6
# Places to learn from in a step, and how many of them a document gives.
positions_per_step = 128
positions_per_document = 16
prompt_positions = true
choose_by = "dev-block-efficiency"

# Copies of the model's own top layer, which attend to the text and to what was drafted before.
[heads.architecture]
kind = "attention"
layers = 1

# More steps are better heads. A step of this size takes about a second for a model of 135 million parameters on two cores.
[heads.training]
steps = 600
learning_rate = 4e-3
warmup_steps = 40
dev_every = 100
checkpoint_every = 100
average = 0.98

# Knows what usually follows what, from the same text.
[rescorer.ngram]
kind = "ngram"
text = ["gold", "traces"]

# Which drafts are compared; `docs/rescorers.md` explains their names.
[drafting]
variants = ["prompt-lookup", "ngram", "tree-0gram", "grown-0gram", "grown-ngram", "grown-ngram+lookup"]
"#;
