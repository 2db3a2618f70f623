"""The report: sound pages, numbers that their queries give again, harmless whatever the text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspaces import ROOT, make_workspace, run_factory

from factory.domain.failures import InputError
from factory.domain.plaintext import clean, shorten
from factory.ledger.database import Ledger, Source
from factory.report import chart
from factory.report.page import (
    INDEX_SECTIONS,
    INDEX_WINDOW,
    ROUND_SECTIONS,
    TABLE_ROWS,
    Pages,
    show_cell,
    write_reports,
)
from factory.report.panel import PANELS, Record, draw, fill_intervals, read_panel
from factory.score.intervals import round_estimates
from factory.workspace.folder import Workspace

START = datetime(2026, 1, 5, tzinfo=UTC)
PLAIN = "Convert {n} dollars to euros in Bern"
HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)></style></title></code></pre>"
    "<svg/onload=1>{{ 7*7 }}{% raw %} \x1b[31mred\x07\x00 \u202eflip\u2066 \u200b &amp;"
)
EMPTY = {"path", "rect", "circle"}
TAGS = set(
    "html head meta title style body header nav a h1 h2 h3 span p main dl div dt dd small section "
    "details summary pre code figure ul li svg desc text path rect circle table thead tbody tr th "
    "td blockquote footer".split()
)
ATTRIBUTES = set(
    "lang charset http-equiv content name class id aria-label aria-labelledby aria-hidden role "
    "tabindex scope href viewbox width height d cx cy r x y rx".split()
)


def fill_ledger(
    state: Path, rounds: int = 2, samples: int = 6, text: str = PLAIN, extra: str = ""
) -> Ledger:
    """Rounds as a round writes them; `text` is every text a model writes, `extra` every name."""
    ledger = Ledger(state)
    base = {"checkpoint_id": f"base{extra}", "round": 0, "promoted": True}
    rows = {"checkpoint": [base], **score_rows(1, base["checkpoint_id"], extra, text, 0)}
    for number in range(1, rounds + 1):
        for table, more in round_rows(number, samples, text, extra).items():
            rows.setdefault(table, []).extend(more)
    ledger.append(rows)
    return ledger


def round_rows(number: int, samples: int, text: str, extra: str) -> dict[str, list[Any]]:
    parent = f"r{number - 1}{extra}" if number > 1 else f"base{extra}"
    started = START + timedelta(hours=number)
    rows: dict[str, list[Any]] = {
        "round": [
            {
                "round": number,
                "started_at": started,
                "checkpoint_id": parent,
                "recipe_name": f"cpu{extra}",
                "seed": 7,
            }
        ],
        "stage": [
            {
                "round": number,
                "stage": f"{stage}{extra}" if stage == "fetch" else stage,
                "status": "done",
                "started_at": started,
                "seconds": seconds,
                "detail_json": json.dumps({"reason": f"home-dev rose {clean(extra)}"}),
            }
            for stage, seconds in (("fetch", 0.5), ("sample", 4.0), ("train", 20.0), ("gate", 0.1))
        ]
        + [calibration_row(number, started, extra)],
        "training": [
            {"round": number, "step": step, "loss": 1 / step, "learning_rate": 1e-4}
            for step in range(1, 31)
        ],
        "example": [{"round": number, "kind": f"invoke{extra}", "origin": "q"}] * 3,
        "gate": [
            {
                "round": number,
                "measure": "calls",
                "opponent": f"parent, best{extra}",
                "opponent_id": parent,
                "benchmark": f"home-dev{extra}",
                "verdict": "passed",
            }
        ],
        "codebook": [{"round": number, "version": number, "coder": "residual", "num_tools": 9}],
        "checkpoint": [
            {
                "checkpoint_id": f"r{number}{extra}",
                "round": number,
                "parent_id": parent,
                "promoted": number % 2 == 1,
            }
        ],
    }
    for table, more in score_rows(number, f"r{number}{extra}", extra, text, number).items():
        rows.setdefault(table, []).extend(more)
    for place in range(samples):
        for table, row in sample_rows(number, place, text, extra).items():
            rows.setdefault(table, []).append(row)
    rows["sample"] += [made_row(number, place, extra) for place in range(2)]
    return rows


def calibration_row(number: int, started: datetime, extra: str) -> dict[str, Any]:
    """The stage that found which votes are enough."""
    detail = {
        "benchmark": f"home-dev{extra}",
        "wanted": 0.9,
        "minimum": 5,
        "reached": True,
        "items": 40,
        "levels": [
            {"votes": votes, "kept": 50 - 5 * votes, "right": 22, "low": 40.0 + votes}
            for votes in (3, 4, 5)
        ],
        "margins": [
            {"votes": votes, "margin": 0.2 * votes, "items": 8, "right": votes}
            for votes in (3, 4, 5)
        ],
    }
    times = {"status": "done", "started_at": started, "seconds": 0.0}
    return {"round": number, "stage": "calibrate", **times, "detail_json": json.dumps(detail)}


def sample_rows(number: int, place: int, text: str, extra: str) -> dict[str, Mapping[str, object]]:
    key = {"round": number, "query_id": f"q_{number}_{place}{extra}"}
    kept = place % 3 == 0
    name = f"tool_{place % 4}{extra}"
    document = {
        "name": name,
        "description": text,
        "arguments": {
            "type": "dict",
            "properties": {f"$[{extra}": {"type": f"string{extra}"}, "b": {"type": "integer"}},
            "required": ["b"],
        },
    }
    fault = {
        "rule": f"call/wrong_type{extra}",
        "reason": f"wrong_type_{place % 2}{extra}",
        "path": f"$.x{extra}",
        "message": text,
    }
    sample = {
        **key,
        "judgement": 1,
        "status": "accepted" if kept else "rejected",
        "stage": "calls",
        **({} if kept else fault),
        "tools_json": json.dumps([{"id": f"t_{place % 4}", "document": document}]),
        "calls_json": json.dumps([{"name": name, "arguments": {"b": text}}]),
        "num_calls": 1 + place % 2,
        "agreement": 0.8,
    }
    return {
        "draw": {**key, "position": place},
        "query": {"query_id": key["query_id"], "text": text.replace("{n}", str(place))},
        "sample": sample,
        "verdict": {**key, "judgement": 1, **fault, "severity": "reject"},
        "vote": {
            **key,
            "num_samples": 5,
            "winner": 0 if kept else None,
            "votes": 1 + place % 5,
            "margin": (place % 5) / 5,
            "entropy": 1.5,
        },
        "generation": {
            **key,
            "stage": "propose",
            "subject": f"t_{number}_{place}",
            "text": "<a_1><b_2>" if kept else text,
            "num_tokens": 5,
            "finish_reason": "stop",
        },
        "tool_code": {"round": number, "tool_id": f"t_{number}_{place}", "code": "<a_1><b_2>"},
    }


def made_row(number: int, place: int, extra: str) -> dict[str, object]:
    """A sample that the round made of its first one."""
    return {
        "round": number,
        "judgement": 1,
        "query_id": f"q_made_{number}_{place}{extra}",
        "status": "rejected" if place else "accepted",
        "reason": f"duplicate{extra}" if place else "",
        "made_by": f"join{extra}",
        "made_of_json": json.dumps([f"q_{number}_0{extra}"]),
    }


def score_rows(number: int, checkpoint: str, extra: str, text: str, right: int) -> dict[str, Any]:
    """Twelve items of `home`, of which the first `right` and every third are right."""
    common = {
        "round": number,
        "checkpoint_id": checkpoint,
        "benchmark": f"home{extra}",
        "basis": "x",
    }
    items = [
        {
            **common,
            "item": f"simple_{n}{extra}",
            "category": f"simple{extra}",
            "correct": n < right or n % 3 == 0,
            "reason": "" if n < right or n % 3 == 0 else f"wrong_value{extra}",
            "answer": f"{checkpoint} says {text}",
        }
        for n in range(12)
    ]
    percent = 100 * sum(bool(item["correct"]) for item in items) / 12
    scored = common | {"value": percent, "scored_at": START + timedelta(hours=number)}
    overall = {"low": percent - 9, "high": percent + 9, "num_items": 12}
    return {
        "score": [
            {**scored, "category": "overall", **overall},
            {**scored, "category": f"simple{extra}"},
        ],
        "item_score": items,
    }


class Page(HTMLParser):
    """A page as its elements; fails on what is not balanced, unknown or twice there."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.headings: list[int] = []
        self.queries: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs) and set(found) <= ATTRIBUTES, attrs
        self.tags[tag] += 1
        self.attributes.append((tag, found))
        if "id" in found:
            self.ids[found["id"]] += 1
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "pre":
            self.queries.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY, tag
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "pre" in self.open:
            self.queries[-1] += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def write(workspace: Workspace, ledger: Ledger, number: int) -> list[str]:
    """The texts of a round's page and of the one over all rounds."""
    page = write_reports(workspace, ledger, number)
    return [page.read_text("utf-8"), (page.parent / "index.html").read_text("utf-8")]


