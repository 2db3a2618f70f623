"""Every coder's life: fit, assign, add, install, save, load, refresh; and coding anew."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import tiny_model
from test_codes import make_embeddings, make_tools
from workspaces import ROOT

from factory.codes.base import Seen, Taken
from factory.codes.codebook import Codebook
from factory.codes.config import reads_documents
from factory.codes.flat import HierarchicalCoder, NumericCoder, SemanticCoder, standard_name
from factory.codes.graph import Graph, build_graph, canonical_pairs, join_pairs, signature
from factory.codes.growing import add_tools, changed, fit_codebook, refresh
from factory.codes.install import install
from factory.codes.levels import LevelCoder, match_names, mean_rows
from factory.codes.quantized import (
    QuantizedCoder,
    _Trainer,
    _xavier,
    balance,
    graph_loss,
)
from factory.codes.recoding import recode, why_recode
from factory.codes.residual import ResidualCoder
from factory.codes.saving import SavedCodebook, load_codebook, save_codebook
from factory.codes.trie import FINISH, Trie
from factory.codes.vocabulary import embed_names
from factory.domain.failures import InputError
from factory.domain.records import Example, Message, Pair, Tool
from factory.ledger.database import Ledger
from factory.ledger.history import called_pairs, last_codebook_version
from factory.round.training import code_rows
from factory.train.curriculum import need_codes
from factory.train.encoding import render
from factory.train.job import TrainingResult
from factory.workspace.folder import Workspace
from factory.workspace.recipe import CodesSection, QuantizedSection, load_recipe, vary

QUICK = QuantizedSection(hidden=(48,), latent=24, epochs=60)
CODERS = ("residual", "quantized", "atomic", "numeric", "hierarchical", "semantic")


def config_of(coder: str, **values: Any) -> CodesSection:
    return CodesSection(coder=coder, quantized=QUICK, **values)  # type: ignore[arg-type]


def fit(coder: str, count: int = 60, **values: Any) -> Codebook:
    tools, embeddings = make_tools(count), make_embeddings(count)
    return fit_codebook(tools, embeddings, config_of(coder, **values), seed=3)


@pytest.fixture(scope="module")
def books() -> dict[str, Codebook]:
    return {coder: fit(coder) for coder in CODERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", CODERS)
def test_a_coder_lives_in_a_model_folder(
    coder: str, books: dict[str, Codebook], folder: Path, tmp_path: Path
) -> None:
    """Fit, install, save, load: every tool has a code of its own that the trie leads to."""
    model, tokenizer = load(folder)
    rows_before = model.get_input_embeddings().weight.shape[0]
    wide = np.concatenate([make_embeddings(60), make_embeddings(60, seed=1)[:, :, :16]], axis=2)
    codebook = fit_codebook(make_tools(60), wide, config_of(coder))
    ids = install(codebook, model, tokenizer, wide if coder == "residual" else None)
    num_tokens = sum(map(len, codebook.tokens))
    assert model.get_input_embeddings().weight.shape[0] == rows_before + num_tokens
    assert sum(map(len, ids)) == num_tokens
    assert bool(num_tokens) == (coder in ("residual", "quantized", "atomic"))
    tokenizer.save_pretrained(tmp_path)
    saved = save_codebook(codebook, tmp_path, tokenizer)

    loaded = load_codebook(tmp_path)
    assert loaded is not None
    assert loaded.tools == codebook.tools and loaded.report == codebook.report
    assert loaded.summary() == saved.summary()
    assert (loaded.grammar_path is not None) == isinstance(loaded.coder, LevelCoder)
    trie = Trie.load(loaded.trie_path)
    for entry in loaded.tools:
        text = loaded.code_text(entry.tool.id)
        spelt = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert trie.lookup(spelt) == entry.tool.id
        assert list(loaded.spell(text)) == list(saved.spell(text)) == spelt
        assert len(spelt) <= loaded.num_levels
        assert loaded.parse(text) == entry.code
        assert loaded.tool_of(f" {text}\n") == entry.tool
    new, points = make_tools(5, start=400), wide[:5] + 0.1
    first, second = (add_tools(book, new, points) for book in (loaded, codebook))
    assert first.added == second.added and len(first.codebook) == 65 and len(loaded) == 60
    assert first.codebook.tokens == second.codebook.tokens
    assert first.full is None and not isinstance(first.codebook, SavedCodebook)


@pytest.mark.parametrize("coder", CODERS)
def test_new_tools_get_codes_the_same_on_repetition(coder: str) -> None:
    """Check 27, for every coder: unique, known codes untouched, the same in one go and in parts."""
    new, points = make_tools(40, start=1000), make_embeddings(40, seed=7)
    found = []
    for parts in ([list(range(40))], [list(range(7)), list(range(7, 40))]):
        codebook = fit(coder)
        old = {entry.tool.id: entry.code for entry in codebook.tools}
        for rows in parts:
            codebook = add_tools(codebook, [new[row] for row in rows], points[rows]).codebook
        assert len({entry.code for entry in codebook.tools}) == len(codebook) == 100
        assert all(codebook.code_of(known) == code for known, code in old.items())
        found.append([(entry.tool.id, codebook.text_of(entry.code)) for entry in codebook.tools])
    assert found[0] == found[1]


@pytest.mark.parametrize("coder", CODERS)
def test_a_coder_follows_the_model_and_keeps_every_code(
    coder: str, books: dict[str, Codebook]
) -> None:
    codebook = fit(coder)
    before = {entry.tool.id: entry.code for entry in codebook.tools}
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(48, 48)))[0]
    points = make_embeddings(60)
    followed = refresh(codebook, (points @ turn * 3 - 1).astype(np.float32))
    assert {entry.tool.id: entry.code for entry in followed.tools} == before
    assert (codebook.report.age, followed.report.age) == (0, 1)
    assert np.array_equal(
        codebook.coder.first_errors(Seen(points)),
        books[coder].coder.first_errors(Seen(points)),
    ), "the codebook before is as it was"
    assert followed.report.reencoded >= books[coder].report.reencoded - 0.25
    twin = make_tools(1, start=900)
    (added,) = add_tools(
        followed, twin, ((points[:1] + 1e-3) @ turn * 3 - 1).astype(np.float32)
    ).added
    if isinstance(codebook.coder, LevelCoder | HierarchicalCoder):
        assert added.code[0] == codebook.tools[0].code[0]


@pytest.mark.parametrize("coder", CODERS)
def test_no_tool_gets_the_code_of_finish(coder: str, folder: Path, tmp_path: Path) -> None:
    """Reserved at the fit, kept while tools come in and the coder follows, outside the trie."""
    codebook = fit(coder)
    finish = codebook.code_text(FINISH)
    grown = add_tools(codebook, make_tools(40, start=1000), make_embeddings(40, seed=7))
    codebook = refresh(grown.codebook, make_embeddings(100, seed=8))
    assert codebook.code_text(FINISH) == finish
    assert codebook.finish not in {entry.code for entry in codebook.tools}
    assert codebook.tool_of(finish) is None and codebook.parse(finish) == codebook.finish
    assert FINISH not in codebook and FINISH not in codebook.tool_ids

    model, tokenizer = load(folder)
    install(codebook, model, tokenizer, make_embeddings(100, seed=8), how="random")
    tokenizer.save_pretrained(tmp_path)
    save_codebook(codebook, tmp_path, tokenizer)
    loaded = load_codebook(tmp_path)
    assert loaded is not None and loaded.finish == codebook.finish
    spelt = tokenizer(finish, add_special_tokens=False)["input_ids"]
    assert list(loaded.finish_ids) == spelt and len(spelt) <= loaded.num_levels
    assert spelt not in Trie.load(loaded.trie_path)

    head = json.loads((tmp_path / "codes" / "codebook.json").read_text())
    del head["finish"], head["finish_ids"]
    (tmp_path / "codes" / "codebook.json").write_text(json.dumps(head))
    before = load_codebook(tmp_path)
    assert before is not None and before.finish is None
    with pytest.raises(KeyError):
        before.code_text(FINISH)


@pytest.mark.parametrize("coder", CODERS)
def test_finish_keeps_its_code_when_codes_are_made_anew(coder: str) -> None:
    """Also where the new codes would give it to a tool."""
    old = fit(coder)
    tools = [entry.tool for entry in old.tools]
    assert tools == make_tools(60)
    new = make_tools(5, start=500)
    embeddings = np.concatenate([make_embeddings(60, seed=5), make_embeddings(5, seed=6)])
    plain = recode(old, new, embeddings, config_of(coder)).codebook
    assert plain.code_text(FINISH) == old.code_text(FINISH)
    old = changed(old, finish=plain.tools[7].code)
    if coder == "semantic":
        return
    moved = recode(old, new, embeddings, config_of(coder)).codebook
    assert moved.finish == old.finish
    codes = [entry.code for entry in moved.tools]
    assert old.finish not in codes and len(set(codes)) == len(codes) == 65
    same = [code == entry.code for code, entry in zip(codes, plain.tools, strict=True)]
    assert not same[7] and sum(same) >= 63, "only a tool in the way of Finish moves"


def test_fitting_again_gives_the_same_bytes(books: dict[str, Codebook], tmp_path: Path) -> None:
    for coder in ("quantized", "hierarchical"):
        again = fit(coder)
        assert again.tools == books[coder].tools
        again.coder.save(tmp_path / "a")
        books[coder].coder.save(tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_shipped_codes_load_as_they_are() -> None:
    codebook = load_codebook(ROOT / "rounds" / "seed")
    assert codebook is not None and isinstance(codebook.coder, LevelCoder)
    text = codebook.code_text(codebook.tool_ids[0])
    assert codebook.tool_of(text) == codebook.tools[0].tool
    assert why_recode(codebook, CodesSection()) == ""


def test_the_shipped_codes_are_written_as_they_are(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    shipped = ROOT / "rounds" / "seed"
    codebook = load_codebook(shipped)
    assert codebook is not None
    save_codebook(codebook, tmp_path, AutoTokenizer.from_pretrained(shipped))
    for name in ("tools.jsonl", "coder.npz", "trie.npz", "grammar.npz"):
        written = (tmp_path / "codes" / name).read_bytes()
        assert written == (shipped / "codes" / name).read_bytes(), name
    before, after = (
        json.loads((folder / "codes" / "codebook.json").read_text())
        for folder in (shipped, tmp_path)
    )
    report = after["report"] | before.pop("report")  # an early one says less
    assert report == after["report"] and {**after, **before} == after


def test_documents_are_asked_for_where_they_are_read() -> None:
    for coder in CODERS:
        if reads_documents(config_of(coder)):
            with pytest.raises(ValueError, match="needs embeddings"):
                fit_codebook(make_tools(20), None, config_of(coder))
        else:
            codebook = fit_codebook(make_tools(20), None, config_of(coder))
            assert len(add_tools(codebook, make_tools(1, start=50)).added) == 1
            with pytest.raises(ValueError, match="say nothing"):
                codebook.similar(codebook.tool_ids[0], 3)


@pytest.mark.parametrize("coder", ["residual", "quantized", "hierarchical"])
def test_embeddings_of_another_width_are_refused(coder: str, books: dict[str, Codebook]) -> None:
    new = make_tools(1, start=90)
    width = make_embeddings(1).shape[-1]
    with pytest.raises(InputError, match=f"embeddings of {width} numbers, these have {width - 8}"):
        add_tools(books[coder], new, make_embeddings(1)[..., :-8])
    with pytest.raises(InputError, match=f"these have {2 * width}"):
        add_tools(books[coder], new, np.concatenate([make_embeddings(1)] * 2, axis=1))


def test_similar_tools_are_those_whose_codes_differ_least(books: dict[str, Codebook]) -> None:
    codebook = books["residual"]
    first = codebook.tools[0]
    found = codebook.similar(first.tool.id, 60)
    assert len(found) == 59 and first.tool.id not in {entry.tool.id for entry, _ in found}
    distances = [distance for _, distance in found]
    assert distances == sorted(distances)
    assert all(
        distance == sum(a != b for a, b in zip(entry.code, first.code, strict=True))
        for entry, distance in found
    )


# -- the published baselines ----------------------------------------------------------------------


def test_atomic_is_one_token_a_tool_with_the_row_of_its_name(folder: Path) -> None:
    model, tokenizer = load(folder)
    codebook = fit_codebook(make_tools(20), None, config_of("atomic"))
    assert codebook.codes == [(row,) for row in range(20)]
    names = [*(entry.tool.name for entry in codebook.tools), "Finish"]
    wanted = embed_names(model.get_input_embeddings().weight, tokenizer, names)
    (ids,) = install(codebook, model, tokenizer, how="published")
    table = model.get_input_embeddings().weight
    rows = table.detach().numpy()[ids]
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(rows / np.linalg.norm(rows, axis=1, keepdims=True) - unit).max() < 1e-5

    table.data[ids[3]] = 0.5
    grown = add_tools(codebook, make_tools(2, start=70))
    assert [entry.code for entry in grown.added] == [(21,), (22,)]
    (ids,) = install(grown.codebook, model, tokenizer, fresh=grown.fresh, how="published")
    assert len(codebook.tokens[0]) == 21, "the codebook before has its own tokens"
    table = model.get_input_embeddings().weight.detach()
    assert len(ids) == 23 and len(table) == len(tokenizer)
    assert bool((table[ids[3]] == 0.5).all()), "a trained row stays"
    new = embed_names(model.get_input_embeddings().weight, tokenizer, [grown.added[1].tool.name])[0]
    assert np.corrcoef(table.numpy()[ids[22]], new)[0, 1] > 0.999


def test_numeric_counts() -> None:
    codebook = fit_codebook(make_tools(12), None, config_of("numeric"))
    assert [codebook.text_of(entry.code) for entry in codebook.tools][:2] == [
        "0 0 0 0 0",
        "0 0 0 0 1",
    ]
    assert codebook.parse("0 0 1 2 8") == (0, 0, 1, 2, 8)
    assert codebook.parse("00128") is None and codebook.parse("0 x") is None
    with pytest.raises(InputError, match="12 tools do not fit into 10 codes"):
        NumericCoder(1).assign(Seen(np.zeros((12, 1, 0)), ["x"] * 12), Taken())


@pytest.mark.parametrize(
    ("coder", "count", "full", "mended"),
    [
        ("numeric", 12, {"digits": 1}, {"digits": 2}),
        ("numeric", 10, {"digits": 1}, {"digits": 2}),
        ("residual", 16, {"levels": 1}, {"levels": 0}),
        ("quantized", 40, {"levels": 1}, {"levels": 0}),
    ],
)
def test_what_a_full_coder_says_gives_its_tools_and_finish_codes(
    coder: str, count: int, full: dict[str, int], mended: dict[str, int]
) -> None:
    with pytest.raises(InputError, match=f"{count} tools.* do not fit") as error:
        fit(coder, count, **full)
    ((key, value),) = mended.items()
    assert f"codes.{key} = {value}" in error.value.remedy
    codebook = fit(coder, count, **mended)
    assert codebook.finish is not None and len(codebook) == count


def test_a_full_codebook_says_what_gives_room() -> None:
    """`levels`, `digits` and `size` do nothing to codes that were given."""
    for coder, values, option in (
        ("numeric", {"digits": 1}, "codes fit --set codes.digits=2 --out"),
        ("hierarchical", {}, "codes fit --out FOLDER`, or a round with codes.recode_every"),
        ("residual", {"levels": 3}, "codes fit --set codes.levels=0 --out"),
    ):
        codebook = fit(coder, 7, **values)
        many = 200
        grown = add_tools(codebook, make_tools(many, start=100), make_embeddings(many))
        assert 0 < len(grown.added) < many and len(grown.codebook) == 7 + len(grown.added)
        assert grown.full is not None and "do not fit" in str(grown.full)
        assert option in grown.full.remedy and "add-tools" in grown.full.remedy
        assert grown.codebook.report.moved >= codebook.report.moved


@pytest.mark.parametrize("count", [2, 9, 10, 11, 100])
def test_hierarchical_keeps_a_code_for_finish(count: int) -> None:
    """Also where every cluster is full: ten tools, or ten clusters of ten."""
    points = np.repeat(np.eye(10, dtype=np.float32), 10, axis=0) * 50
    points += np.random.default_rng(0).normal(size=points.shape).astype(np.float32)
    codebook = fit_codebook(make_tools(count), points[:count], config_of("hierarchical"))
    assert codebook.finish is not None
    codes = [entry.code for entry in codebook.tools]
    assert len({*codes, codebook.finish}) == count + 1
    heads = {code[:length] for code in (*codes, codebook.finish) for length in range(1, len(code))}
    assert not heads & {*codes, codebook.finish}, "no code begins another"


def test_semantic_codes_are_names_told_apart() -> None:
    assert standard_name("Compress For Imagon!") == "compress_for_imagon"
    assert standard_name("2Fast: Get") == "get_2fast_get"
    assert standard_name("…") == "tool" and len(standard_name("x" * 99)) == 64
    names = ["Get It", "get_it", "other", "get it 2"]
    given = SemanticCoder().assign(Seen(np.zeros((4, 1, 0)), names), Taken())
    assert [bytes(code).decode() for code in given.codes] == [
        "get_it",
        "get_it_2",
        "other",
        "get_it_2_2",
    ]
    assert given.resolved_by == ("nearest", "sibling", "nearest", "sibling")


def test_hierarchical_paths_go_from_the_root_to_a_leaf() -> None:
    embeddings = make_embeddings(300, groups=12)
    coder = HierarchicalCoder(branches=4)
    coder.fit(Seen(embeddings))
    given = coder.assign(Seen(embeddings), Taken())
    codes = set(given.codes)
    assert len(codes) == 300 and all(0 <= number < 4 for code in codes for number in code)
    assert not any(code[:length] in codes for code in codes for length in range(1, len(code)))
    assert len({len(code) for code in codes}) > 1, "crowded regions have longer codes"
    points = embeddings[:, 0]
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    near = np.argsort(distances, axis=1)[:, 1]
    same = np.mean([given.codes[a][0] == given.codes[b][0] for a, b in enumerate(near)])
    numbers = Counter(code[0] for code in given.codes)
    assert same > 2 * sum((count / 300) ** 2 for count in numbers.values())


def test_hierarchical_tells_equal_documents_apart() -> None:
    codebook = fit_codebook(
        make_tools(40), np.ones((40, 8), dtype=np.float32), config_of("hierarchical")
    )
    assert len({entry.code for entry in codebook.tools}) == 40


# -- quantized ------------------------------------------------------------------------------------

TOPICS, COMMUNITIES = 40, 20


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, Graph, np.ndarray]:
    """240 tools of 40 topics; two topics each are used together: (N, V, D), pairs, topic of each.

    Half of the pairs of a community are in the graph.
    """
    rng = np.random.default_rng(0)
    topic_N = np.arange(240) % TOPICS
    centres = rng.normal(size=(TOPICS, 48))
    points = (centres[topic_N] + rng.normal(size=(240, 48)) * 0.3 + 5)[:, None]
    community_N = topic_N % COMMUNITIES
    row_E, column_E = np.nonzero(np.triu(community_N[:, None] == community_N[None], k=1))
    kept_E = rng.random(len(row_E)) < 0.5
    graph = Graph(
        row_E=row_E[kept_E], column_E=column_E[kept_E], weight_E=np.full(kept_E.sum(), 1 / 6)
    )
    return points.astype(np.float32), graph, topic_N


@pytest.fixture(scope="module")
def trained(planted: tuple[np.ndarray, Graph, np.ndarray]) -> dict[float, QuantizedCoder]:
    """The same autoencoder without and with the graph term."""
    points, graph, _ = planted
    coders = {}
    for weight in (0.0, 0.2):
        config = QuantizedSection(hidden=(64,), latent=32, epochs=300, graph=weight)
        coders[weight] = QuantizedCoder(levels=3, size=16, config=config)
        coders[weight].fit(Seen(points, graph=graph))
    return coders


def test_the_autoencoder_learns_and_uses_its_codes(
    planted: tuple[np.ndarray, Graph, np.ndarray], trained: dict[float, QuantizedCoder]
) -> None:
    """Check 16: error below a quarter of the variance, entropy above 0.7 of even use."""
    points, coder = planted[0], trained[0.0]
    codes = coder.encode(points).codes_NP
    decoded = np.sum([book[codes[:, p]] for p, book in enumerate(coder._centroids_PKd)], axis=0)
    for number, (weight, bias) in enumerate(coder._decoder):
        decoded = (np.maximum(decoded, 0) if number else decoded) @ weight + bias
    error = ((decoded * coder._scale + coder._mean_D - points[:, 0]) ** 2).mean()
    assert error < 0.25 * points[:, 0].var(axis=0).mean()
    for numbers in codes.T:
        share = np.bincount(numbers, minlength=16) / len(codes)
        assert -(share[share > 0] * np.log2(share[share > 0])).sum() >= 0.7 * 4
    assert coder.history[-1]["error"] < 0.5 * coder.history[0]["error"]


@pytest.mark.parametrize(("patience", "last"), [(20, 20), (0, 60)])
def test_training_waits_for_a_gain_as_long_as_it_is_told(patience: int, last: int) -> None:
    """At ToolWeaver's rate a gain of 1 % takes longer than the default waits."""
    config = vary(QUICK, learning_rate=1e-6, patience=patience)
    coder = QuantizedCoder(levels=2, size=7, config=config)
    coder.fit(Seen(make_embeddings(60)))
    assert coder.history[-1]["epoch"] == last


