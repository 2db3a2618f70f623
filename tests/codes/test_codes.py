"""Codes: coder, assignment, vocabulary and the codebook's life."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import tiny_model, tiny_multimodal
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.codes.arrays import Ints, as_NVD
from factory.codes.assign import resolve
from factory.codes.base import Assignment, Seen, Taken
from factory.codes.codebook import Codebook
from factory.codes.growing import add_tools, fit_codebook, order_of, refresh
from factory.codes.install import install
from factory.codes.levels import LevelCoder, choose_shape
from factory.codes.residual import ResidualCoder
from factory.codes.saving import SavedCodebook, load_codebook, save_codebook
from factory.codes.spelling import code_tokens, read_vocabulary
from factory.codes.trie import Trie
from factory.codes.vocabulary import add_code_tokens, embed_documents, tables_of
from factory.domain.canon import tool_id
from factory.domain.failures import InputError, ModelError
from factory.domain.records import Tool
from factory.workspace.recipe import CodesSection

VERBS = ("get", "book", "cancel", "list", "find", "send")
NOUNS = ("weather", "table", "flight", "invoice", "song", "recipe", "room", "parcel")
WIDTH = 48


def make_tools(count: int, start: int = 0) -> list[Tool]:
    tools = []
    for number in range(start, start + count):
        verb, noun = VERBS[number % 6], NOUNS[number // 6 % 8]
        document: dict[str, Any] = {
            "name": f"{verb}_{noun}_{number}",
            "description": f"{verb.title()} one {noun} of kind {number}.",
            "arguments": {"type": "dict", "properties": {}, "required": []},
        }
        tools.append(Tool(id=tool_id(document), document=document))
    return tools


def text_of(tool: Tool) -> str:
    return f"Tool: {tool.name}. {tool.document['description']}"


def make_embeddings(count: int, seed: int = 0, views: int = 1, groups: int = 12) -> np.ndarray:
    """(N, V, D) points around a few centres, with a large common part as hidden states have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(groups, views, WIDTH))
    points = centres[rng.integers(0, groups, count)]
    noise = rng.normal(size=(count, views, WIDTH)) * 0.3
    return (points + noise + 5.0).astype(np.float32)


@pytest.fixture(scope="module", params=["tied", "untied"])
def model_and_tokenizer(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Any, Any]]:
    yield load_model(tmp_path_factory.mktemp("model"), tied=request.param == "tied")


def fit(coder: LevelCoder, embeddings: np.ndarray, seed: int = 0) -> Ints:
    """Nearest codes of the tools that the coder is fitted on."""
    coder.fit(Seen(embeddings, seed=seed))
    return coder.encode(embeddings).codes_NP


def settle(coder: LevelCoder, embeddings: np.ndarray, wanted: Ints, taken: Taken) -> Assignment:
    return resolve(coder, embeddings, wanted, np.zeros(len(wanted)), taken)


def load_model(folder: Path, *, tied: bool = True) -> tuple[Any, Any]:
    return read_model(tiny_model(folder, tied=tied))


def read_model(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


# -- shape and coder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tools", "size", "levels", "shape"),
    [
        (64, 512, None, (8, 4)),
        (64, 512, 0, (8, 4)),
        (64, 512, 3, (8, 3)),
        (4, 512, None, (2, 7)),
        (46_985, 512, None, (512, 3)),
        (200, 16, None, (16, 3)),
        (64, 1024, 2, (12, 2)),
        (64, 10, 2, (10, 2)),
        (200, 1024, 2, (25, 2)),
        (40, 512, 1, (20, 1)),
    ],
)
def test_shape_follows_the_number_of_tools(
    num_tools: int, size: int, levels: int | None, shape: tuple[int, int]
) -> None:
    assert choose_shape(num_tools, size, levels) == shape
    if not levels:
        assert shape[0] ** shape[1] >= 20 * num_tools
        assert shape[0] ** (shape[1] - 1) < 20 * num_tools