def check_sound(text: str) -> Page:
    """A page that asks for nothing, and is well formed and labelled."""
    page = Page(text)
    assert not [name for name, count in page.ids.items() if count > 1]
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "@import" not in text
    links = [found["href"] for _, found in page.attributes if "href" in found]
    assert all(re.fullmatch(r"index\.html|r[0-9]+\.html", link) for link in links), links
    style = text.split("<style>")[1].split("</style>")[0]
    sha = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = (a["content"] for t, a in page.attributes if "http-equiv" in a)
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{sha}'; ")
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    for tag, found in page.attributes:
        for name in found.get("aria-labelledby", "").split():
            assert page.ids[name] == 1, name
        if tag == "svg" and found.get("role") == "img":
            assert len(found["aria-labelledby"].split()) == 2
        if found.get("tabindex"):
            assert found["role"] == "region" and found["aria-label"]
    assert page.tags["desc"] == len([1 for t, a in page.attributes if a.get("role") == "img"])
    return page


def test_pages_are_sound(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=3, samples=12)
    first, index = write(workspace, ledger, 2)
    page = check_sound(first)
    assert page.tags["svg"] >= 15 and page.tags["pre"] >= 20
    links = [found["href"] for _, found in page.attributes if "href" in found]
    assert links == ["index.html", "r1.html", "r3.html"]
    assert "promoted" in first and "home-dev rose" in first
    over = check_sound(index)
    links = [found["href"] for _, found in over.attributes if "href" in found]
    assert links == ["r2.html"], "only pages that are there are linked"
    assert over.tags["svg"] >= 8