def test_the_recipe_of_toolweaver_trains_to_the_end() -> None:
    recipe = load_recipe(Workspace(ROOT), "toolweaver", {}).recipe
    config = need_codes(recipe).quantized
    assert (config.epochs, config.patience, config.learning_rate) == (5000, 0, 1e-5)


def test_the_encoder_follows_a_model_at_its_own_rate() -> None:
    """A fit at a rate that moves nothing can still follow."""
    config = vary(QUICK, learning_rate=1e-9)
    coder = QuantizedCoder(levels=2, size=7, config=config)
    before, after = make_embeddings(60), make_embeddings(60, seed=1)
    coder.fit(Seen(before))
    codes = [tuple(code) for code in coder.encode(before).codes_NP.tolist()]
    stale = coder.nearest(Seen(after), codes).mean()
    coder.refresh(Seen(after), codes)
    assert coder.nearest(Seen(after), codes).mean() > max(0.5, 2 * stale)


@pytest.mark.parametrize("count", [16, 64, 66, 71, 72])
def test_few_tools_fit_into_two_levels(count: int) -> None:
    codebook = fit("quantized", count, levels=2)
    assert codebook.finish is not None and len({e.code for e in codebook.tools}) == count


def test_the_graph_brings_tools_together_that_are_used_together(
    planted: tuple[np.ndarray, Graph, np.ndarray], trained: dict[float, QuantizedCoder]
) -> None:
    """Check 18, for pairs of different topics: what documents alone would not bring together."""
    points, graph, topic_N = planted
    across_E = topic_N[graph.row_E] != topic_N[graph.column_E]
    share = {}
    for weight, coder in trained.items():
        first_N = coder.encode(points).codes_NP[:, 0]
        share[weight] = (first_N[graph.row_E] == first_N[graph.column_E])[across_E].mean()
    assert share[0.2] >= 1.5 * share[0.0]


