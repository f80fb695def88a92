use serde_json::{Value as Json, json};

use super::*;

fn template(text: &str) -> Result<ChatTemplate> {
    let tokens =
        vec![("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned()), ("unk_token", "<unk>".to_owned())];
    ChatTemplate::new("t.jinja", text.to_owned(), tokens, TEMPLATE_DATE)
}

fn render(text: &str) -> Result<String> {
    template(text)?.render("Hi")
}

/// Templates in the manner of those in use, and what Jinja2 makes of them (templates/expect.py).
#[test]
fn templates_render_as_the_python_library_renders_them() {
    let reference: Json = serde_json::from_str(include_str!("templates/expected.json")).unwrap();
    let templates = [
        ("chatml", include_str!("templates/chatml.jinja")),
        ("gemma", include_str!("templates/gemma.jinja")),
        ("kinds", include_str!("templates/kinds.jinja")),
        ("llama3", include_str!("templates/llama3.jinja")),
        ("mistral", include_str!("templates/mistral.jinja")),
        ("odds", include_str!("templates/odds.jinja")),
        ("qwen3", include_str!("templates/qwen3.jinja")),
        ("zephyr", include_str!("templates/zephyr.jinja")),
    ];
    let prompt = reference["prompt"].as_str().unwrap();
    let text_of = |value: &Json| value.as_str().unwrap().to_owned();
    let conversation: Vec<Message> = reference["conversation"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| Message { role: text_of(&message["role"]), content: text_of(&message["content"]) })
        .collect();
    for (name, text) in templates {
        let template = template(text).unwrap();
        assert_eq!(template.render(prompt).unwrap(), reference["expected"][name].as_str().unwrap(), "{name}");
        let whole = template.render_messages(&conversation).ok();
        assert_eq!(whole.as_deref(), reference["conversations"][name].as_str(), "{name}");
    }
    assert_eq!(reference["expected"].as_object().unwrap().len(), templates.len());
}

#[test]
fn line_ends_of_any_kind_are_the_same() {
    assert_eq!(render("a\r\n{% if true %}\r\n b\r{% endif %}\r\n{{ 'c\r\n' }}").unwrap(), "a\n b\nc\n");
}

#[test]
fn a_template_that_cannot_be_read_is_an_error_with_its_line() {
    let error = template("{{ messages }}\n{% if %}").err().unwrap().to_string();
    assert!(error.starts_with("t.jinja: line 2: not a chat template"), "{error}");
    assert!(template("{% generation %}\n{{ bos_token").is_err());
}

#[test]
fn a_refusal_is_told_in_the_template_s_words() {
    let error = render("{% for m in messages %}\n{{ raise_exception('Only tools speak here.') }}{% endfor %}")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("t.jinja: line 2: the chat template refuses") && error.contains("Only tools speak here. "),
        "{error}"
    );
    let error =
        render("{% macro no() %}{{ raise_exception('Deep') }}{% endmacro %}{{ no() }}").unwrap_err().to_string();
    assert!(error.contains("refuses") && error.contains("Deep"), "{error}");
}

#[test]
fn other_failures_are_told_as_well() {
    for broken in [
        "{{ messages.x.y }}",
        "{{ strftime_now('%Q') }}",
        "{{ 1 | tojson(sort=true) }}",
        "{{ 'a'.nothing() }}",
        "{% include 'x' %}",
    ] {
        let error = render(broken).unwrap_err().to_string();
        assert!(error.starts_with("t.jinja: line 1: the chat template failed ("), "{broken}: {error}");
    }
}

/// Each of these would run, call or write without end.
#[test]
fn templates_come_to_an_end() {
    let loops = "{% for i in range(90000) %}{% for j in range(90000) %}{{ i }}{% endfor %}{% endfor %}";
    let calls = "{% macro a(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}";
    let writes = "{% set x = 'x' * 100000 %}{% for i in range(900) %}{{ x }}{% endfor %}";
    for (text, words) in [(loops, "fuel"), (calls, "recursion"), (writes, "more than 16 MiB")] {
        let error = render(text).unwrap_err().to_string();
        assert!(error.contains("the chat template failed") && error.contains(words), "{error}");
    }
}

#[test]
fn the_date_is_the_one_given() {
    let date = jiff::civil::date(2026, 11, 4);
    let told = |date| ChatTemplate::new("t", "{{ strftime_now('%d %b %Y') }}".into(), vec![], date).unwrap();
    assert_eq!(told(date).render("").unwrap(), "04 Nov 2026");
    assert_ne!(told(date).key(), told(TEMPLATE_DATE).key());
}

#[test]
fn the_file_wins_over_the_configuration_and_default_among_several() {
    let dir = tempfile::tempdir().unwrap();
    let load = |source: &str| ChatTemplate::load(dir.path(), source, TEMPLATE_DATE);
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let failure = |source: &str| load(source).err().unwrap().to_string();
    assert!(load("").unwrap().is_none());
    assert!(failure("model").contains("the model has no chat template"));
    assert!(failure("/no/such.jinja").contains("/no/such.jinja"));
    let config = |template: Json| {
        let tokens =
            json!({"bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null, "chat_template": template});
        write("tokenizer_config.json", &tokens.to_string());
    };
    config(json!([{"name": "tool_use", "template": "x"}]));
    assert!(failure("model").contains("\"default\""));
    config(
        json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]),
    );
    assert_eq!(load("model").unwrap().unwrap().render("q").unwrap(), "<b>q");
    config(json!("{{ messages[0].content }}{{ eos_token }}{{ pad_token }}{{ pad_token is defined }}"));
    assert_eq!(load("model").unwrap().unwrap().render("q").unwrap(), "q<e>False");
    config(json!("{% if %}"));
    assert!(failure("model").contains("tokenizer_config.json: line 1"));
    write("chat_template.jinja", "own {{ messages[0].content }}\n");
    let own = load("model").unwrap().unwrap();
    assert_eq!(own.render("q").unwrap(), "own q");
    let file = dir.path().join("chat_template.jinja").to_string_lossy().into_owned();
    assert_eq!(load(&file).unwrap().unwrap().key(), own.key());
}

#[test]
fn arguments_reach_the_template_and_its_key() {
    let source = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ style }}";
    let arguments = |text: &str| toml::from_str::<Table>(text).unwrap();
    let with = |text: &str| template(source).unwrap().with_arguments(&arguments(text));
    let (none, off) = (with("").unwrap(), with("enable_thinking = false\nstyle = 'curt'").unwrap());
    assert_eq!([none.render("Hi").unwrap(), off.render("Hi").unwrap()], ["", "<think></think>curt"]);
    assert_eq!(none.key(), template(source).unwrap().key());
    assert_ne!(none.key(), off.key());
    assert_ne!(off.key(), with("enable_thinking = true\nstyle = 'curt'").unwrap().key());
    let error = with("thinking_budget = 3").err().unwrap().to_string();
    assert!(error.starts_with("t.jinja: the chat template does not know `thinking_budget`"), "{error}");
}