@pytest.mark.parametrize("views", [1, 2])
def test_levels_and_residual_add_up_and_encoding_repeats(views: int) -> None:
    """Check 11: the identity below 1e-5, and re-encoding returns the codes for all tools."""
    embeddings = make_embeddings(120, views=views)
    coder = ResidualCoder(levels=2, size=12)
    codes = fit(coder, embeddings, seed=3)
    assert coder.sizes == (12,) * (2 * views)
    assert np.array_equal(coder.encode(embeddings).codes_NP, codes)
    for view in range(views):
        whole = coder.project(embeddings, view)
        rest = coder.residual(embeddings, codes, view)
        parts = sum(coder._centroids_PKd[p][codes[:, p]] for p in (2 * view, 2 * view + 1))
        assert np.abs(whole - (parts + rest)).max() < 1e-5
    alone = [coder.encode(embeddings[row : row + 1]).codes_NP[0] for row in range(120)]
    assert np.array_equal(np.array(alone), codes)


def test_fitting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    embeddings = make_embeddings(100)
    for name in ("a", "b"):
        coder = ResidualCoder(levels=2, size=8)
        coder.fit(Seen(embeddings, seed=5))
        coder.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = ResidualCoder.load(tmp_path / "a")
    assert loaded.sizes == coder.sizes
    assert np.array_equal(loaded.encode(embeddings).codes_NP, coder.encode(embeddings).codes_NP)


def test_more_levels_and_views_never_collide_more() -> None:
    """Check 12: V1L1 >= V1L2 >= V2L2, before resolution."""
    embeddings = make_embeddings(300, views=2)
    rates = []
    for views, levels in ((1, 1), (1, 2), (2, 2)):
        part = embeddings[:, :views]
        codes = fit(ResidualCoder(levels=levels, size=16), part)
        rates.append(1 - len(np.unique(codes, axis=0)) / 300)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[2]


@pytest.mark.parametrize("views", [1, 2])
def test_reframed_rows_are_means_of_their_members(views: int) -> None:
    """Check 15, written out one code at a time."""
    embeddings = make_embeddings(80, views=views).astype(np.float64)
    coder = ResidualCoder(levels=2, size=10)
    codes = fit(coder, embeddings)
    codes[codes[:, 1] == 3, 1] = 4
    rows = coder.rows(Seen(embeddings), [tuple(code) for code in codes.tolist()])
    for position in range(2 * views):
        view, level = divmod(position, 2)
        for number in range(10):
            members = np.flatnonzero(codes[:, position] == number)
            wanted = []
            for row in members:
                value = embeddings[row, view]
                if level == 1:
                    space = coder._components_VdD[view].astype(np.float64)
                    reduced = space @ (value - coder._mean_VD[view])
                    centroid = coder._centroids_PKd[position - 1][codes[row, position - 1]]
                    value = space.T @ (reduced - centroid)
                wanted.append(value)
            if wanted:
                assert np.abs(rows[position][number] - np.mean(wanted, axis=0)).max() < 1e-5
    filled = np.unique(codes[:, 1])
    assert 3 not in filled
    assert np.allclose(rows[1][3], rows[1][filled].mean(axis=0))


def test_identical_documents_do_not_stop_the_fit() -> None:
    tools = make_tools(24)
    codebook = fit_codebook(tools, np.ones((24, WIDTH), dtype=np.float32))
    assert len({entry.code for entry in codebook.tools}) == 24
    assert codebook.report.collisions_before == 23
    assert codebook.report.moved == 23


def test_bad_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        as_NVD(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="shape"):
        as_NVD(np.zeros(3))
    with pytest.raises(ValueError, match="too few"):
        ResidualCoder(levels=1, size=8).fit(Seen(make_embeddings(4)))