def test_the_graph_loss_is_twice_the_laplacian_form_and_reaches_the_encoder() -> None:
    """Check 17."""
    import torch

    rng = np.random.default_rng(1)
    tools = make_tools(12)
    pairs = [
        Pair(a=tools[a].id, b=tools[b].id, weight=float(rng.integers(1, 9)))
        for a, b in rng.integers(0, 12, (30, 2)).tolist()
    ]
    graph = build_graph(pairs, tools)
    similarity = np.zeros((12, 12))
    similarity[graph.row_E, graph.column_E] = graph.weight_E
    similarity += similarity.T
    laplacian = np.diag(similarity.sum(axis=1)) - similarity
    vectors = rng.normal(size=(12, 5))
    wanted = 2 * np.trace(vectors.T @ laplacian @ vectors) / 12**2
    assert float(graph_loss(torch.from_numpy(vectors), graph)) == pytest.approx(wanted, rel=1e-5)

    points = rng.normal(size=(60, 8))
    whole = Graph(
        row_E=np.arange(30), column_E=np.arange(30, 60), weight_E=np.ones(30, dtype=np.float64)
    )

    def gradients(graph_on: str, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the first step's loss: the encoder's and the codebooks'."""
        config = vary(QUICK, graph=weight, graph_on=graph_on)  # type: ignore[arg-type]
        trainer = make_trainer(points, config, graph=whole if weight else None)
        learnt = trainer._encoder[0][0], trainer._codebooks_PKd
        for tensor in learnt:
            tensor.requires_grad_()
        first, books = torch.autograd.grad(trainer._loss(torch.arange(60)), learnt)
        return first.numpy(), books.numpy()

    plain_encoder, plain_books = gradients("encoder", 0.0)
    moved_encoder, same_books = gradients("encoder", 5.0)
    same_encoder, moved_books = gradients("codebook", 5.0)
    assert np.array_equal(same_encoder, plain_encoder)
    assert np.array_equal(same_books, plain_books)
    assert not np.allclose(moved_encoder, plain_encoder, rtol=1e-2)
    assert not np.allclose(moved_books, plain_books, rtol=1e-2)


def make_trainer(
    points: np.ndarray,
    config: QuantizedSection,
    *,
    graph: Graph | None = None,
    codebooks: np.ndarray | None = None,
) -> _Trainer:
    """An autoencoder before its first step, of two levels of four codes unless they are given."""
    import torch

    torch.manual_seed(0)
    widths = (points.shape[1], *config.hidden, config.latent)
    return _Trainer(
        points_ND=points,
        encoder=_xavier(widths),
        decoder=_xavier(widths[::-1]),
        levels=2,
        size=4,
        config=config,
        graph=graph,
        seed=0,
        codebooks_PKd=codebooks,
    )


def test_sinkhorn_balances() -> None:
    """Check 19."""
    import torch

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(512, 8)) * 0.2, rng.normal(size=(512, 8))])
    codes = rng.normal(size=(64, 8))
    distance = torch.cdist(torch.from_numpy(points), torch.from_numpy(codes)) ** 2
    nearest = np.bincount(distance.argmin(dim=1)).max()
    for epsilon in (0.003, 0.01, 0.1):
        soft = balance(distance, epsilon, 50)
        assert not bool(soft.isnan().any())
        assert bool(((soft.sum(dim=1) - 1).abs() < 1e-3).all())
        assert np.bincount(soft.argmax(dim=1)).max() <= 0.7 * nearest


