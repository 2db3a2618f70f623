"""`factory codes`: what it says of the shipped codes, and codes of one's own from fit to add."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest_models import tiny_model
from test_codes import make_embeddings, make_tools
from workspaces import ROOT, make_workspace, run_factory

from factory.cli.monitor import PlainMonitor
from factory.codes.codebook import Codebook
from factory.codes.picture import draw_space
from factory.codes.saving import load_codebook
from factory.ledger.database import Ledger


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws").root


def seed_codes() -> Codebook:
    codebook = load_codebook(ROOT / "rounds" / "seed")
    assert codebook is not None
    return codebook


def test_stats_show_and_similar_read_the_shipped_codes(workspace: Path) -> None:
    codebook = seed_codes()
    record = json.loads(run_factory("codes", "stats", "--json", cwd=workspace).stdout)
    assert record["tools"] == len(codebook) and record["collisions after"] == 0
    assert "residual" in run_factory("codes", "stats", cwd=workspace).stdout

    entry = codebook.tools[7]
    code = codebook.text_of(entry.code)
    for name in (entry.tool.name, entry.tool.id, code):
        shown = run_factory("codes", "show", name, "--json", cwd=workspace).stdout
        rows = [json.loads(line) for line in shown.splitlines()]
        assert code in [row["code"] for row in rows]
        assert entry.tool.document in [row["document"] for row in rows]
    assert code in run_factory("codes", "show", entry.tool.id, cwd=workspace).stdout

    found = run_factory("codes", "similar", entry.tool.id, "-k", "3", "--json", cwd=workspace)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(row["tool_id"], row["distance"]) for row in rows] == [
        (other.tool.id, distance) for other, distance in codebook.similar(entry.tool.id, 3)
    ]


def test_a_checkpoint_is_named_by_its_id(workspace: Path) -> None:
    path = str(ROOT / "rounds" / "seed")
    row = {"round": 2, "checkpoint_id": "r2-abc", "path": path, "fingerprint": "f"}
    Ledger(workspace / ".factory").append({"checkpoint": [row]})
    by_id = run_factory("codes", "stats", "--checkpoint", "r2", cwd=workspace).stdout
    assert by_id == run_factory("codes", "stats", "--checkpoint", path, cwd=workspace).stdout
    done = run_factory("codes", "stats", "--checkpoint", "r99", cwd=workspace, code=2)
    assert "there is no checkpoint 'r99'" in done.stderr
    served = "http://localhost:1/v1#x"
    assert (
        "server"
        in run_factory("codes", "stats", "--checkpoint", served, cwd=workspace, code=2).stderr
    )


def test_what_is_not_there_is_said(workspace: Path, tmp_path: Path) -> None:
    done = run_factory("codes", "show", "get_wether", cwd=workspace, code=2)
    assert "did you mean" in done.stderr
    bare = tiny_model(tmp_path / "bare")
    done = run_factory("codes", "stats", "--checkpoint", str(bare), cwd=workspace, code=2)
    assert "no codes yet" in done.stderr
    file = workspace / "tools.jsonl"
    file.write_text(json.dumps(make_tools(1)[0].document) + "\n", encoding="utf-8")
    done = run_factory("codes", "add", str(file), cwd=workspace, code=2)
    assert "not the workspace's own" in done.stderr and "--out" in done.stderr


def test_a_recipe_without_codes_is_said(workspace: Path, tmp_path: Path) -> None:
    (workspace / "rounds" / "bare.toml").write_text(
        'extends = "cpu"\n[codes]\ncoder = "none"\n', encoding="utf-8"
    )
    write_tools(workspace / "tools.jsonl", 20)
    none = ("--set", "codes.coder=none")
    marker = workspace / "factory.toml"
    marker.write_text(marker.read_text("utf-8").replace('"cpu"', '"bare"'), encoding="utf-8")
    for command in (
        ("fit", "tools.jsonl", *none),
        ("fit", "tools.jsonl", "--recipe", "tooldev"),
        ("compare", str(tmp_path), "--out", str(tmp_path / "out"), *none),
        ("add", "tools.jsonl"),
    ):
        done = run_factory("codes", *command, cwd=workspace, code=2)
        assert "codes.coder is none" in done.stderr and "remedy:" in done.stderr
    assert "residual" in run_factory("codes", "stats", cwd=workspace).stdout


@pytest.mark.slow
def test_codes_are_fitted_seen_written_and_added_to(workspace: Path) -> None:
    model = tiny_model(workspace / "models" / "bare", max_positions=1024)
    (model / "processor_config.json").write_text("{}")
    settings = model / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "temperature": 0.6}))
    lines = [json.dumps(tool.document) for tool in make_tools(40)]
    (workspace / "tools.jsonl").write_text("\n".join([*lines, "{"]) + "\n", encoding="utf-8")
    (workspace / "more.jsonl").write_text(
        "\n".join(json.dumps(tool.document) for tool in make_tools(5, start=38)) + "\n",
        encoding="utf-8",
    )
    options = ("--checkpoint", str(model), "--set", "codes.size=8", "--out", "models/coded")
    done = run_factory("codes", "fit", "tools.jsonl", *options, cwd=workspace, code=1)
    assert "bad line" in done.stderr and "variance left" in done.stdout
    assert "nearest by positions that differ" in done.stdout
    svg = (workspace / ".factory" / "codes.svg").read_text(encoding="utf-8")
    assert len(ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}circle")) == 40
    codebook = load_codebook(workspace / "models" / "coded")
    assert codebook is not None and len(codebook) == 40
    written = json.loads((workspace / "models" / "coded" / settings.name).read_text())
    assert (written["temperature"], written["do_sample"]) == (0.6, True)
    assert (workspace / "models" / "coded" / "processor_config.json").read_text() == "{}"

    coded = ("--checkpoint", "models/coded")
    added = run_factory("codes", "add", "more.jsonl", *coded, cwd=workspace)
    assert "3 tools coded, 2 had codes, 0 bad" in added.stderr
    grown = load_codebook(workspace / "models" / "coded")
    assert grown is not None and len(grown) == 43
    assert all(grown.code_of(tool_id) == codebook.code_of(tool_id) for tool_id in codebook.tool_ids)
    sql = "select count(*) as n from tool_code join tool using (tool_id)"
    rows = run_factory("sql", sql, "--json", cwd=workspace).stdout
    assert json.loads(rows) == {"n": 5}, "those that `codes fit --out` coded are noted, too"
    again = run_factory("codes", "add", "more.jsonl", *coded, cwd=workspace)
    assert "0 tools coded, 5 had codes" in again.stderr
    sql = "select count(*) as n, count(distinct tool_id) as tools from tool_code"
    assert json.loads(run_factory("sql", sql, "--json", cwd=workspace).stdout) == {
        "n": 5,
        "tools": 5,
    }
    run_factory("codes", "fit", "tools.jsonl", *options, cwd=workspace, code=2)


def write_tools(path: Path, count: int) -> None:
    lines = [json.dumps(tool.document) for tool in make_tools(count)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize(("count", "more"), [(0, "{}"), (1, ""), (1, "{")])
def test_too_few_documents_are_said_before_a_model_is_loaded(
    workspace: Path, count: int, more: str
) -> None:
    write_tools(workspace / "tools.jsonl", count)
    with (workspace / "tools.jsonl").open("a", encoding="utf-8") as file:
        file.write(more)
    for options in ([], ["--set", "codes.gist.views=2"]):
        done = run_factory("codes", "fit", "tools.jsonl", *options, cwd=workspace, code=2)
        assert f"2 tools or more, not to {count}" in done.stderr and "remedy:" in done.stderr
        assert "tools.jsonl" in done.stderr and ("bad line " in done.stderr) == bool(more)


def make_half(folder: Path) -> Path:
    """A model in bfloat16."""
    from transformers import AutoModelForCausalLM

    tiny_model(folder, max_positions=1024)
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_computes_in_the_precision_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    """Where torch says that there is one: on the CPU, here, all stays in single precision."""
    import torch
    from transformers import PreTrainedModel

    from factory.train.preview_child import UntrainedModel

    moved: list[str] = []

    def move(model: PreTrainedModel, device: str) -> PreTrainedModel:
        moved.append(device)
        return model

    folder = make_half(tmp_path / "bare")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(PreTrainedModel, "to", move)
    subject = UntrainedModel(folder, PlainMonitor())
    model = subject.model
    assert moved == ["cuda" if gpu else "cpu"] and subject.stored_dtype == torch.bfloat16
    assert model.dtype == (torch.bfloat16 if gpu else torch.float32)


@pytest.mark.slow
def test_the_written_model_keeps_its_precision_and_the_recipes_rows(workspace: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    bare = make_half(workspace / "bare")
    write_tools(workspace / "tools.jsonl", 40)
    options = ("--checkpoint", str(bare), "--set", "codes.size=4")
    norms = {}
    for name, more in (
        ("made", ()),
        ("random", ("--set", "codes.reframe=false")),
        ("again", ("--set", "codes.reframe=false")),
    ):
        flags = (*options, *more, "--out", name)
        told = run_factory("codes", "fit", "tools.jsonl", *flags, cwd=workspace).stderr
        assert "embedding documents (40)" in told and "writing the model" in told
        model = AutoModelForCausalLM.from_pretrained(workspace / name, dtype="auto")
        assert model.dtype == torch.bfloat16
        codebook = load_codebook(workspace / name)
        assert codebook is not None
        num_rows = sum(map(len, codebook.tokens))
        sizes = [(f / "model.safetensors").stat().st_size for f in (bare, workspace / name)]
        assert 0 <= sizes[1] - sizes[0] - 2 * 64 * num_rows < 512
        table = model.get_input_embeddings().weight.detach().float()
        rows = table[-num_rows:] - table[:-num_rows].mean(dim=0)
        norms[name] = rows.norm(dim=1)
    assert norms["made"].std() / norms["made"].mean() < 0.01, "all are as far from the mean row"
    assert norms["random"].std() / norms["random"].mean() > 0.05
    assert norms["random"].equal(norms["again"])


@pytest.mark.slow
def test_a_preview_of_quantized_codes_is_the_codebook_of_the_next_round(workspace: Path) -> None:
    """The same tools in the same order, seed and pairs: those that answers call together."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from factory.codes.growing import fit_codebook
    from factory.codes.reader import DocumentReader
    from factory.ledger.database import Ledger
    from factory.ledger.history import called_pairs, imported_tools
    from factory.train.curriculum import need_codes, train_setup
    from factory.workspace.folder import Workspace
    from factory.workspace.prompts import Prompts
    from factory.workspace.recipe import load_recipe

    bare = tiny_model(workspace / "bare", max_positions=1024)
    write_tools(workspace / "tools.jsonl", 48)
    run_factory("add-tools", "tools.jsonl", cwd=workspace)
    ledger = Ledger(workspace / ".factory")
    tools = imported_tools(ledger)
    shown = json.dumps([{"id": tool.id, "document": tool.document} for tool in tools])
    samples = [
        {
            "round": 1,
            "judgement": 1,
            "query_id": f"q{number}",
            "status": "accepted",
            "agreement": 1.0,
            "tools_json": shown,
            "calls_json": json.dumps(
                [{"name": tool.name, "arguments": {}} for tool in (tools[number % 6], tools[-1])]
            ),
        }
        for number in range(60)
    ]
    ledger.append({"sample": samples})
    values = {
        "codes.coder": "quantized",
        "codes.size": "4",
        "codes.quantized.epochs": "30",
        "codes.quantized.graph": "10",
    }
    flags = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    options = (*flags, "--checkpoint", "bare", "--out", "coded")
    run_factory("codes", "fit", *options, cwd=workspace)
    previewed = load_codebook(workspace / "coded")
    assert previewed is not None

    resolved = load_recipe(Workspace(workspace), "cpu", values)
    train = train_setup(resolved.recipe, 1, "auto", 1)
    reader = DocumentReader(
        model=AutoModelForCausalLM.from_pretrained(bare),
        tokenizer=AutoTokenizer.from_pretrained(bare),
        prompts=Prompts.load(Workspace(workspace)),
    )
    made, alone = (
        fit_codebook(
            tools,
            reader.embed(tools),
            need_codes(resolved.recipe),
            seed=train.seed,
            pairs=pairs,
        )
        for pairs in (called_pairs(ledger, 1).answered, ())
    )
    assert previewed.sha() == made.sha() != alone.sha()


