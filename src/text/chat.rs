//! Chat templates: how a model wants to be asked.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use jiff::civil::Date;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::{Error, Result, bail};
use crate::files;

/// The day that templates are told when no other is asked for: the one that those of Llama 3 fall back on.
pub const TEMPLATE_DATE: Date = jiff::civil::date(2024, 7, 26);

/// A template with the special tokens that it may name. It renders what `apply_chat_template` of the Python library
/// does (Jinja with `trim_blocks` and `lstrip_blocks`), but on a fixed day: text that is to be the same tomorrow must not
/// depend on the date that some templates write into it.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// bos_token, eos_token and the like.
    tokens: Tokens,
    source: String,
    date: Date,
    /// For messages.
    place: String,
}

/// The special tokens a template may name, with their texts; those that a model lacks are undefined.
pub type Tokens = Vec<(&'static str, String)>;

const TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];
const NAME: &str = "chat";

impl ChatTemplate {
    /// The template that `source` asks for: none where it is empty; that of the model in `folder` where it is "model"
    /// (`chat_template.jinja`, else `chat_template` of `tokenizer_config.json`); else the one in the file `source`.
    /// Special tokens are those of `tokenizer_config.json`; `strftime_now` in the template tells of `date`.
    ///
    /// # Errors
    /// No template there, or a text that is no template; the error names the line.
    pub fn load(folder: &Path, source: &str, date: Date) -> Result<Option<Self>> {
        let path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = if path.exists() { files::read_json(&path)? } else { serde_json::Value::Null };
        let own = folder.join("chat_template.jinja");
        let (place, text) = match source {
            "" => return Ok(None),
            "model" if own.exists() => (own.display().to_string(), files::read_text(&own)?),
            "model" => (path.display().to_string(), in_config(&config, &path)?.to_owned()),
            file => (file.to_owned(), files::read_text(Path::new(file))?),
        };
        let text_of =
            |token: &serde_json::Value| Some(token.as_str().or_else(|| token.get("content")?.as_str())?.to_owned());
        let tokens = TOKENS.iter().filter_map(|&name| Some((name, text_of(config.get(name)?)?))).collect();
        Self::new(&place, text, tokens, date).map(Some)
    }

    /// A template from its text; `place` is what errors call it.
    ///
    /// # Errors
    /// A text that is no template; the error names the line.
    pub fn new(place: &str, source: String, tokens: Tokens, date: Date) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // In Python nothing is not iterable, and text is a sequence.
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
        // Jinja2 takes all line ends for the same.
        let plain = plain_blocks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        environment.add_template_owned(NAME, plain).map_err(|e| {
            let what = format!("not a chat template that can be read ({})", reason(&e));
            Error::new(format!("{place}{}: {what}. Mend it, or give another template.", line(&e)))
        })?;
        Ok(Self { environment, tokens, source, date, place: place.to_owned() })
    }

    /// The text that asks `prompt` as a user, up to where the model's answer begins. It has the special tokens that the
    /// model expects, so that none are to be added when it is tokenised.
    ///
    /// # Errors
    /// Whatever the template complains of.
    pub fn render(&self, prompt: &str) -> Result<String> {
        // What a caller of the Python library leaves out is there as none, and some templates rely on it.
        let given = context! {
            messages => [context! { role => "user", content => prompt }],
            add_generation_prompt => true,
            tools => (),
            documents => (),
        };
        let tokens: Value = self.tokens.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let template = self.environment.get_template(NAME).map_err(|e| self.explain(&e))?;
        template.render(context! { ..given, ..tokens }).map_err(|e| self.explain(&e))
    }

    /// What decides how prompts are rendered, as one hash.
    pub fn key(&self) -> String {
        files::hash_json(&(&self.source, &self.tokens, self.date.to_string()))
    }

    fn explain(&self, error: &minijinja::Error) -> Error {
        let (place, line) = (&self.place, line(error));
        let refusal = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Refusal>());
        Error::new(match refusal {
            Some(Refusal(message)) => format!(
                "{place}{line}: the chat template refuses a prompt of the user alone: {message}. Give another template, or none for raw prompts."
            ),
            None => format!(
                "{place}{line}: the chat template failed ({}). Mend it, or give another template.",
                reason(error)
            ),
        })
    }
}

/// The model's template in tokenizer_config.json: the only one, or the one called "default".
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

fn line(error: &minijinja::Error) -> String {
    error.line().map_or(String::new(), |line| format!(": line {line}"))
}

fn reason(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// `{% generation %}` marks the assistant's words for training; when asking, it is a block like any other.
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

/// JSON as Python writes it: a space after colons and commas, and nothing escaped for HTML.
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
    // The other setting would escape letters; templates that name it mean this one.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let broken = |e: &dyn fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    written.map_err(|e| broken(&e))?;
    String::from_utf8(bytes).map(Value::from).map_err(|e| broken(&e))
}

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