# -- assignment -----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(0, 60))
def test_resolution_is_free_of_collisions(seed: int, levels: int, num_known: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = make_embeddings(80, seed=seed, groups=4)
    coder = ResidualCoder(levels=levels, size=6 if levels > 1 else 80)
    coder.fit(Seen(embeddings))
    num_new = min(80, int(np.prod(coder.sizes)) - num_known)
    if num_new < 1:
        return
    known = {tuple(code) for code in rng.integers(0, coder.sizes[0], (num_known, levels)).tolist()}
    wanted = coder.encode(embeddings[:num_new]).codes_NP
    taken = Taken(known)
    result = settle(coder, embeddings[:num_new], wanted, taken)
    codes = list(result.codes)
    assert len(set(codes)) == num_new
    assert known.isdisjoint(codes)
    assert all(code in taken for code in codes)
    kept = (np.array(result.codes) == wanted).all(axis=1)
    assert [how == "nearest" for how in result.resolved_by] == kept.tolist()
    assert np.array_equal(result.penalty_N[kept], np.zeros(kept.sum()))
    again = settle(coder, embeddings[:num_new], wanted, Taken(known))
    assert again.codes == result.codes


def test_a_tool_alone_on_its_free_code_is_never_moved() -> None:
    embeddings = make_embeddings(80)
    coder = ResidualCoder(levels=2, size=10)
    wanted = fit(coder, embeddings)
    result = settle(coder, embeddings, wanted, Taken())
    unique, counts = np.unique(wanted, axis=0, return_counts=True)
    alone = {tuple(code) for code in unique[counts == 1].tolist()}
    for row, code in enumerate(wanted.tolist()):
        if tuple(code) in alone:
            assert result.resolved_by[row] == "nearest"


def test_a_full_prefix_gives_way_to_the_nearest_other_one() -> None:
    embeddings = make_embeddings(80)
    coder = ResidualCoder(levels=2, size=10)
    code = tuple(fit(coder, embeddings)[0].tolist())
    taken = Taken((code[0], last) for last in range(10))
    result = settle(coder, embeddings[:1], np.array([code], dtype=np.int32), taken)
    assert result.resolved_by == ("prefix",)
    order = coder.distances(embeddings[:1], np.zeros((1, 0), dtype=np.int32))[0].argsort()
    assert result.codes[0][0] == order[1]


def test_the_nearest_free_sibling_is_taken() -> None:
    embeddings = make_embeddings(80)
    coder = ResidualCoder(levels=2, size=10)
    code = fit(coder, embeddings)[:1]
    order = coder.distances(embeddings[:1], code[:, :1])[0].argsort()
    taken = Taken((int(code[0, 0]), int(last)) for last in order[:3])
    result = settle(coder, embeddings[:1], code, taken)
    assert result.resolved_by == ("sibling",)
    assert result.codes[0] == (code[0, 0], order[3])
    assert result.penalty_N[0] > 0


def test_more_tools_than_codes_is_an_input_error() -> None:
    tools = make_tools(40)
    with pytest.raises(InputError, match="40 tools do not fit into 20 codes") as error:
        fit_codebook(tools, make_embeddings(40), CodesSection(levels=1))
    assert "levels" in error.value.remedy


# -- vocabulary -----------------------------------------------------------------------------------


def test_token_names() -> None:
    assert code_tokens(2, 3) == [["<a_0>", "<a_1>", "<a_2>"], ["<b_0>", "<b_1>", "<b_2>"]]
    with pytest.raises(InputError, match="27 positions"):
        code_tokens(27, 2)


def test_code_tokens_enter_the_tokenizer_and_the_model(tmp_path: Path) -> None:
    """Check 20: each token is one id in five contexts; both tables grow by exactly that."""
    for tied in (True, False):
        model, tokenizer = load_model(tmp_path / str(tied), tied=tied)
        before = len(tokenizer)
        tokens = code_tokens(4, 64)
        ids = add_code_tokens(tokenizer, model, tokens)
        flat = [token for level in tokens for token in level]
        assert len(tokenizer) == before + 256
        assert model.get_input_embeddings().weight.shape[0] == before + 256
        assert model.get_output_embeddings().weight.shape[0] == before + 256
        assert [i for level in ids for i in level] == list(range(before, before + 256))
        for number, token in enumerate(flat):
            for context in ("{}", "text{}", "text {}text", "\n{}\n", "<a_1>{}<b_2>"):
                encoded = tokenizer(context.format(token), add_special_tokens=False)["input_ids"]
                assert before + number in encoded
                codes = [i for i in encoded if i >= before]
                assert len(codes) == (3 if "<a_1>" in context else 1)
        text = "".join(level[7] for level in tokens)
        assert tokenizer.decode([level[7] for level in ids], skip_special_tokens=True) == text
        assert add_code_tokens(tokenizer, model, tokens) == ids
        assert len(tokenizer) == before + 256


def test_spare_rows_of_a_model_are_used_first(tmp_path: Path) -> None:
    model, tokenizer = load_model(tmp_path)
    model.resize_token_embeddings(len(tokenizer) + 100, mean_resizing=False)
    add_code_tokens(tokenizer, model, code_tokens(2, 8))
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) - 16 + 100


