"""Chat templates: what Hugging Face's rely on, and what they must not be able to do."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from dynamoc.runtime.frontend.template import ChatTemplate, TemplateError, load_template

SMOLLM2 = Path.home() / ".cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct"
MESSAGES = [{"role": "user", "content": "<a> & 'b' é"}, {"role": "assistant", "content": "c"}]


def render(source: str, **extra: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES, extra)


def test_what_templates_rely_on() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}") == "<s><a> & 'b' é"
    assert render("{{ messages[1] | tojson }}") == '{"role": "assistant", "content": "c"}'
    assert render("{{ messages[0].content | tojson }}") == "\"<a> & 'b' é\""
    assert render("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}") == "user"
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().astimezone().year)
    assert render("{% if add_generation_prompt %}go{% endif %}") == "go"
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"
    assert render("  {% if true %}\n  x\n  {% endif %}\n") == "  x\n"


def test_a_request_cannot_replace_the_messages() -> None:
    assert render("{{ messages | length }}", messages=[]) == "2"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "refuses the messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages"),
        ("{{ messages.append(1) }}", "refuses the messages"),
        ("{% if %}", "does not compile"),
    ],
)
def test_errors_are_sentences(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        render(source)


def test_where_a_template_is_found(tmp_path: Path) -> None:
    settings = tmp_path / "tokenizer_config.json"

    assert load_template(tmp_path) is None
    settings.write_text(json.dumps({"bos_token": {"content": "<b>"}, "chat_template": "{{ bos_token }}one"}))
    assert rendered(tmp_path) == "<b>one"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "two"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert rendered(tmp_path) == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert rendered(tmp_path) == "three"


def rendered(folder: Path) -> str:
    template = load_template(folder)
    assert template is not None
    return template.render(MESSAGES, {})


@pytest.mark.model
def test_a_real_template_like_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SMOLLM2)
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)

    assert rendered(SMOLLM2) == expected