def test_only_the_last_level_is_balanced_while_training() -> None:
    """A24: elsewhere a tool has its nearest code, however many others have it too."""
    import torch

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(512, 8)) * 0.2, rng.normal(size=(512, 8))])
    codebooks = np.stack([rng.normal(size=(64, 8))] * 3)
    residual = torch.from_numpy(points.astype(np.float32))
    nearest = ((points[:, None] - codebooks[0]) ** 2).sum(axis=2).argmin(axis=1)
    for epsilon in (QUICK.epsilon, 0.0):
        trainer = make_trainer(points, vary(QUICK, epsilon=epsilon), codebooks=codebooks)
        first, second, last = (trainer._choose(residual, level).numpy() for level in range(3))
        assert np.array_equal(first, nearest) and np.array_equal(second, nearest)
        crowd = np.bincount(last).max() / np.bincount(nearest).max()
        assert crowd <= 0.7 if epsilon else crowd == 1


@pytest.mark.parametrize(
    ("sinkhorn", "balanced"),
    [("off", (False, False, False)), ("last", (False, False, True)), ("all", (True, True, True))],
)
def test_sinkhorn_acts_on_the_levels_that_the_recipe_names(
    sinkhorn: str, balanced: tuple[bool, ...]
) -> None:
    import torch

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(256, 8)) * 0.2, rng.normal(size=(256, 8))])
    codebooks = np.stack([rng.normal(size=(32, 8))] * 3)
    config = vary(QUICK, sinkhorn=sinkhorn)
    trainer = make_trainer(points, config, codebooks=codebooks)
    residual = torch.from_numpy(points.astype(np.float32))
    nearest = ((points[:, None] - codebooks[0]) ** 2).sum(axis=2).argmin(axis=1)
    found = [trainer._choose(residual, level).numpy() for level in range(3)]
    assert tuple(not np.array_equal(each, nearest) for each in found) == balanced
    assert (trainer.cost.sinkhorn_seconds > 0) == any(balanced)