def test_every_query_on_a_page_gives_the_numbers_beside_it(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=3, samples=12)
    for text, least in zip(write(workspace, ledger, 3), (18, 7), strict=True):
        page = Page(text)
        with ledger.read() as past:
            answers = [read_answer(past, query) for query in page.queries]
        turned = [[list(row) for row in zip(*answer, strict=True)] for answer in answers]
        unexplained = [table for table in page.tables if table not in answers + turned]
        # The table of all rounds has shares in its cells.
        assert [table[0][:2] for table in unexplained] in ([], [["round", "outcome"]])
        assert len(page.tables) >= least


def read_answer(past: Source, query: str) -> list[list[str]]:
    """The cells of a printed query's answer, its columns first, with the one statistic's intervals.

    SQL cannot give those that the ledger does not hold.
    """
    command, sql = query.split(" ", 2)[:2], query.split('"', 1)[1].removesuffix('"')
    assert command == ["factory", "sql"]
    assert shlex.split(query)[2] == sql, "a shell passes it on unchanged"
    answer = past.query(sql, limit=TABLE_ROWS)
    rows = answer.records()
    if {"category", "low"} <= set(answer.columns):
        rows = fill_intervals(rows, round_estimates(past, 3))
    return [[*answer.columns], *([show_cell(value) for value in row.values()] for row in rows)]