def test_embeddings_are_means_of_the_last_states(model_and_tokenizer: tuple[Any, Any]) -> None:
    check_embeddings(*model_and_tokenizer)


def test_a_multimodal_model_embeds_as_its_text_model_does(tmp_path: Path) -> None:
    check_embeddings(*read_model(tiny_multimodal(tmp_path / "model")))


def check_embeddings(model: Any, tokenizer: Any) -> None:
    import torch

    texts = [text_of(tool) for tool in make_tools(7)] + ["x"]
    model.train()
    embeddings = embed_documents(model, tokenizer, texts, batch=3)
    assert model.training
    model.eval()
    for text, row in zip(texts, embeddings, strict=True):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[-1]
        assert np.abs(states[0].mean(dim=0).numpy() - row).max() < 1e-4
    again = embed_documents(model, tokenizer, texts, batch=3)
    assert np.array_equal(again, embeddings)
    with pytest.raises(ValueError, match="without tokens"):
        embed_documents(model, tokenizer, [""])


# -- codebook -------------------------------------------------------------------------------------


@pytest.fixture()
def codebook() -> Codebook:
    return fit_codebook(make_tools(96), make_embeddings(96), seed=1)


def test_fit_gives_every_tool_its_own_code(codebook: Codebook) -> None:
    codes = [entry.code for entry in codebook.tools]
    assert len(set(codes)) == len(codebook) == 96
    report = codebook.report
    assert report.moved == sum(entry.resolved_by != "nearest" for entry in codebook.tools)
    assert report.moved <= 2 * report.collisions_before
    assert all(0 < bits <= np.log2(12) for bits in report.usage_entropy)
    assert codebook.summary()["num_tools"] == 96
    assert codebook.outliers == frozenset()


def test_the_order_of_insertion_is_that_of_the_arguments() -> None:
    tools, embeddings = make_tools(64), make_embeddings(64)
    order = np.random.default_rng(0).permutation(64)
    for rows in (range(64), order):
        codebook = fit_codebook([tools[row] for row in rows], embeddings[list(rows)])
        assert codebook.tool_ids == tuple(tools[row].id for row in rows)


def test_equal_tools_are_coded_once_where_the_first_stands() -> None:
    tools, embeddings = make_tools(20), make_embeddings(21)
    twice = [*tools[:10], tools[3], *tools[10:]]
    codebook = fit_codebook(twice, embeddings)
    once = fit_codebook(tools, np.delete(embeddings, 10, axis=0))
    assert codebook.tools == once.tools and codebook.sha() == once.sha()
    assert order_of(twice)[tools[3].id] == 3