def test_an_absolute_weight_is_the_relative_one_that_it_comes_to() -> None:
    """The first step tells which: from there on, both train alike."""
    points, graph = make_embeddings(60), make_ring(60)

    def trained(**values: Any) -> QuantizedCoder:
        coder = QuantizedCoder(levels=2, size=7, config=vary(QUICK, **values))
        coder.fit(Seen(points, graph=graph))
        return coder

    share = trained(epochs=1, graph=1.0, graph_unit="absolute").cost.graph_share
    assert share is not None
    relative = trained(epochs=20, graph=0.5)
    absolute = trained(epochs=20, graph=0.5 / share, graph_unit="absolute")
    for coder in (relative, absolute):
        assert coder.cost.graph_share == pytest.approx(0.5, rel=1e-5)
    codes = [coder.encode(points).codes_NP for coder in (relative, absolute)]
    assert np.array_equal(*codes)


def make_ring(count: int) -> Graph:
    """Each tool is used with the next one."""
    rows = np.arange(count - 1)
    return Graph(row_E=rows, column_E=rows + 1, weight_E=np.ones(count - 1))


def test_the_rate_rises_and_the_state_of_fewest_collisions_can_be_kept() -> None:
    points = make_embeddings(90)
    first = vary(QUICK, epochs=10, learning_rate=1e-2, patience=0)
    errors = {}
    for warmup in (0, 10):
        coder = QuantizedCoder(levels=2, size=7, config=vary(first, warmup=warmup))
        coder.fit(Seen(points))
        errors[warmup] = coder.history[-1]["error"]
    assert errors[10] > errors[0], "smaller steps come less far"

    looks = {}
    for kept in ("error", "collisions"):
        coder = QuantizedCoder(levels=2, size=7, config=vary(QUICK, patience=0, kept=kept))
        coder.fit(Seen(points))
        codes = coder.encode(points).codes_NP
        looks[kept] = len(codes) - len(np.unique(codes, axis=0))
    fewest = min(look["collisions"] for look in coder.history[1:])
    assert looks["collisions"] == fewest < looks["error"]


