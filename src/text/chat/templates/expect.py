"""Writes expected.json: what Jinja2 (pip install jinja2) makes of the templates in this folder, set up as
apply_chat_template of transformers sets it up. Run it in this folder."""
import datetime
import glob
import json

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROMPT = " Hi thére, what's \"<2>\"?\n"


class Generation(Extension):
    """{% generation %}, which transformers uses to find the assistant's words."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("same"), [], [], body).set_lineno(line)

    def same(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = datetime.datetime(2024, 7, 26).strftime


CONVERSATION = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "And <3>?"},
]


def render(template, messages):
    return env.from_string(template).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=True,
        bos_token="<s>", eos_token="</s>", unk_token="<unk>")


if __name__ == "__main__":
    templates = {path.removesuffix(".jinja"): open(path).read() for path in sorted(glob.glob("*.jinja"))}
    expected = {name: render(text, CONVERSATION[:1]) for name, text in templates.items()}
    conversations = {}
    for name, text in templates.items():
        try:
            conversations[name] = render(text, CONVERSATION)
        except TemplateError:
            # Some know a single message alone.
            conversations[name] = None
    with open("expected.json", "w") as out:
        found = {"prompt": PROMPT, "expected": expected, "conversation": CONVERSATION, "conversations": conversations}
        json.dump(found, out, ensure_ascii=False, indent=2)
        out.write("\n")