def test_the_autoencoder_and_the_reader_say_how_far_they_are(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from factory.codes.growing import fit_codebook
    from factory.codes.vocabulary import embed_documents
    from factory.workspace.recipe import CodesSection, QuantizedSection

    heard: list[tuple[int, str, int]] = []
    quick = QuantizedSection(hidden=(16,), latent=8, epochs=12)
    config = CodesSection(coder="quantized", quantized=quick)
    tools, points = make_tools(40), make_embeddings(40)

    def hear(done: int, detail: str, total: int) -> None:
        heard.append((done, detail, total))

    told = fit_codebook(tools, points, config, on_progress=hear)
    assert [(done, total) for done, _, total in heard] == [(n, 12) for n in range(1, 13)]
    assert all("error" in detail and "collisions" in detail for _, detail, _ in heard)
    assert told.sha() == fit_codebook(tools, points, config).sha()

    heard.clear()
    folder = tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embed_documents(model, tokenizer, ["a table"] * 5, batch=2, on_progress=hear)
    assert heard == [(2, "", 5), (4, "", 5), (5, "", 5)]


def test_the_picture_is_the_same_for_the_same_codes() -> None:
    points = make_embeddings(30)
    codes = [(row % 4, row) for row in range(30)]
    labels = ["<b>&" + str(row) for row in range(30)]
    svg = draw_space(points, codes, labels, "codes <of> 30")
    assert svg == draw_space(points, codes, labels, "codes <of> 30")
    root = ElementTree.fromstring(svg)
    dots = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 30 and len({dot.get("fill") for dot in dots}) == 4
    assert dots[3][0].text == "<b>&3"


def test_reading_codes_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['factory', 'codes', 'stats']\n"
        "from factory.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
