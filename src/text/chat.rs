//! Chat templates: the form in which a model expects a user's question.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use jiff::civil::Date;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use toml::Table;

use crate::error::{Error, Result, bail};
use crate::files;

/// The date that templates are given unless another one is asked for; Llama 3's templates fall back on it too.
pub const TEMPLATE_DATE: Date = jiff::civil::date(2024, 7, 26);

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who says it: "system", "user" or "assistant".
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A chat template with the special tokens that it may name.
///
/// It renders what `apply_chat_template` of Hugging Face Transformers renders (Jinja with `trim_blocks` and
/// `lstrip_blocks`), but on a fixed date: some templates write the date into the text, and the text must be the same
/// tomorrow.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The special tokens that the template may name.
    tokens: Tokens,
    source: String,
    date: Date,
    /// Values that its user gives it by name.
    arguments: Table,
    /// Where the template comes from, for error messages.
    origin: String,
}

/// Special tokens that a template may name, such as `bos_token`, with their texts. Those that a model lacks are
/// undefined in its template.
pub type Tokens = Vec<(&'static str, String)>;

const TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];
const NAME: &str = "chat";
/// The instructions that a template may take for a prompt; real ones take a few thousand.
const FUEL: u64 = 5_000_000;
/// How deep its macros and blocks may call one another.
const RECURSION: usize = 64;
/// The bytes that it may write for a prompt.
const LONGEST: usize = 16 << 20;

/// A text that does not grow without end.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::other(format!("it writes more than {} MiB for one prompt", LONGEST >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ChatTemplate {
    /// Loads the template that `source` names, with the special tokens of `tokenizer_config.json` in `folder`.
    /// `strftime_now` in the template sees `date`.
    ///
    /// An empty `source` names no template. The source `"model"` names that of the model in `folder`:
    /// `chat_template.jinja`, or else `chat_template` in `tokenizer_config.json`. Any other source is the path of a
    /// file.
    ///
    /// # Errors
    /// When there is no template, or the text is not a template; the error names the line.
    pub fn load(folder: &Path, source: &str, date: Date) -> Result<Option<Self>> {
        let path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = if path.exists() { files::read_json(&path)? } else { serde_json::Value::Null };
        let own = folder.join("chat_template.jinja");
        let (origin, text) = match source {
            "" => return Ok(None),
            "model" if own.exists() => (own.display().to_string(), files::read_text(&own)?),
            "model" => (path.display().to_string(), in_config(&config, &path)?.to_owned()),
            file => (file.to_owned(), files::read_text(Path::new(file))?),
        };
        let text_of =
            |token: &serde_json::Value| Some(token.as_str().or_else(|| token.get("content")?.as_str())?.to_owned());
        let tokens = TOKENS.iter().filter_map(|&name| Some((name, text_of(config.get(name)?)?))).collect();
        Self::new(&origin, text, tokens, date).map(Some)
    }

    /// Parses a template; errors call it `origin`.
    ///
    /// # Errors
    /// When the text is not a template; the error names the line.
    pub fn new(origin: &str, source: String, tokens: Tokens, date: Date) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // As in Python, where None is not iterable, and text is a sequence.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
        });
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: Value| -> Result<Value, minijinja::Error> {
            let refusal = Refusal(message.to_string().trim_end_matches('.').to_owned());
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, refusal.to_string()).with_source(refusal))
        });
        environment.add_function("strftime_now", move |format: &str| {
            jiff::fmt::strtime::format(format, date.at(0, 0, 0, 0)).map_err(|e| {
                minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"))
            })
        });
        // Jinja2 treats all line ends alike.
        let plain = plain_blocks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        environment.add_template_owned(NAME, plain).map_err(|e| {
            let what = format!("not a chat template that can be read ({})", reason(&e));
            Error::new(format!("{origin}{}: {what}. Mend it, or give another template.", line(&e)))
        })?;
        Ok(Self { environment, tokens, source, date, arguments: Table::new(), origin: origin.to_owned() })
    }

    /// The names that this program itself gives to templates.
    pub const OWN: [&str; 8] =
        ["messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token", "unk_token", "pad_token"];

    /// Gives the template values by name, such as `enable_thinking`, besides what every template is given.
    ///
    /// # Errors
    /// When the template nowhere names one of them: it would change nothing.
    pub fn with_arguments(self, arguments: &Table) -> Result<Self> {
        if let Some(name) = arguments.keys().find(|name| !self.source.contains(name.as_str())) {
            bail!(
                "{}: the chat template does not know `{name}`, which `backbone.chat_arguments` gives it. Check the spelling, or leave it out.",
                self.origin
            );
        }
        Ok(Self { arguments: arguments.clone(), ..self })
    }

    /// Returns the text in which a user asks `prompt`, up to where the model's answer begins. It contains the special
    /// tokens that the model expects, so none must be added when it is tokenized.
    ///
    /// # Errors
    /// When the template refuses the prompt or fails.
    pub fn render(&self, prompt: &str) -> Result<String> {
        self.render_messages(&[Message { role: "user".to_owned(), content: prompt.to_owned() }])
    }

    /// Returns the text of a conversation, up to where the model's answer to it begins.
    ///
    /// # Errors
    /// When the template refuses the conversation or fails.
    pub fn render_messages(&self, messages: &[Message]) -> Result<String> {
        self.render_as(messages, true)
    }

    /// Checks that an answer stands behind its prompt in the text of the whole conversation, so that what follows the prompt, and
    /// nothing else, can be learnt from. `prompt` is the text of `messages`, up to the answer.
    ///
    /// # Errors
    /// When the whole text does not begin with the prompt, when nothing follows it there, or when the template fails.
    pub fn check_answer(&self, messages: &[Message], prompt: &str, answer: &str) -> Result<()> {
        let answer = Message { role: "assistant".to_owned(), content: answer.to_owned() };
        let whole = self.render_as(&[messages, &[answer]].concat(), false)?;
        let what = match whole.strip_prefix(prompt) {
            Some(rest) if !rest.trim().is_empty() => return Ok(()),
            Some(_) => "writes nothing for the answer, so there is nothing to learn",
            None => {
                "writes the conversation with the answer otherwise than its prompt, so where the answer begins is not known"
            }
        };
        bail!(
            "{}: the chat template {what}. Give another template, or let heads learn from the model's own text (`traces.train_text` = [\"greedy\"]).",
            self.origin
        )
    }

    /// Returns what the template writes behind an answer, which is how the model was taught to end one.
    ///
    /// # Errors
    /// When the template fails.
    pub fn ending(&self) -> Result<String> {
        const ANSWER: &str = "Yes, certainly.";
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let whole = self.render_as(&[message("user", "Is it?"), message("assistant", ANSWER)], false)?;
        Ok(whole.rsplit_once(ANSWER).map_or_else(String::new, |(_, ending)| ending.to_owned()))
    }

    /// Returns the text of a conversation, and where the next answer begins if `asks` is set.
    fn render_as(&self, messages: &[Message], asks: bool) -> Result<String> {
        // Transformers passes None for what its caller leaves out, and some templates rely on that.
        let given = context! {
            messages => messages,
            add_generation_prompt => asks,
            tools => (),
            documents => (),
        };
        let tokens: Value = self.tokens.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let template = self.environment.get_template(NAME).map_err(|e| self.explain(&e))?;
        let mut text = Bounded(Vec::new());
        let arguments = Value::from_serialize(&self.arguments);
        let rendered = template.render_captured_to(context! { ..given, ..tokens, ..arguments }, &mut text);
        rendered.map_err(|e| self.explain(&e))?;
        String::from_utf8(text.0).map_err(|e| Error::new(format!("{}: no UTF-8 text ({e}).", self.origin)))
    }

    /// Returns a hash of everything that decides how prompts are rendered.
    pub fn key(&self) -> String {
        let plain = files::hash_json(&(&self.source, &self.tokens, self.date.to_string()));
        if self.arguments.is_empty() { plain } else { files::hash_json(&(plain, &self.arguments)) }
    }

    /// Turns an error of the template engine into one for the user.
    fn explain(&self, error: &minijinja::Error) -> Error {
        let (origin, line) = (&self.origin, line(error));
        let refusal = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Refusal>());
        Error::new(match refusal {
            Some(Refusal(message)) => format!(
                "{origin}{line}: the chat template refuses a prompt: {message}. Give another template, or none for raw prompts."
            ),
            None => {
                let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
                let reason = source.map_or_else(|| reason(error), ToString::to_string);
                format!("{origin}{line}: the chat template failed ({reason}). Mend it, or give another template.")
            }
        })
    }
}

