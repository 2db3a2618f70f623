"""Templates that would run on, or fill the memory, end; others render as Jinja does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from workspaces import make_workspace

from factory.domain.failures import ContentError, ModelError
from factory.workspace import templates
from factory.workspace.chat_template import _Generation, _refuse, _to_json, shows_tools
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
    "{{ '%.999999999f'|format(1) }}",
    "{{ '%(a(b))999999999s' % {'a(b)': 1} }}",
    "{{ '{:.{p}f}'.format(1, p=999999999) }}",
    "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "{{ ('{:99999}' * 999).format(*([1] * 999)) }}",
    "{{ 'a'.zfill(999999999) }}{{ '\t'.expandtabs(999999999) }}",
    "{{ (1).to_bytes(byteorder='big', length=999999999) }}",
    "{{ ('a' * 9999).translate({97: 'a' * 9999}) }}",
    "{{ ('a' * 9999999).join(['a', 'a']|map('string')) }}",
    "{{ 'aaa'|join('a' * 9999999) }}",
    "{{ range(100000)|list|tojson(indent=9999)|length }}",
    "{{ [1]|tojson(indent='a' * 999999) }}",
    "{{ ('a '*4000000).split(' ')|map('upper')|list|length }}",
    "{{ ('a '*4000000).split(' ')|reject('string')|list|length }}",
    "{{ ('a '*4000000).split(' ')|sort|length }}",
    "{{ ([[1]*3000]*3000)|sum(start=[]) }}",
    "{{ ([{'a': [1]*9999}]*9999)|sum(attribute='a', start=[]) }}",
    "{{ ([{'a': 'A'*9999}]*9999)|sort(attribute='a')|length }}",
    "{{ range(99999)|map('center', 9999)|list|length }}",
    "{{ [1]|slice(900000, 0)|list|length }}",
    *(
        GROW.replace("EXPR", "[ns.x, ns.x]") + shown
        for shown in ("{{ ns.x }}", "{{ ns.x ~ 1 }}", "{{ ns.x|tojson }}", "{{ '%s' % ns.x }}")
    ),
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
        "{{ '%d rows'|format(20000) }} {{ 'x'|truncate(20000) }} {{ 20000000|tojson }}",
        "{{ '123456 of 100%% * %d' % 20000 }} {{ '* 1234567 {}'.format(20000) }}",
        "{{ '%%9999999' % () }} {{ y|map('x')|list }} {{ y|list }} {{ y|join }} {{ [x]|pprint }}",
        "{{ '%*.*f|%-5s' % (9, 2, 1.5, 'a') }} {{ '%(a)5d%(b)s' % {'a': 2147483647, 'b': x} }}",
        "{{ '{0!r:>{1}} {b[0]} {b.c}'.format('a', 9, b=x) }} {{ '{:9<5}'.format(1) }}",
        "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(2147483647) }} {{ dict(a=2147483647) }}",
        "{{ namespace(a=2147483647).a }} {{ {'a': 1}.get('b', 2147483647) }} {{ 2147483647 ~ x }}",
        "{{ '{}'.format(2147483647) }} {{ [x, [2147483647]]|sum(start=[]) }}",
        "{{ x|select('odd')|list }} {{ x|sort(reverse=true) }} {{ 'abc'|list }} {{ x|max }}",
        "{{ [{'a': 2}, {'a': 1}]|sort(attribute='a')|map(attribute='a')|join('-') }}",
        "{{ [{'a': 2}, {'a': 1}]|join(', ', attribute='a') }} {{ 'abc'|join('-') }}",
        "{{ x|batch(3, 0)|list }} {{ x|slice(2)|list }} {{ {'b': 1, 'a': 2}|dictsort }}",
        "{{ x|tojson(indent=16) }} {{ 'a\nb'|indent(40) }}",
        "{% for k, v in [{'a': 1, 'b': 2}]|groupby('a') %}{{ k }}{{ v }}{% endfor %}",
        "{{ ('a ' * 20000).split(' ')|map('upper')|unique|list }} {{ 'a'|replace('a', 'b', 1) }}",
        "{{ [1] + x }} {{ 2**-1 }} {{ x|length - 1 }} {{ 'b' in 'abc' }} {{ ''.join(['a', 'b']) }}",
    ],
)
def test_others_render_as_in_jinja(text: str) -> None:
    bounded = BoundedEnvironment().from_string(text).render(x=[3, 4])
    assert bounded == ImmutableSandboxedEnvironment().from_string(text).render(x=[3, 4])


def test_the_chat_templates_of_trl_render_as_in_jinja() -> None:
    found = find_spec("trl")
    folders = found.submodule_search_locations if found else None
    texts = {
        path.name: path.read_text("utf-8")
        for folder in folders or ()
        for path in sorted(Path(folder, "chat_templates").glob("*.jinja"))
    }
    if not texts:
        pytest.skip("no chat templates of trl: pip install 'tool-factory[train]'")
    rendered = {
        name: tuple(
            _render(kind, text) for kind in (BoundedEnvironment, ImmutableSandboxedEnvironment)
        )
        for name, text in texts.items()
    }
    assert [name for name, (ours, plain) in rendered.items() if ours != plain] == []
    assert any("2147483647" in ours for ours, _ in rendered.values())


def _render(kind: type[ImmutableSandboxedEnvironment], text: str) -> str:
    """A conversation with a tool, as a chat template of transformers has it, or its complaint."""
    environment = kind(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: form}
    items = {"type": "integer", "minimum": 0, "maximum": 2147483647}
    fields = {"ids": {"type": "array", "items": items, "description": "Which."}}
    look: dict[str, Any] = {"name": "look", "description": "Look.", "parameters": {}}
    look["parameters"] = {"type": "object", "properties": fields, "required": ["ids"]}
    call = {"name": "look", "arguments": {"ids": [2147483647]}}
    messages = [
        {"role": "user", "content": "Look at it."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call00001", "type": "function", "function": call}],
        },
        {"role": "tool", "name": "look", "tool_call_id": "call00001", "content": "2147483647"},
        {"role": "assistant", "content": "Done."},
    ]
    tools = [{"type": "function", "function": look}]
    rendered = []
    for some in (messages, messages[:1]):
        try:
            template = environment.from_string(text)
            rendered.append(template.render(messages=some, tools=tools, add_generation_prompt=True))
        except (TemplateError, TypeError) as error:
            rendered.append(f"{type(error).__name__}: {error}")
    return "\n".join(rendered)


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
