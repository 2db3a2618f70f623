"""Retrieval by code: the beam against brute force, and the command against real files."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import code_names, tiny_model, tiny_multimodal
from test_codes import make_tools
from workspaces import make_workspace, run_factory

from factory.codes.growing import fit_codebook
from factory.codes.install import install
from factory.codes.saving import save_codebook
from factory.codes.trie import Trie
from factory.domain.failures import ModelError
from factory.domain.records import Constraint, Request, Sampling
from factory.engines.beam import BeamSearch, Ranking
from factory.engines.transformers import TransformersBackend
from factory.workspace.recipe import CodesSection
from factory.workspace.settings import EngineSection

LEVELS, SIZE, NUM_TOOLS = 3, 12, 500


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[list[int]]]:
    """A random model and the ids of its code tokens by level."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = code_names(LEVELS, SIZE)
    folder = tiny_model(
        tmp_path_factory.mktemp("models") / "toy",
        extra_tokens=[token for level in names for token in level],
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(level) for level in names]
    return AutoModelForCausalLM.from_pretrained(folder).eval(), ids


def make_trie(level_ids: list[list[int]], end: int, *, mixed: bool = False) -> Trie:
    """500 codes of three tokens; `mixed` cuts some short, also to prefixes of others."""
    rng = np.random.default_rng(3)
    numbers = rng.permutation(SIZE**LEVELS)[:NUM_TOOLS]
    codes = {
        tuple(level_ids[level][number // SIZE**level % SIZE] for level in range(LEVELS))
        for number in numbers.tolist()
    }
    if mixed:
        codes |= {code[:2] for code in sorted(codes)[:40]} | {code[:1] for code in codes}
    return Trie.build(sorted(codes), [f"t_{n}" for n in range(len(codes))], end)


def make_prompts(num: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(6, 300, rng.integers(3, 20)).tolist() for _ in range(num)]


def rank_all(model: Any, trie: Trie, prompt: Sequence[int], k: int) -> list[tuple[str, float]]:
    """Brute force: the log-probability of every code and its end, each in a pass of its own row."""
    import torch

    scored = []
    codes = [*trie.codes()]
    for length in {len(code) for code, _ in codes}:
        some = [(code, name) for code, name in codes if len(code) == length]
        ids_NT = torch.tensor([[*prompt, *code, trie.end] for code, _ in some])
        with torch.inference_mode():
            logprobs_NTV = model(input_ids=ids_NT).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        total_N = logprobs_NTV.gather(2, ids_NT[:, len(prompt) :, None])[..., 0].sum(1)
        scored += [(name, score) for (_, name), score in zip(some, total_N.tolist(), strict=True)]
    return sorted(scored, key=lambda pair: -pair[1])[:k]


def assert_equal(ranking: Ranking, expected: list[tuple[str, float]], trie: Trie) -> None:
    assert [code.tool_id for code in ranking.codes] == [name for name, _ in expected]
    assert [code.score for code in ranking.codes] == pytest.approx(
        [score for _, score in expected], abs=1e-3
    )
    assert all(trie.lookup(ranked.code) == ranked.tool_id for ranked in ranking.codes)


@pytest.mark.parametrize("mixed", [False, True], ids=["equal lengths", "mixed lengths"])
def test_an_exact_beam_equals_brute_force(toy: tuple[Any, list[list[int]]], mixed: bool) -> None:
    model, level_ids = toy
    trie = make_trie(level_ids, model.config.eos_token_id, mixed=mixed)
    prompts = make_prompts(16)
    search = BeamSearch(model, trie)
    expected = [rank_all(model, trie, prompt, 5) for prompt in prompts]
    for ranking, ranks in zip(
        search.search(prompts, k=5, beams=5, exact=True), expected, strict=True
    ):
        assert ranking.exact
        assert_equal(ranking, ranks, trie)
    narrow = search.search(prompts, k=5, beams=5)
    for ranking, ranks in zip(narrow, expected, strict=True):
        if ranking.exact:
            assert_equal(ranking, ranks, trie)
    assert not all(ranking.exact for ranking in narrow)


@pytest.mark.parametrize("num_shared", [0, 7, 20])
def test_a_ranking_does_not_depend_on_its_batch(
    toy: tuple[Any, list[list[int]]], num_shared: int
) -> None:
    model, level_ids = toy
    trie = make_trie(level_ids, model.config.eos_token_id)
    search = BeamSearch(model, trie)
    start = [*range(30, 30 + num_shared)]
    prompts = [start + prompt for prompt in make_prompts(12)]
    prompts.append(start or [7])
    alone = [search.search([prompt], k=5, beams=10)[0] for prompt in prompts]
    for max_tokens in (40, 100, 1024):
        together = search.search(prompts, k=5, beams=10, max_tokens=max_tokens)
        for one, other in zip(together, alone, strict=True):
            assert_equal(one, [(code.tool_id, code.score) for code in other.codes], trie)
            assert one.exact == other.exact
    assert search.search([], k=5, beams=5) == []


def make_decoder(toy: tuple[Any, list[list[int]]], kind: str, **values: Any) -> Any:
    """A random model of another kind over the toy's vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    end = toy[0].config.eos_token_id
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "vocab_size": toy[0].config.vocab_size}
    if not kind.startswith("gpt_neox"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    tokens = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": 0}
    config = AutoConfig.for_model(
        kind, **sizes, **tokens, initializer_range=0.3, dtype="float32", **values
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen3"])
def test_any_decoder_that_is_told_positions_can_search(
    toy: tuple[Any, list[list[int]]], kind: str
) -> None:
    model = make_decoder(toy, kind)
    trie = make_trie(toy[1], model.config.eos_token_id)
    prompts = [[7] * 9, *([7] * 9 + prompt for prompt in make_prompts(3))]
    found = BeamSearch(model, trie).search(prompts, k=5, beams=5, exact=True)
    for ranking, prompt in zip(found, prompts, strict=True):
        assert ranking.exact
        assert_equal(ranking, rank_all(model, trie, prompt, 5), trie)


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma2", "gpt_oss"])
def test_a_sliding_window_moves_with_the_branch(
    toy: tuple[Any, list[list[int]]], kind: str
) -> None:
    """Alone and in layers between others, with prompts and codes inside the window and beyond."""
    window = 16
    sliding = {"sliding_window": window, "max_window_layers": 1, "use_sliding_window": True}
    model = make_decoder(toy, kind, **sliding)
    trie = make_trie(toy[1], model.config.eos_token_id)
    inside = [prompt[: window - LEVELS] for prompt in make_prompts(4)]
    # Prompts that end as the window does, and longer ones whose shared start it leaves.
    beyond = [prompt[:14] for prompt in make_prompts(12) if len(prompt) > 13]
    beyond += [[*range(30, 42), *prompt] for prompt in make_prompts(4)]
    wide = make_decoder(toy, kind, **sliding | {"sliding_window": 512})
    wide.load_state_dict(model.state_dict())
    for prompts, is_inside in ((inside, True), (beyond, False)):
        search = BeamSearch(model, trie)
        found = search.search(prompts, k=5, beams=5, exact=True)
        for ranking, prompt in zip(found, prompts, strict=True):
            assert ranking.exact
            assert_equal(ranking, rank_all(model, trie, prompt, 5), trie)
        unbounded = BeamSearch(wide, trie).search(prompts, k=5, beams=5, exact=True)
        scores, others = (
            [hit.score for ranking in rankings for hit in ranking.codes]
            for rankings in (found, unbounded)
        )
        assert (scores == pytest.approx(others, abs=1e-3)) is is_inside


def test_a_multimodal_decoder_is_searched_as_the_text_model_that_it_holds(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = code_names(LEVELS, SIZE)
    tokens = [token for level in names for token in level]
    folder = tiny_multimodal(tmp_path / "model", extra_tokens=tokens)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(level) for level in names]
    trie = make_trie(ids, tokenizer.eos_token_id)
    prompts = [[7] * 9, *([7] * 9 + prompt for prompt in make_prompts(3))]
    found = BeamSearch(model, trie).search(prompts, k=5, beams=5, exact=True)
    for ranking, prompt in zip(found, prompts, strict=True):
        assert ranking.exact
        assert_equal(ranking, rank_all(model, trie, prompt, 5), trie)


@pytest.mark.parametrize(
    ("kind", "layers", "values"),
    [
        ("lfm2", "conv", {"layer_types": ["conv", "full_attention"]}),
        ("qwen3_next", "linear_attention", {"layer_types": ["linear_attention", "full_attention"]}),
        ("recurrent_gemma", "recurrent", {"block_types": ["recurrent", "attention"]}),
    ],
)
def test_a_decoder_with_a_state_is_refused(
    toy: tuple[Any, list[list[int]]], kind: str, layers: str, values: dict[str, Any]
) -> None:
    model = make_decoder(toy, kind, **values)
    with pytest.raises(ModelError, match=f"a {kind} model has layers .*{layers}") as refused:
        BeamSearch(model, make_trie(toy[1], model.config.eos_token_id))
    assert "all attention" in refused.value.remedy


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("llama4_text", {"attention_chunk_size": 40, "num_local_experts": 2}),
        ("gpt_neo", {"window_size": 40, "attention_types": [[["global", "local"], 1]]}),
        ("doge", {"keep_window_size": 40}),
    ],
)
def test_what_a_decoder_counts_by_places_must_hold_prompt_and_branches(
    toy: tuple[Any, list[list[int]]], kind: str, values: dict[str, Any]
) -> None:
    model = make_decoder(toy, kind, **values)
    trie = make_trie(toy[1], model.config.eos_token_id).only([f"t_{n}" for n in range(10)])
    search, prompt = BeamSearch(model, trie), [*range(30, 40)]
    (ranking,) = search.search([prompt], k=5, beams=10)
    assert ranking.exact
    assert_equal(ranking, rank_all(model, trie, prompt, 5), trie)
    with pytest.raises(ModelError, match="prompt of 11 tokens with 10 branches of 3 takes 41 pla"):
        search.search([[7, *prompt]], k=5, beams=10)
    assert search.fits(10, 10) and not search.fits(11, 10)
    longer = [*prompt, *range(15)]
    (narrow,) = search.search([longer], k=5, beams=5, exact=True)
    assert len(narrow.codes) == 5 and search.fits(25, 5) and not search.fits(25, 10)


@pytest.mark.parametrize("kind", ["mpt", "bloom"])
def test_a_decoder_that_counts_its_own_positions_is_refused(
    toy: tuple[Any, list[list[int]]], kind: str
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **sizes, vocab_size=toy[0].config.vocab_size)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=f"a {kind} model cannot be told"):
        BeamSearch(model, make_trie(toy[1], 2))


def test_a_broken_model_ends_an_exact_search(toy: tuple[Any, list[list[int]]]) -> None:
    import torch

    model, level_ids = copy.deepcopy(toy[0]), toy[1]
    with torch.no_grad():
        model.lm_head.weight[level_ids[0][0]] = float("nan")
    search = BeamSearch(model, make_trie(level_ids, model.config.eos_token_id))
    rankings = search.search(make_prompts(2), k=5, beams=5, exact=True)
    assert not any(ranking.exact for ranking in rankings)


def test_a_catalogue_smaller_than_k_comes_back_whole(toy: tuple[Any, list[list[int]]]) -> None:
    model, level_ids = toy
    trie = make_trie(level_ids, model.config.eos_token_id)
    few = trie.only(["t_3", "t_77", "t_400"])
    (ranking,) = BeamSearch(model, few).search(make_prompts(1), k=5, beams=8)
    assert {code.tool_id for code in ranking.codes} == {"t_3", "t_77", "t_400"}
    assert ranking.exact
    assert_equal(ranking, rank_all(model, few, make_prompts(1)[0], 3), few)
    (nothing,) = BeamSearch(model, few.only([])).search(make_prompts(1), k=5, beams=5)
    assert nothing.codes == () and nothing.exact


def test_the_command_finds_tools_of_the_shipped_model(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws").root
    (workspace / "requests.jsonl").write_text(
        '{"query": "Book a table for 4 people on Friday."}\n'
        'no json\n{"query": "' + "🜚" * 900 + '"}\n',
        encoding="utf-8",
    )
    done = run_factory(
        "retrieve", "--queries", "requests.jsonl", "-k", "3", "--json", cwd=workspace, code=1
    )
    answer, too_long = [json.loads(line) for line in done.stdout.splitlines()]
    assert "requests.jsonl:2" in done.stderr
    assert too_long["reason"] == "prompt_too_long" and too_long["tools"] == []
    scores = [tool["score"] for tool in answer["tools"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and scores[0] < 0
    assert all(tool["code"].startswith("<a_") for tool in answer["tools"])
    shown = run_factory("retrieve", answer["query"], "-k", "3", "--exact", cwd=workspace).stdout
    assert shown.splitlines()[0].split() == ["tool", "score", "code", "tool_id"]
    assert answer["tools"][0]["tool_id"] in shown


def test_command_and_engine_refuse_a_decoder_with_a_state(
    toy: tuple[Any, list[list[int]]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = make_decoder(toy, "lfm2", layer_types=["conv", "full_attention"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "plain"))
    codebook = fit_codebook(make_tools(20), None, CodesSection(coder="atomic"))
    install(codebook, model, tokenizer)
    checkpoint = tmp_path / "checkpoint"
    for part in (model, tokenizer):
        part.save_pretrained(checkpoint)
    save_codebook(codebook, checkpoint, tokenizer)
    workspace = make_workspace(tmp_path / "ws").root
    done = run_factory("retrieve", "x", "--checkpoint", str(checkpoint), cwd=workspace, code=2)
    assert "a lfm2 model has layers" in done.stderr and "all attention" in done.stderr
    assert str(checkpoint) in done.stderr.replace("\n", "")
    backend = TransformersBackend(checkpoint, EngineSection(threads=1, max_model_len=64))
    bound = Constraint(trie=str(checkpoint / "codes" / "trie.npz"))
    search = Request(id="r", prompt="x", sampling=Sampling(n=2, beam=True), constraint=bound)
    with pytest.raises(ModelError, match="a lfm2 model has layers") as refused:
        backend.add(0, search, [7, 8])
    assert 'backend = "vllm"' in refused.value.remedy and "decode" in refused.value.remedy


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws").root
    plain = tiny_model(tmp_path / "plain")
    for arguments, message in (
        (("retrieve",), "--queries"),
        (("retrieve", "x", "--queries", "y"), "--queries"),
        (("retrieve", "x", "-k", "5", "--beams", "3"), "beam of 3"),
        (("retrieve", "x", "--checkpoint", str(tmp_path / "none")), "there is no checkpoint"),
        (("retrieve", "x", "--checkpoint", str(plain)), "no codes"),
    ):
        done = run_factory(*arguments, cwd=workspace, code=2)
        assert message in done.stderr
