//! The documents that a command is given, read one at a time.

use std::io::BufRead;
use std::path::Path;

use super::args::TextOptions;
use crate::backbone::{Checkpoint, resolve};
use crate::error::{Error, Result, bail};
use crate::files;
use crate::ngram::{Ending, Vocabulary};
use crate::text::Tokenizer;
use crate::traces::Trace;

/// The text given to a command, with its vocabulary.
pub struct Input<'a> {
    options: &'a TextOptions,
    tokenizer: Option<Tokenizer>,
    pub vocabulary: Vocabulary,
}

impl<'a> Input<'a> {
    pub fn open(options: &'a TextOptions) -> Result<Self> {
        let (tokenizer, vocabulary) = Self::vocabulary(options)?;
        let given = [&options.token_ids, &options.text, &options.traces];
        if given.iter().all(|paths| paths.is_empty()) {
            bail!("no text is given. Name files with --token-ids or --text, or folders with --traces.");
        }
        Ok(Self { options, tokenizer, vocabulary })
    }

    /// Returns the tokenizer, if one is named, and its vocabulary.
    pub fn vocabulary(options: &TextOptions) -> Result<(Option<Tokenizer>, Vocabulary)> {
        let Some(model) = &options.tokenizer else { return Ok((None, Vocabulary::default())) };
        let checkpoint = Checkpoint::open(&resolve(model)?)?;
        let tokenizer = checkpoint.tokenizer()?;
        let vocabulary = Vocabulary {
            eos: checkpoint.end_of_text()?,
            bos: tokenizer.bos(),
            size: Some(checkpoint.config.vocab_size),
            tokenizer: Some(tokenizer.hash().to_owned()),
        };
        Ok((Some(tokenizer), vocabulary))
    }

    /// Describes which text was given, by paths, sizes and modification times. The content is not read, because there
    /// may be much of it.
    pub fn describe(&self) -> Result<String> {
        let TextOptions { token_ids, text, traces, .. } = self.options;
        let mut description = String::new();
        let traces = traces.iter().map(|folder| folder.join("tokens.bin"));
        for path in token_ids.iter().chain(text).cloned().chain(traces) {
            let data = path.metadata().map_err(|e| Error::io("read", &path, e))?;
            description += &format!("{} {} {:?}\n", path.display(), data.len(), data.modified().ok());
        }
        Ok(description)
    }

    /// Returns the first path, for messages about the whole text.
    pub fn place(&self) -> String {
        let TextOptions { token_ids, text, traces, .. } = self.options;
        token_ids.iter().chain(text).chain(traces).next().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Calls `each` for every document, in order.
    pub fn for_each(&self, mut each: impl FnMut(&[u32], Ending) -> Result<()>) -> Result<()> {
        for path in &self.options.token_ids {
            for_each_line_of_ids(path, |tokens| each(tokens, Ending::Complete))?;
        }
        let Some(tokenizer) = &self.tokenizer else { return Ok(()) };
        for path in &self.options.text {
            for_each_line(path, |line| each(&tokenizer.encode(line)?, Ending::Complete))?;
        }
        for folder in &self.options.traces {
            let trace = Trace::open_tokens(folder, tokenizer.hash())?;
            for document in trace.documents() {
                // If the text ended by itself, it has an end-of-text id already.
                each(trace.tokens(document), Ending::Cut).map_err(|e| e.within(folder.display()))?;
            }
        }
        Ok(())
    }
}

/// Calls `each` with the token ids of every line. A blank line is an empty document.
pub fn for_each_line_of_ids(path: &Path, mut each: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
    let mut tokens = Vec::new();
    for_each_line(path, |line| {
        tokens.clear();
        for word in line.split_ascii_whitespace() {
            match word.parse() {
                Ok(id) => tokens.push(id),
                Err(_) => bail!("`{word}` is no token id; lines hold decimal ids separated by blanks."),
            }
        }
        each(&tokens)
    })
}

/// Calls `each` with every line of a text file.
fn for_each_line(path: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut text = files::open_text(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if text.read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, e))? == 0 {
            break;
        }
        let place = || format!("{}: line {number}", path.display());
        let Ok(line) = std::str::from_utf8(&line) else {
            bail!(
                "{} is not UTF-8 text. Convert the file to UTF-8; if it is compressed, its name must end in .gz.",
                place()
            );
        };
        each(line.trim_end_matches(['\n', '\r'])).map_err(|e| e.within(place()))?;
    }
    Ok(())
}