def test_texts_and_codes(codebook: Codebook) -> None:
    entry = codebook.tools[5]
    text = codebook.code_text(entry.tool.id)
    assert text == "".join(f"<{'abcdefgh'[p]}_{n}>" for p, n in enumerate(entry.code))
    assert codebook.parse(text) == codebook.parse(f" {text}\n") == entry.code
    assert codebook.tool_of(text) == entry.tool
    tokens = [level[number] for level, number in zip(codebook.tokens, entry.code, strict=True)]
    for wrong in (
        "",
        "".join(tokens[:-1]),
        text + "<a_0>",
        "".join(tokens[::-1]),
        text + "x",
        text.replace("_", "-"),
        text.replace(tokens[0], "<a_999>"),
        text.replace(tokens[0], "<a_01>"),
    ):
        assert codebook.parse(wrong) is None
        assert codebook.tool_of(wrong) is None
    with pytest.raises(KeyError):
        codebook.code_text("t_unknown")


def test_a_free_code_parses_but_names_no_tool(codebook: Codebook) -> None:
    taken = {entry.code for entry in codebook.tools}
    free = next(code for code in np.ndindex(*codebook.coder.sizes) if code not in taken)
    assert codebook.parse(codebook.text_of(free)) == free
    assert codebook.tool_of(codebook.text_of(free)) is None


def test_new_tools_get_unique_codes_the_same_on_repetition() -> None:
    """Check 27: 100 new documents, 100 unique leaves, identical on repetition, in any split."""
    new, points = make_tools(100, start=1000), make_embeddings(100, seed=7)
    results = []
    for chunks in ([range(100)], [range(1), range(1, 40), range(40, 100)]):
        codebook = fit_codebook(make_tools(96), make_embeddings(96), seed=1)
        old = {entry.tool.id: entry.code for entry in codebook.tools}
        for rows in chunks:
            grown = add_tools(codebook, [new[row] for row in rows], points[list(rows)])
            assert [entry.tool for entry in grown.added] == [new[row] for row in rows]
            assert grown.full is None and len(codebook) + len(rows) == len(grown.codebook)
            codebook = grown.codebook
        assert len({entry.code for entry in codebook.tools}) == len(codebook) == 196
        assert all(codebook.code_of(known) == code for known, code in old.items())
        results.append(codebook.tools)
    assert results[0] == results[1]
    again = add_tools(codebook, new[:5], points[:5])
    assert again.added == () and again.codebook.tools == codebook.tools


def test_near_duplicates_share_the_first_level(codebook: Codebook) -> None:
    """Check 27: at least 60 % of slightly changed documents share the first number."""
    noise = np.random.default_rng(5).normal(size=(96, 1, WIDTH)).astype(np.float32) * 0.05
    known = {entry.tool.id: entry.code for entry in codebook.tools}
    added = add_tools(codebook, make_tools(96, start=2000), make_embeddings(96) + noise).added
    originals = [known[tool.id] for tool in make_tools(96)]
    same = [a.code[0] == b[0] for a, b in zip(added, originals, strict=True)]
    assert np.mean(same) >= 0.6


def test_far_tools_are_marked_and_keep_a_code(codebook: Codebook) -> None:
    far = make_embeddings(2, seed=3)
    far[1] += np.random.default_rng(8).normal(size=(1, WIDTH)).astype(np.float32) * 30
    grown = add_tools(codebook, make_tools(2, start=500), far)
    codebook, (near, outlier) = grown.codebook, grown.added
    assert outlier.ood
    assert outlier.error > codebook.report.outlier_error
    assert codebook.outliers == {outlier.tool.id} | ({near.tool.id} if near.ood else set())
    assert codebook.tool_of(codebook.text_of(outlier.code)) == outlier.tool