def test_sinkhorn_parts_tools_that_want_one_code() -> None:
    points = np.random.default_rng(0).normal(size=(90, 1, 12)).astype(np.float32)
    coder = QuantizedCoder(levels=2, size=11, config=vary(QUICK, epochs=10, index="sinkhorn"))
    coder.fit(Seen(points))
    wanted = coder.encode(points).codes_NP
    parted = coder._part(points, wanted)
    assert np.array_equal(parted[:, 0], wanted[:, 0]), "only last numbers change"
    assert len(np.unique(parted, axis=0)) >= len(np.unique(wanted, axis=0)) + 5
    given = coder.assign(Seen(points), Taken())
    assert len(set(given.codes)) == 90, "what it leaves together is parted by exact assignment"
    codes = [tuple(code) for code in parted.tolist()]
    assert {code for code in codes if codes.count(code) == 1} <= set(given.codes)
    coder.config = vary(coder.config, index="exact")
    assert coder.assign(Seen(points), Taken()).moved <= given.moved


def test_a_codebook_says_how_many_pairs_it_was_fitted_with() -> None:
    tools, points = make_tools(40), make_embeddings(40)
    pair = Pair(a=tools[0].id, b=tools[9].id, weight=1.0)
    quick = vary(config_of("quantized", size=8), quantized=vary(QUICK, epochs=10))
    off = vary(quick, quantized=vary(quick.quantized, graph=0.0))
    found = {
        name: fit_codebook(tools, points, codes, pairs=pairs).report.pairs
        for name, codes, pairs in (
            ("one", quick, [pair]),
            ("none", quick, []),
            ("off", off, [pair]),
            ("residual", config_of("residual", size=8), [pair]),
        )
    }
    assert found == {"one": 1, "none": 0, "off": None, "residual": None}


def test_rows_of_quantized_codes_add_up_to_their_members() -> None:
    """A20 by the way of §2.4: first rows are means, the next average what they leave."""
    rng = np.random.default_rng(2)
    vectors, codes = rng.normal(size=(50, 6)), rng.integers(0, 4, (50, 2)).astype(np.int32)
    codes[codes[:, 1] == 3, 1] = 2
    first, second = mean_rows(vectors, codes, (4, 4), 2)
    for number in range(4):
        members = codes[:, 0] == number
        assert np.allclose(first[number], vectors[members].mean(axis=0))
    rest = vectors - first[codes[:, 0]]
    for number in range(3):
        assert np.allclose(second[number], rest[codes[:, 1] == number].mean(axis=0))
    assert np.allclose(second[3], second[:3].mean(axis=0))


# -- the graph ------------------------------------------------------------------------------------


def test_the_similarity_is_normalised_thinned_and_symmetric() -> None:
    tools = make_tools(5)
    a, b, c, d, _ = (tool.id for tool in tools)
    pairs = [
        Pair(a=a, b=b, weight=1.5),
        Pair(a=b, b=a, weight=1.5),
        Pair(a=a, b=c, weight=1.0),
        Pair(a=c, b=d, weight=0.9),
        Pair(a=a, b=a, weight=9.0),
        Pair(a=a, b="t_unknown", weight=9.0),
    ]
    graph = build_graph(pairs, tools, min_weight=1.0)
    found = dict(zip(zip(graph.row_E, graph.column_E, strict=True), graph.weight_E, strict=True))
    assert found == {(0, 1): pytest.approx(3 / np.sqrt(4 * 3)), (0, 2): pytest.approx(0.5)}
    star = [Pair(a=a, b=tool.id, weight=2.0 + n) for n, tool in enumerate(make_tools(9)[1:])]
    thin = build_graph(star, make_tools(9), neighbours=1)
    assert len(thin) == 8, "a pair stays if it is the strongest of either tool"