/// Returns the model's template in `tokenizer_config.json`: the only one, or else the one called "default".
fn in_config<'a>(config: &'a serde_json::Value, path: &Path) -> Result<&'a str> {
    let value = config.get("chat_template");
    let named = value.and_then(|templates| templates.as_array());
    let default = named.and_then(|all| all.iter().find(|one| one["name"] == "default")?.get("template")?.as_str());
    match value.and_then(|template| template.as_str()).or(default) {
        Some(template) => Ok(template),
        None if named.is_some() => {
            bail!(
                "{}: none of the chat templates is called \"default\". Copy one to a file and give its path.",
                path.display()
            )
        }
        None => bail!(
            "the model has no chat template: no chat_template.jinja beside {}, and no chat_template in it. A base model has none; leave the template out for raw prompts, or give the path of one.",
            path.display()
        ),
    }
}

/// What a template says through `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Returns the line of an error, as `: line N`, or nothing if it has none.
fn line(error: &minijinja::Error) -> String {
    error.line().map_or(String::new(), |line| format!(": line {line}"))
}

/// Returns the detail of an error, or else its kind.
fn reason(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// Replaces `{% generation %}`, which marks the assistant's words for training, by a block that always holds.
fn plain_blocks(source: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(source.len()), source);
    while let Some((before, after)) = rest.split_once("{%")
        && let Some((tag, after)) = after.split_once("%}")
    {
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let block = match word {
            "generation" => &tag.replacen(word, "if true", 1),
            "endgeneration" => &tag.replacen(word, "endif", 1),
            _ => tag,
        };
        plain.extend([before, "{%", block, "%}"]);
        rest = after;
    }
    plain + rest
}

/// Writes JSON as Python does: with a space after colons and commas, and nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let mut bytes = Vec::new();
    let written = match options.get::<Option<usize>>("indent")? {
        Some(indent) => {
            let indent = " ".repeat(indent.min(80));
            value
                .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    // `ensure_ascii=true` would escape letters; templates that name the option mean the other setting.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let broken = |e: &dyn fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    written.map_err(|e| broken(&e))?;
    String::from_utf8(bytes).map(Value::from).map_err(|e| broken(&e))
}

/// The layout of Python's JSON: a space after colons and commas.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