def test_refresh_keeps_codes_and_meaning_in_a_turned_space(codebook: Codebook) -> None:
    before = {entry.tool.id: entry.code for entry in codebook.tools}
    points = make_embeddings(96)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(WIDTH, WIDTH)))[0]
    codebook = refresh(codebook, (points @ turn * 3 - 1).astype(np.float32))
    assert {entry.tool.id: entry.code for entry in codebook.tools} == before
    share = codebook.report.reencoded
    kept = 1 - codebook.report.moved / 96
    assert kept - 0.2 <= share <= 1
    noise = np.random.default_rng(5).normal(size=(1, 1, WIDTH)) * 0.02
    twin = make_tools(1, start=900)
    (added,) = add_tools(
        codebook, twin, ((points[:1] + noise) @ turn * 3 - 1).astype(np.float32)
    ).added
    assert added.code[0] == codebook.tools[0].code[0]


def test_refresh_needs_all_tools(codebook: Codebook) -> None:
    with pytest.raises(ValueError, match="96 tools, 95 embeddings"):
        refresh(codebook, make_embeddings(95))


def test_install_save_and_load(tmp_path: Path, model_and_tokenizer: tuple[Any, Any]) -> None:
    """A checkpoint folder with codes: rows as reframed, tries in the tokenizer's ids, all back."""
    import copy

    model, tokenizer = (copy.deepcopy(part) for part in model_and_tokenizer)
    tools = make_tools(96)
    texts = {tool.id: text_of(tool) for tool in tools}
    codebook = fit_codebook(tools, embed_documents(model, tokenizer, list(texts.values())))
    ordered = [texts[entry.tool.id] for entry in codebook.tools]
    embeddings = embed_documents(model, tokenizer, ordered)
    norms = [float(weight.detach().norm(dim=1).mean()) for weight in tables_of(model)]
    ids = install(codebook, model, tokenizer, embeddings, how="scaled")
    rows = codebook.coder.rows(Seen(as_NVD(embeddings)), codebook.codes)
    assert rows is not None
    for weight, norm in zip(tables_of(model), norms, strict=True):
        written = weight.detach().numpy()[np.array(ids)]
        assert np.abs(np.linalg.norm(written, axis=2) / norm - 1).max() < 1e-4
        for position, wanted in enumerate(rows):
            unit = wanted / np.linalg.norm(wanted, axis=1)[:, None] * norm
            assert np.abs(written[position] - unit).max() < 1e-4
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_codebook(codebook, tmp_path, tokenizer)

    loaded = load_codebook(tmp_path)
    assert loaded is not None
    assert loaded.tools == codebook.tools
    assert loaded.report == codebook.report
    assert loaded.summary() == codebook.summary()
    assert loaded.grammar_path is not None
    trie, grammar = Trie.load(loaded.trie_path), Trie.load(loaded.grammar_path)
    assert trie.end == grammar.end == tokenizer.eos_token_id
    for entry in loaded.tools:
        encoded = tokenizer(loaded.text_of(entry.code), add_special_tokens=False)["input_ids"]
        assert len(encoded) == loaded.num_levels
        assert trie.lookup(encoded) == entry.tool.id
        assert encoded in grammar
    first_in_use = sorted(ids[0][n] for n in {entry.code[0] for entry in loaded.tools})
    assert grammar.allowed(0).tolist() == first_in_use
    assert isinstance(loaded.coder, LevelCoder) and isinstance(codebook.coder, LevelCoder)
    assert np.array_equal(
        loaded.coder.encode(as_NVD(embeddings)).codes_NP,
        codebook.coder.encode(as_NVD(embeddings)).codes_NP,
    )


