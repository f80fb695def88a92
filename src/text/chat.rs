//! Chat templates: how a model wants to be asked.

use std::path::Path;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, bail};
use crate::files;

/// A template with the special tokens that it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Map<String, Value>,
    source: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// The template of a model's folder (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`) where
    /// `which` is "model", else of the file `which`.
    ///
    /// # Errors
    /// No template there, or one that is not a template; the error names the line.
    pub fn load(folder: &Path, which: &str) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        let config: Map<String, Value> = if path.exists() { files::read_json(&path)? } else { Map::new() };
        let own = folder.join("chat_template.jinja");
        let (place, source) = match which {
            "model" if own.exists() => (own.display().to_string(), files::read_text(&own)?),
            "model" => match of_config(config.get("chat_template")) {
                Some(source) => (path.display().to_string(), source.to_owned()),
                None => bail!(
                    "{}: the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json). Give the path of one as backbone.chat_template, or leave the key out for raw prompts.",
                    folder.display()
                ),
            },
            file => (file.to_owned(), files::read_text(Path::new(file))?),
        };
        let tokens = ["bos_token", "eos_token", "unk_token", "pad_token"];
        let tokens = tokens.into_iter().filter_map(|name| Some((name.to_owned(), json!(text_of(config.get(name)?)?))));
        let tokens = tokens.collect();
        Self::new(source, tokens).map_err(|e| e.within(place))
    }

    /// From its source and the special tokens that it may name (`bos_token` and others).
    ///
    /// # Errors
    /// A source that is not a template; the error names the line.
    pub fn new(source: String, tokens: Map<String, Value>) -> Result<Self> {
        let mut environment = Environment::new();
        // As the reference library renders them. It also gives templates the day's date; here they get none, and so fall
        // back on a fixed one, since a trace must not depend on the day.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source.clone()).map_err(explain)?;
        Ok(Self { environment, tokens, source })
    }

    /// The text that asks `prompt` as a user and leaves the answer to the model.
    ///
    /// # Errors
    /// Whatever the template complains of.
    pub fn render(&self, prompt: &str) -> Result<String> {
        let mut context = self.tokens.clone();
        context.insert("messages".into(), json!([{"role": "user", "content": prompt}]));
        context.insert("add_generation_prompt".into(), json!(true));
        let template = self.environment.get_template(NAME).expect("it was added");
        template.render(&context).map_err(|e| explain(e).within("the chat template"))
    }

    /// What decides how it renders.
    pub fn key(&self) -> String {
        files::hash_json(&(&self.source, &self.tokens))
    }
}

/// The only template, or the one called "default".
fn of_config(value: Option<&Value>) -> Option<&str> {
    match value? {
        Value::String(source) => Some(source),
        Value::Array(named) => named.iter().find(|t| t["name"] == "default")?.get("template")?.as_str(),
        _ => None,
    }
}

/// A token, written as a string or as a record.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn explain(error: minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::new(format!("{line}{detail}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String> {
        let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let Value::Object(tokens) = tokens else { unreachable!() };
        ChatTemplate::new(template.into(), tokens)?.render(" Hi there.\n")
    }

    /// The expected texts are those of Jinja2 with `trim_blocks` and `lstrip_blocks`.
    #[test]
    fn templates_in_use_render_as_the_reference_does() {
        let chatml = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        assert_eq!(
            render(chatml).unwrap(),
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n Hi there.\n<|im_end|>\n<|im_start|>assistant\n"
        );
        let llama3 = "{{- bos_token }}\n{%- if strftime_now is defined %}{%- set date = strftime_now('%d %b %Y') %}{%- else %}\n    {%- set date = '26 Jul 2024' %}\n{%- endif %}\n{{- date }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n";
        assert_eq!(
            render(llama3).unwrap(),
            "<s>26 Jul 2024<|start_header_id|>user<|end_header_id|>\n\nHi there.<|eot_id|>"
        );
        let mistral = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% endif %}{% endfor %}";
        assert_eq!(render(mistral).unwrap(), "<s>[INST] Hi there. [/INST]");
        let blocks = "{% for message in messages %}\n  {% if message.content.startswith(' Hi') %}\nyes {{ message.items() | list | length }}\n  {% endif %}\n{% endfor %}\nend";
        assert_eq!(render(blocks).unwrap(), "yes 2\nend");
    }

    #[test]
    fn errors_name_the_line_or_what_the_template_says() {
        let error = render("a\n{% if %}").unwrap_err().to_string();
        assert!(error.starts_with("line 2"), "{error}");
        let error = render("{{ raise_exception('no users here') }}").unwrap_err().to_string();
        assert!(error.contains("no users here"), "{error}");
    }

    #[test]
    fn a_model_s_own_template_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let error = ChatTemplate::load(dir.path(), "model").err().unwrap().to_string();
        assert!(error.contains("no chat template"), "{error}");
        let config = json!({"bos_token": {"content": "<b>"}, "chat_template": [
            {"name": "tools", "template": "x"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}
        ]});
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        assert_eq!(ChatTemplate::load(dir.path(), "model").unwrap().render("q").unwrap(), "<b>q");
        let own = dir.path().join("chat_template.jinja");
        std::fs::write(&own, "own {{ messages[0].content }}").unwrap();
        let template = ChatTemplate::load(dir.path(), "model").unwrap();
        assert_eq!(template.render("q").unwrap(), "own q");
        assert_eq!(template.key(), ChatTemplate::load(dir.path(), &own.to_string_lossy()).unwrap().key());
    }
}