def test_a_query_runs_as_it_is_printed(workspace: Workspace, tmp_path: Path) -> None:
    ledger = fill_ledger(workspace.state)
    page = Page(write(workspace, ledger, 2)[0])
    printed = next(query for query in page.queries if "unpivot" in query)
    variety = next(query for query in page.queries if "self_similarity" in query)
    for query in (printed, variety):
        command = query.replace("factory sql", "python -m factory sql --json", 1)
        done = subprocess.run(
            ["bash", "-c", f'python() {{ "$PY" "$@"; }}; {command}'],
            cwd=workspace.root,
            env={"PY": __import__("sys").executable, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        sql = query.split('"', 1)[1].removesuffix('"')
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert told == ledger.query(sql).records()


def test_numbers_are_those_of_the_rounds(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=2, samples=12)
    with ledger.read() as past:
        pages = Pages(past, workspace)
        bounds = {"round": 2, "first": 1}

        def ask(name: str) -> list[Record]:
            return pages.show(name, bounds, round_estimates(past, 2)).rows

        assert [(r["step"], r["queries"]) for r in ask("funnel")] == [
            ("drawn", 12),
            ("tools", 12),
            ("called", 12),
            ("voted", 4),
            ("passed", 4),
            ("accepted", 4),
        ]
        assert sum(r["samples"] for r in ask("reasons")) == 8
        assert sum(r["accepted"] + r["fell"] for r in ask("agreement")) == 12
        assert sum(r["accepted"] + r["fell"] for r in ask("lengths")) == 12
        # Round 1 has items 0, 3, 6, 9 right, round 2 item 1 too.
        (change,) = ask("changes")
        assert (change["gained"], change["lost"], change["items"]) == (1, 0, 12)
        assert change["points"] == pytest.approx(100 / 12)
        scores = {(r["category"], r["model"]): r for r in ask("scores")}
        assert scores["simple", "new"]["percent"] == pytest.approx(100 * 5 / 12)
        low, high = (scores["simple", "new"][end] for end in ("low", "high"))
        assert 0 < low < 100 * 5 / 12 < high < 100
        assert [r["item"] for r in ask("flips")] == ["simple_1"]
        (_, use) = ask("tool-variety")
        assert (use["tools"], use["calls"], use["evenness"]) == (4, 4, pytest.approx(1.0))
        (_, variety) = ask("variety")
        # Of "convert N dollars to euros in bern", N = 0, 3, 6, 9: 10 of 28 words, 12 of 24 pairs.
        assert variety["distinct_1"] == pytest.approx(10 / 28)
        assert variety["distinct_2"] == pytest.approx(12 / 24)
        assert variety["self_similarity"] == pytest.approx(6 / 8)
        (first, second) = ask("drift")
        assert (first["known_words"], first["drift"]) == (0, None)
        assert (second["known_words"], second["known_tools"], second["drift"]) == (1, 1, 0)


def test_every_panel_is_on_a_page_and_runs(workspace: Workspace) -> None:
    files = sorted(file.stem for file in PANELS.iterdir())
    listed = {
        name for page in (ROUND_SECTIONS, INDEX_SECTIONS) for at in page.values() for name in at
    }
    assert listed | {"facts", "rounds", "flips", "fallen", "kept"} == set(files)
    with fill_ledger(workspace.state, rounds=3).read() as past:
        for name in files:
            panel = read_panel(name)
            shown = Pages(past, workspace).show(name, {"round": 3, "first": 1})
            assert panel.id == name and panel.title and panel.caption and shown.rows
            if panel.chart:
                drawn = {panel.chart.x, *panel.chart.y, panel.chart.total} - {""}
                assert drawn <= set(shown.rows[0]), name
                assert shown.chart and draw(panel.chart, shown.rows) == shown.chart


@pytest.mark.parametrize("size", [1, 400], ids=["short", "a megabyte"])
def test_hostile_text_is_only_text(workspace: Workspace, size: int) -> None:
    plain = fill_ledger(workspace.state, rounds=2, samples=3)
    sound = check_sound(write(workspace, plain, 2)[0])
    other = make_workspace(workspace.root.parent / "hostile")
    text = HOSTILE if size == 1 else HOSTILE * (1_000_000 // len(HOSTILE))
    ledger = fill_ledger(other.state, rounds=2, samples=3, text=text, extra=HOSTILE)
    for page_text in write(other, ledger, 2):
        assert len(page_text.encode()) < 500_000
        page = check_sound(page_text)
        assert page.tags["script"] == 0 and page.tags["img"] == 0
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", page_text
        )
        seen = "".join(page.words)
        assert "<script>alert(1)</script>" in seen and "{{ 7*7 }}" in seen
        assert "\\x1b[31m" in seen and "\\u202eflip" in seen
    first = Page(write(other, ledger, 2)[0])
    for tag in ("svg", "table", "style", "blockquote", "title"):
        assert abs(first.tags[tag] - sound.tags[tag]) <= (12 if tag == "title" else 1), tag


def test_odd_documents_are_counted_not_fatal(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=1, samples=3)
    key = {"round": 1, "judgement": 1, "status": "accepted", "stage": "calls"}
    odd = ["", "[]", "nonsense", "[1]", '[{"id": 3}]', '[{"document": "text"}]', "null", "{}"]
    odd += ['[{"id": "t", "document": {"arguments": {"properties": [1]}}}]']
    odd += ['[{"id": "t", "document": {"arguments": {"properties": {"a": 1}, "required": 2}}}]']
    ledger.append(
        {
            "draw": [{"round": 1, "query_id": f"q{n}"} for n in range(len(odd))],
            "sample": [
                {**key, "query_id": f"q{n}", "tools_json": value, "calls_json": value}
                for n, value in enumerate(odd)
            ],
        }
    )
    for text in write(workspace, ledger, 1):
        check_sound(text)


def test_a_round_that_has_only_begun(workspace: Workspace) -> None:
    ledger = Ledger(workspace.state)
    ledger.append(
        {
            "round": [{"round": 1, "checkpoint_id": "base", "started_at": START}],
            "draw": [{"round": 1, "position": 0, "query_id": "q_1"}],
        }
    )
    page, index = write(workspace, ledger, 1)
    check_sound(page)
    check_sound(index)
    assert '<span class="open">open</span>' in page and "Nothing to show." in page
    with pytest.raises(InputError, match="no round 2"):
        write_reports(workspace, ledger, 2)


def test_pages_stay_small_and_are_the_same_each_time(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=1, samples=10_000)
    assert ledger.fold()
    page, _ = write(workspace, ledger, 1)
    assert len(page.encode()) < 200_000
    assert "10000" in Page(page).words
    assert write(workspace, ledger, 1)[0] == page


def test_many_rounds_are_cut_and_said_so(workspace: Workspace) -> None:
    rounds = INDEX_WINDOW + 20
    ledger = fill_ledger(workspace.state, rounds=rounds, samples=3)
    page, index = write(workspace, ledger, rounds)
    check_sound(page)
    check_sound(index)
    assert f"Rounds {21} to {rounds}" in index and len(index.encode()) < 300_000


PUBLISHED = """
[[tables]]
benchmark = "home"
title = "Some results"
metric = "percent right"
source = "A paper, Table 1"
split = "its own"
date = "2026-01-02"
kind = "published"
columns = ["simple", "overall"]
[tables.rows]
"Somebody's model" = [91.25, nan]
"""


def test_published_rows_stand_apart(workspace: Workspace) -> None:
    file = workspace.root / "eval" / "published" / "mine.toml"
    file.parent.mkdir(parents=True)
    file.write_text(PUBLISHED, encoding="utf-8")
    ledger = fill_ledger(workspace.state)
    for text in write(workspace, ledger, 2):
        page = check_sound(text)
        (table,) = (each for each in page.tables if "Somebody's model" in str(each))
        assert table[0] == ["model", "simple", "overall"]
        assert table[1][:2] == ["Somebody's model", "91.25"]
        assert text.count("91.25") == 1
        assert "A paper, Table 1, 2026-01-02, published" in text


def test_items_that_changed_show_query_and_gold(workspace: Workspace) -> None:
    ledger = fill_ledger(workspace.state, rounds=1)
    base = {"benchmark": "home", "category": "simple", "item": "simple_0", "basis": "x"}
    gold = '[{"book_table": {"people": [4]}}]'
    asked = {"query": "Book a table for 4.", "gold_json": gold}
    ledger.append(
        {
            "item_score": [
                {**base, "checkpoint_id": "base", "round": 1, "correct": True, "answer": "yes"},
                {**base, "checkpoint_id": "r1", "round": 1, "correct": False, "answer": "no"},
            ],
            "benchmark_item": [{**base, **asked}, {**base, "basis": "y", "query": "Another?"}],
        }
    )
    seen = " ".join(Page(write(workspace, ledger, 1)[0]).words)
    assert "Book a table for 4." in seen and gold in seen and "Another?" not in seen


# Colours -----------------------------------------------------------------------------------


def palettes() -> Iterator[dict[str, str]]:
    style = (ROOT / "factory/report/style.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 3, "light, dark, print"
    for block in blocks:
        yield dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast() -> None:
    for palette in palettes():
        for ground in ("page", "card", "track"):
            assert contrast(palette["text"], palette[ground]) >= 7
        for ground in ("page", "card"):
            for ink in ("dim", "link", "good", "bad"):
                assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
            for series in ("s1", "s2", "s3", "s4"):
                assert contrast(palette[series], palette[ground]) >= 3, (series, ground)
        assert contrast(palette["s1"], palette["track"]) >= 3


# Charts ------------------------------------------------------------------------------------

finite = st.floats(min_value=-1e9, max_value=1e9).map(lambda v: round(v, 6))


def inside(drawn: chart.Chart) -> None:
    for mark in drawn.marks:
        if mark.tag in ("rect", "circle"):
            right = mark.x + (mark.width if mark.tag == "rect" else 0)
            assert mark.x >= -0.01 and right <= chart.WIDTH + 0.01, mark
            assert -0.01 <= mark.y <= drawn.height and mark.height >= -0.01, mark
        for value in re.findall(r"-?[0-9.]+(?:e[+-]?[0-9]+)?", mark.d):
            assert -0.1 <= float(value) <= max(chart.WIDTH, drawn.height) + 0.1, mark


@given(st.lists(st.one_of(st.none(), finite), max_size=30))
def test_lines_stay_inside(values: list[float | None]) -> None:
    labels = [str(n) for n in range(len(values))]
    inside(chart.lines(labels, [chart.Series(name="a", values=values)], "step"))


@given(st.lists(st.tuples(finite, finite, finite).map(sorted), min_size=1, max_size=8))
def test_intervals_stay_inside(ends: list[list[float]]) -> None:
    rows = [
        (f"row {n}", [chart.Interval(low=low, value=value, high=high), None])
        for n, (low, value, high) in enumerate(ends)
    ]
    inside(chart.intervals(rows, ("parent", "new")))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_bars_and_columns_stay_inside(counts: list[int]) -> None:
    inside(chart.bars([("x" * n, float(n % 50)) for n in counts]))
    labels = [str(n) for n in range(len(counts))]
    series = [chart.Series(name=name, values=counts) for name in ("kept", "fell")]
    inside(chart.columns(labels, series, "votes"))


def test_charts_tell_what_they_show() -> None:
    drawn = chart.bars([("drawn", 32), ("accepted", 13)], total=32)
    assert drawn.description == "drawn 32; accepted 13"
    assert [m.width for m in drawn.marks if m.css == "s1"] == [chart.WIDTH, chart.WIDTH * 13 / 32]
    both = [
        chart.Interval(value=50, low=40, high=60),
        chart.Interval(value=52, low=None, high=None),
    ]
    told = chart.intervals([("home", both)], ("parent", "new")).description
    assert told == "home: parent 50 (95 % interval 40 to 60), new 52"


def test_active_characters_become_visible() -> None:
    assert clean("a\x1b\u202e\u200f\U000e0041\ufeff\té\n") == (
        "a\\x1b\\u202e\\u200f\\U000e0041\\ufeff\té\n"
    )
    assert clean("👩‍👧 العربية") == "👩‍👧 العربية", "scripts and emoji stay"
    assert shorten("a" * 50, 10) == "a" * 9 + "…"


# Commands ----------------------------------------------------------------------------------


def test_report_command(workspace: Workspace) -> None:
    done = run_factory("report", cwd=workspace.root, code=2)
    assert "factory round" in done.stderr
    fill_ledger(workspace.state, rounds=3)
    done = run_factory("report", cwd=workspace.root)
    assert done.stdout.strip() == str(workspace.state / "reports" / "r3.html")
    run_factory("report", "--round", "2", "--out", "one.html", cwd=workspace.root)
    alone = check_sound((workspace.root / "one.html").read_text("utf-8"))
    assert not [1 for _, found in alone.attributes if "href" in found]


def test_pages_go_where_they_are_told(workspace: Workspace, tmp_path: Path) -> None:
    ledger = fill_ledger(workspace.state, rounds=3)
    assert write_reports(workspace, ledger, 1, tmp_path / "pages") == tmp_path / "pages" / "r1.html"
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["index.html", "r1.html"]
    with pytest.raises(InputError, match="no round 9") as caught:
        write_reports(workspace, ledger, 9)
    assert caught.value.where == "its latest is 3"


def test_status_shows_rounds_and_their_course(workspace: Workspace) -> None:
    fill_ledger(workspace.state, rounds=3, extra="[red]\x1b")
    done = run_factory("status", cwd=workspace.root)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["round", "model", "outcome"] and len(lines[1:4]) == 3
    assert "promoted" in lines[1] and "held" in lines[2] and "2 (33%)" in lines[1]
    course = {line.split()[0]: line for line in lines[4:] if line}
    assert "33.3 → 33.3" in course["accepted"] and "▁" in course["accepted"]
    (home,) = (line for name, line in course.items() if name.startswith("home"))
    assert "33.3 → 50" in home and "▁▁▄█" in home
    assert "0.0345 → 0.0345" in course["loss"] and "\x1b" not in done.stdout
    records = [
        json.loads(line)
        for line in run_factory("status", "--json", cwd=workspace.root).stdout.splitlines()
    ]
    assert [record["round"] for record in records] == [1, 2, 3]
    assert records[0]["accepted"] == 2 and len(records[0]["scores"]) == 1