def test_a_random_model_under_the_trie_only_names_tools(
    tmp_path: Path, model_and_tokenizer: tuple[Any, Any]
) -> None:
    """Check 21: constrained samples are always tools; unconstrained ones of this model are not."""
    import copy

    import torch

    model, tokenizer = (copy.deepcopy(part) for part in model_and_tokenizer)
    tools = make_tools(48)
    codebook = fit_codebook(tools, embed_documents(model, tokenizer, [text_of(t) for t in tools]))
    ids = add_code_tokens(tokenizer, model, codebook.tokens)
    trie = Trie.load(save_codebook(codebook, tmp_path, tokenizer).trie_path)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.tensor([tokenizer("Find a tool")["input_ids"]])
    found = []
    with torch.no_grad():
        for constrained in (True, False):
            for _ in range(50):
                node, tokens = 0, prompt
                for _ in range(codebook.num_levels + 1):
                    logits = model(tokens).logits[0, -1]
                    mask = torch.full_like(logits, -torch.inf if constrained else 0.0)
                    mask[torch.from_numpy(trie.allowed(node).astype(np.int64))] = 0
                    token = torch.multinomial((logits + mask).softmax(0), 1, generator=generator)
                    tokens = torch.cat([tokens, token[None]], dim=1)
                    node = trie.step(node, int(token))
                text = tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)
                found.append((constrained, codebook.tool_of(text) is not None))
    assert all(named for constrained, named in found if constrained)
    assert not all(named for constrained, named in found if not constrained)
    assert len(ids) == codebook.num_levels


def saved(folder: Path) -> SavedCodebook:
    """A checkpoint folder with everything but weights."""
    codebook = fit_codebook(make_tools(40), make_embeddings(40))
    from transformers import AutoTokenizer

    tokens = [token for level in codebook.tokens for token in level]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(folder, extra_tokens=tokens))
    return save_codebook(codebook, folder, tokenizer)


def test_a_folder_without_codes_has_no_codebook(tmp_path: Path) -> None:
    assert load_codebook(tmp_path) is None


def test_a_tokenizer_without_the_code_tokens_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "good")
    other = tiny_model(tmp_path / "bare") / "tokenizer.json"
    (tmp_path / "good" / "tokenizer.json").write_bytes(other.read_bytes())
    with pytest.raises(ModelError, match="lacks the code token <a_0>") as error:
        load_codebook(tmp_path / "good")
    assert error.value.where == str(tmp_path / "good")
    assert "tokenizer" in error.value.remedy
    (tmp_path / "good" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        load_codebook(tmp_path / "good")


def test_saving_with_a_tokenizer_without_the_tokens_is_refused(
    tmp_path: Path, codebook: Codebook
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path))
    with pytest.raises(ModelError, match="<a_0>"):
        save_codebook(codebook, tmp_path, tokenizer)
    assert not (tmp_path / "codes").exists()


def test_token_ids_that_moved_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        if token["content"] == "<b_1>":
            token["id"] += 7
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="<b_1> has id"):
        load_codebook(tmp_path)
    assert "<b_1>" in read_vocabulary(tmp_path)


@pytest.mark.parametrize("name", ["codebook.json", "tools.jsonl", "coder.npz"])
@pytest.mark.parametrize("damage", ["missing", "torn", "deep"])
def test_a_damaged_codebook_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    saved(tmp_path)
    path = tmp_path / "codes" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40] if damage == "torn" else b"[" * 100_000)
    with pytest.raises(ModelError, match="cannot read") as error:
        load_codebook(tmp_path)
    assert error.value.remedy


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name)
    for path in sorted((tmp_path / "a" / "codes").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / "codes" / path.name).read_bytes()


def test_loading_needs_neither_torch_nor_sklearn(tmp_path: Path) -> None:
    codebook = saved(tmp_path)
    text = codebook.code_text(codebook.tools[0].tool.id)
    program = (
        "import sys\n"
        "from factory.codes.saving import load_codebook\n"
        "codebook = load_codebook(sys.argv[1])\n"
        "print(codebook.tool_of(sys.argv[2]).name, codebook.trie_path.name)\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), text],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [codebook.tools[0].tool.name, "trie.npz"]
