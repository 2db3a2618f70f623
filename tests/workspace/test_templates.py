"""Templates that would run on, or fill the memory, end; others render as Jinja does."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from workspaces import make_workspace

from factory.domain.failures import ContentError, ModelError
from factory.workspace import templates
from factory.workspace.chat_template import shows_tools
from factory.workspace.prompts import Prompts
from factory.workspace.templates import BoundedEnvironment, Unbounded

GROW = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = EXPR %}{% endfor %}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = [
    "{{ 10**5000 }}",
    "{{ 'a'*10**10 }}",
    "{{ 10**10 * [1] }}",
    "{{ 7 ** (10**8) }}",
    LOOPS,
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    *(
        GROW.replace("EXPR", expression)
        for expression in (
            "ns.x ~ ns.x",
            "ns.x + ns.x",
            "ns.x.replace('a', ns.x)",
            "ns.x|replace('a', ns.x)",
            "[ns.x, ns.x]|join",
            "[ns.x, ns.x]|join(ns.x)",
            "''.join([ns.x, ns.x])",
            "'%s%s' % (ns.x, ns.x)",
            "'%(a)s%(a)s' % {'a': ns.x}",
            "'{}{}'.format(ns.x, ns.x)",
            "'%s%s'|format(ns.x, ns.x)",
        )
    ),
    "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ '%*d'|format(999999999, 1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 'a'.ljust(999999999) }}",
    "{{ 'a'|center(999999999) }}",
    "{{ 'a\na'|indent(999999999) }}",
    "{{ [1]|tojson(indent=999999999) }}",
    "{{ [1]|batch(999999999, 0)|list }}",
    "{{ 1.5|round(100000000, 'ceil') }}",
    "{{ range(10**9)|list }}",
    "{% for i in range(99999) %}{{ 'a'*1000 }}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "{{ " + "9" * 5000 + " }}",
    "a" * 2_000_000,
]


@pytest.mark.parametrize("text", ENDLESS, ids=[text[:60] for text in ENDLESS])
def test_what_runs_on_ends(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    with pytest.raises(Unbounded):
        BoundedEnvironment().from_string(text).render()


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in x %}{{ loop.index }}{{ '-' if not loop.last }}{% else %}none{% endfor %}",
        "{% macro f(a) %}<{{ a ~ x[0] }}>{% endmacro %}{{ f('b') }}",
        "{% macro f(a) %}{{ caller() }}{{ a }}{% endmacro %}{% call f(2) %}c{% endcall %}",
        "{{ x|join(', ') }} {{ x|map('string')|join }} {{ '%s=%d' % ('a', 3) }}",
        "{{ '%05.1f'|format(2) }} {{ 'a-b'.replace('-', '+') }} {{ '{:>5}'.format('a') }}",
        "{{ 'a' * 3 + 'b' }} {{ 2**10 // 3 % 7 }}",
        "{% set y %}{{ x }}{% endset %}{{ y|upper|indent(2) }} {{ {'a': x}|tojson(indent=2) }}",
        "{{ [1] + x }} {{ 2**-1 }} {{ x|length - 1 }} {{ 'b' in 'abc' }} {{ ''.join(['a', 'b']) }}",
    ],
)
def test_others_render_as_in_jinja(text: str) -> None:
    bounded = BoundedEnvironment().from_string(text).render(x=[3, 4])
    assert bounded == ImmutableSandboxedEnvironment().from_string(text).render(x=[3, 4])


def test_a_prompt_that_runs_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    workspace = make_workspace(tmp_path / "ws")
    file = workspace.root / "prompts/calls/invoke.j2"
    file.parent.mkdir(parents=True)
    for text in ("{{ query }}{{ 10**5000 }}", "{{ query }}" + LOOPS):
        file.write_text(text, "utf-8")
        with pytest.raises(ContentError, match="calls/invoke") as error:
            Prompts.load(workspace).check()
        assert error.value.where == str(file)
        with pytest.raises(ContentError, match=r"invoke\.j2"):
            Prompts(workspace).render("calls/invoke", query="Play jazz.")
    file.write_text("{{ query * 10**10 }}", "utf-8")
    with pytest.raises(ContentError, match="more than 10000000"):
        Prompts(workspace).render("calls/invoke", query="Play jazz.")


def test_a_chat_template_that_runs_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    with pytest.raises(ModelError, match="takes more than") as error:
        shows_tools("{{ tools }}" + LOOPS, where="/models/m")
    assert error.value.where == "/models/m"
    assert shows_tools("{{ tools }}") and not shows_tools("{{ messages }} no tools")


def test_transformers_renders_a_models_template_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers", reason="no transformers: pip install 'tool-factory[train]'")
    from transformers.utils.chat_template_utils import render_jinja_template

    import factory.engines.chat  # noqa: F401 - it sets the bounds

    monkeypatch.setattr(templates, "SECONDS", 0.2)
    chats = [[{"role": "user", "content": "Hello"}]]
    said = "{% generation %}{{ m.content ~ '!' }}{% endgeneration %}"
    good = f"{{% for m in messages %}}{said}{{% endfor %}}"
    rendered, _ = render_jinja_template(chats, chat_template=good)
    assert rendered == ["Hello!"]
    with pytest.raises(Unbounded):
        render_jinja_template(chats, chat_template=LOOPS)