def test_one_pair_of_few_counts_and_one_of_many_does_not() -> None:
    """A model's unanimous answer weighs 0.3: alone it is a pair, among thousands it is noise."""
    tools = make_tools(40)
    a, b, c = (tool.id for tool in tools[:3])
    once = Pair(a=a, b=b, weight=0.3)
    assert len(build_graph([once], tools)) == 1
    often = [Pair(a=b, b=c, weight=float(weight)) for weight in (200, 2000)]
    assert len(build_graph([once, often[0]], tools)) == 2
    assert len(build_graph([once, often[1]], tools)) == 1
    assert len(build_graph([Pair(a=a, b=b, weight=1.0), often[1]], tools)) == 2, "1 always counts"


def test_answers_weigh_no_more_than_labels_for_a_tool_that_labels_name() -> None:
    labelled = [Pair(a="a", b="b", weight=1.0)]
    made = [
        Pair(a="a", b="c", weight=3.0),
        Pair(a="b", b="a", weight=1.0),
        Pair(a="c", b="d", weight=9.0),
    ]
    joined = join_pairs(labelled, made)
    assert joined[:1] == labelled
    assert [pair.weight for pair in joined[1:]] == [0.75, 0.25, 9.0]
    assert join_pairs([], made) == made


def test_namesakes_count_as_one_tool() -> None:
    known, other = make_tools(2)
    document = {**known.document, "description": "In other words.", "name": known.name.title()}
    written = Tool(id="t_new", document=document)
    assert signature(written) == signature(known) != signature(other)
    called = [Pair(a="t_new", b=other.id, weight=1.0)]
    assert len(build_graph(called, [known, other])) == 0, "tools are matched by id"
    pairs = canonical_pairs(called, [written], [known, other])
    assert pairs == [Pair(a=known.id, b=other.id, weight=1.0)]
    assert len(build_graph(pairs, [known, other])) == 1


# -- coding anew ----------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", ["residual", "quantized"])
def test_coding_anew_keeps_names_and_old_rounds_read_the_same(
    coder: str, folder: Path, tmp_path: Path
) -> None:
    """Check 28: with a tenth of new tools, 70 % of the tokens keep their names."""
    tokenizer = load(folder)[1]
    old = fit(coder, 200)
    old_texts = {tool_id: old.code_text(tool_id) for tool_id in old.tool_ids}
    points = make_embeddings(200)
    new, more = make_tools(20, start=500), make_embeddings(20, seed=5)
    config = config_of(coder)
    both = np.concatenate([points, more])
    made = recode(old, new, both, config, reason="tested", seed=3, version=2)
    assert made.codebook.version == 2 and len(made.codebook) == 220
    assert len({entry.code for entry in made.codebook.tools}) == 220
    assert made.kept_names >= 0.7
    changed = {
        tool_id for tool_id, text in old_texts.items() if made.codebook.code_text(tool_id) != text
    }
    assert {tool.id for tool in made.changed} == changed
    assert made.churn == len(changed) / 200
    assert old_texts == {tool_id: old.code_text(tool_id) for tool_id in old.tool_ids}
    again = recode(old, new, both, config, seed=3)
    assert again.codebook.tools == made.codebook.tools
    coded = made.codebook.coder
    assert isinstance(coded, LevelCoder)
    nearest = coded.nearest(Seen(both), made.codebook.codes)
    assert nearest.mean() == pytest.approx(made.codebook.report.reencoded)

    example = Example(
        kind="code",
        messages=(
            Message(role="user", content="x"),
            Message(role="assistant", content=f"{{{{tool:{old.tool_ids[0]}}}}}"),
        ),
        origin="r1/q",
    )
    texts = []
    for name, codebook in (("r1", old), ("r2", made.codebook)):
        tokens = [token for level in codebook.tokens for token in level]
        tokenizer.add_tokens(tokens)
        tokenizer.save_pretrained(tmp_path / name)
        save_codebook(codebook, tmp_path / name, tokenizer)
    for name, codebook in (("r1", old), ("r2", made.codebook)):
        loaded = load_codebook(tmp_path / name)
        assert loaded is not None
        texts.append(render(example, loaded)[-1].content)
        assert texts[-1] == codebook.code_text(old.tool_ids[0])


@pytest.mark.parametrize("coder", ["residual", "quantized"])
@pytest.mark.parametrize(("levels", "more"), [(2, 3), (3, 2)])
def test_codes_can_be_made_anew_longer_or_shorter(coder: str, levels: int, more: int) -> None:
    old = fit(coder, levels=levels)
    config = config_of(coder, levels=more)
    made = recode(old, [], make_embeddings(60), config, seed=3).codebook
    assert {len(entry.code) for entry in made.tools} == {more}
    assert len({entry.code for entry in made.tools}) == 60


@pytest.mark.parametrize("coder", ["residual", "quantized", "atomic"])
def test_the_ledger_says_what_became_of_each_token(coder: str, tmp_path: Path) -> None:
    """A41: beside its tools, how many still have it and where most of them went."""
    old = fit(coder, 200)
    made = recode(old, [], make_embeddings(200, seed=9), config_of(coder), seed=3, version=2)
    moves: Counter[tuple[str, str]] = Counter()
    for tool_id in old.tool_ids:
        both = (re.findall("<.*?>", book.code_text(tool_id)) for book in (old, made.codebook))
        moves.update(zip(*both, strict=True))
    assert {(a.old_token, a.new_token): a.overlap for a in made.aliases} == moves
    if coder != "atomic":
        assert any(before != now for before, now in moves)

    result = TrainingResult(
        path=tmp_path,
        fingerprint="",
        num_examples=0,
        dropped={},
        num_tokens=0,
        steps=0,
        seconds=0.0,
        codes=(),
        codebook=made.codebook.summary(),
        log=(),
        restarts=0,
        aliases=made.aliases,
    )
    ledger = Ledger(tmp_path)
    ledger.append(code_rows(7, result))
    found = ledger.query("from code_drift").records()
    assert {row["token"] for row in found} == {before for before, _ in moves}
    for row in found:
        now = {new: count for (before, new), count in moves.items() if before == row["token"]}
        assert (row["version"], row["round"]) == (2, 7)
        assert row["tools"] == sum(now.values()) and row["kept"] == now.get(row["token"], 0)
        assert row["share"] == row["kept"] / row["tools"]
        assert now[row["most"]] == max(now.values())