/// What follows a prompt is all that is learnt from, so it must be where the whole conversation has the answer.
#[test]
fn an_answer_stands_behind_its_prompt_or_is_refused() {
    let messages = [Message { role: "user".into(), content: "Hi".into() }];
    let check = |text: &str| {
        let template = template(text).unwrap();
        template.check_answer(&messages, &template.render_messages(&messages).unwrap(), "Hello.")
    };
    let marked = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>\n{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    check(marked).unwrap();
    assert_eq!(template(marked).unwrap().ending().unwrap(), "</s>\n");
    for known in [
        include_str!("templates/chatml.jinja"),
        include_str!("templates/gemma.jinja"),
        include_str!("templates/llama3.jinja"),
        include_str!("templates/mistral.jinja"),
        include_str!("templates/qwen3.jinja"),
        include_str!("templates/zephyr.jinja"),
    ] {
        check(known).unwrap();
    }
    for (text, words) in [
        ("{{ messages[0].content }}", "writes nothing for the answer"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}\n", "writes nothing for the answer"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}answer:", "otherwise than its prompt"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "otherwise than its prompt"),
    ] {
        let error = check(text).unwrap_err().to_string();
        assert!(error.starts_with("t.jinja: ") && error.contains(words), "{text}: {error}");
    }
}