def test_names_keep_most_tools_and_then_least_distance() -> None:
    rng = np.random.default_rng(0)
    num_tied = 0
    for _ in range(50):
        new, old = rng.integers(0, 4, (2, 9))
        shared, distance = np.zeros((4, 4)), rng.random((4, 4))
        np.add.at(shared, (new, old), 1)
        far = np.where(shared > 0, distance, distance[shared > 0].max())
        # Tools that keep their number, and distance with its sign turned.
        worth = {
            order: (shared[range(4), order].sum(), -far[range(4), order].sum())
            for order in itertools.permutations(range(4))
        }
        worths = sorted(worth.values(), reverse=True)
        names, matched = match_names(new, old, distance)
        assert worth[tuple(names.tolist())] == pytest.approx(worths[0])
        assert matched.tolist() == (shared[range(4), names] > 0).tolist()
        left = names[~matched].tolist()
        assert left == sorted(left)
        num_tied += worths[0][0] == worths[1][0]
    assert num_tied > 10


@pytest.mark.parametrize("position", [0, 1])
def test_old_numbers_stand_where_their_tools_are(position: int) -> None:
    """At each level among what the numbers before leave, where a mean of members is a centroid."""
    points = make_embeddings(200)
    coder = ResidualCoder(levels=2, size=8, dims=8)
    coder.fit(Seen(points))
    codes = coder.encode(points).codes_NP
    groups = (codes[:, position] + 1) % 8
    distance = coder.regroup(points, codes[:, :position], groups)
    assert np.allclose(distance[np.arange(8), (np.arange(8) + 1) % 8], 0, atol=1e-3)
    assert (np.sort(distance, axis=1)[:, 1] > 0.1).all()


def test_kept_tokens_keep_their_rows(folder: Path) -> None:
    model, tokenizer = load(folder)
    tools, points = make_tools(120), make_embeddings(120)[:, :, :1].repeat(64, axis=2)
    points = points + np.random.default_rng(0).normal(size=points.shape).astype(np.float32)
    old = fit_codebook(tools, points, config_of("residual"), seed=1)
    install(old, model, tokenizer, points)
    made = recode(old, [], points, config_of("residual"), seed=9)
    fresh = made.fresh
    assert fresh is not None and made.codebook.tool_ids == old.tool_ids
    before = model.get_input_embeddings().weight.detach().clone()
    ids = install(made.codebook, model, tokenizer, points, fresh=fresh)
    after = model.get_input_embeddings().weight.detach()
    for position, numbers in enumerate(ids):
        for number, token in enumerate(numbers):
            same = bool((before[token] == after[token]).all())
            assert same == (number not in fresh[position])
    assert 0 < sum(map(len, fresh)) < sum(map(len, ids))


def test_when_codes_are_made_anew() -> None:
    codebook = fit("residual")
    never, third = config_of("residual"), config_of("residual", recode_every=3)
    assert why_recode(codebook, never, 1000) == ""
    assert "recipe has quantized" in why_recode(codebook, config_of("quantized"))
    assert "recipe has residual" in why_recode(codebook, vary(never, embedder="models/x"))
    # What the fit itself moved is no reason to fit again.
    report = replace(codebook.report, moved=50)

    def why(num_new: int = 0, **values: Any) -> str:
        return why_recode(changed(codebook, report=replace(report, **values)), third, num_new)

    assert why() == "" and why(num_new=5) == ""
    assert why(num_new=7) == "10% of the tools came after the fit"
    assert why(age=3) == "the codes are 3 trainings old" and why(age=2) == ""
    assert why(fitted=0) == ""
    known = codebook.tools[0]
    twins = [replace(known.tool, id=f"t_late{number}") for number in range(4)]
    codebook = add_tools(codebook, twins, make_embeddings(60)[[0] * 4]).codebook
    assert why() == "6% of the tools came later and are off their nearest code"
    assert why_recode(fit("atomic"), config_of("atomic", recode_every=1), 1000) == ""


def test_pairs_come_from_accepted_answers(tmp_path: Path) -> None:
    """A42: 0.3 by the share of votes, fading by 0.8 a round; only called tools, only accepted."""
    a, b, c, d = make_tools(4)

    def sample(number: int, query: str, called: list[Tool], **values: Any) -> dict[str, Any]:
        calls = [{"name": tool.name, "arguments": {}} for tool in (*called, called[0])]
        shown = [{"id": tool.id, "document": tool.document} for tool in (a, b, c, d)]
        row = {"round": number, "judgement": 1, "query_id": query, "status": "accepted"}
        texts = {"tools_json": json.dumps(shown), "calls_json": json.dumps(calls)}
        return row | texts | {"agreement": 1.0} | values

    ledger = Ledger(tmp_path)
    rows = [
        sample(1, "q1", [a, b]),
        sample(2, "q2", [a, b, c], agreement=0.6),
        sample(2, "q3", [d]),
        sample(2, "q4", [c, d], status="rejected"),
        sample(2, "q6", [a, b], agreement=None),
        sample(3, "q5", [c, d]),
    ]
    ledger.append({"sample": rows})
    found = {frozenset((p.a, p.b)): p.weight for p in called_pairs(ledger, 2).answered}
    assert found == {
        frozenset((a.id, b.id)): pytest.approx(0.3 * 0.8 + 0.3 * 0.6),
        frozenset((a.id, c.id)): pytest.approx(0.3 * 0.6),
        frozenset((b.id, c.id)): pytest.approx(0.3 * 0.6),
    }
    (label,) = called_pairs(ledger, 3).labelled
    assert {label.a, label.b} == {a.id, b.id} and label.weight == pytest.approx(0.8)
    assert last_codebook_version(ledger) == 0
