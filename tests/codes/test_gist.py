"""Gist compression: the cascaded mask, what training reaches, and a model left as it was."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_models import tiny_model

from factory.codes.gist import (
    TASKS,
    Gist,
    Readable,
    attached,
    embed_gists,
    encode_document,
    fit_gist,
    make_readable,
    resize_adapter,
)
from factory.domain.failures import ContentError, ModelError
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import GistSection, vary

torch = pytest.importorskip("torch")

PLACES = ("hotel", "flight", "museum", "garden", "library")
VERBS = ("book", "find", "cancel", "rate", "list", "open", "close", "move", "share", "count")


PROMPTS = Prompts.load(Workspace(shipped_root()))


def read(document: dict[str, Any]) -> Readable:
    """A document in the shipped layout."""
    return make_readable(PROMPTS.render("codes/compress", tool=document), document)


def documents() -> list[Readable]:
    """50 small tools, each with all four fields."""
    tools = []
    for verb in VERBS:
        for place in PLACES:
            name = f"{verb}_{place}"
            document = {
                "category_name": place,
                "name": name,
                "description": f"{verb.title()} a {place}.",
                "arguments": {"type": "object", "properties": {f"{place}_id": {}}},
            }
            tools.append(read(document))
    return tools


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("gist") / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


CONFIG = GistSection(views=2, rank=8, alpha=32, dropout=0.0, learning_rate=5e-3, epochs=3)


def test_fields_are_the_documents_own() -> None:
    arguments = {"properties": {"a": {}}}
    readable = make_readable("text", {"name": "f", "description": " ", "arguments": arguments})
    assert readable.fields == {"name": "f", "parameters": '{"properties": {"a": {}}}'}
    api = {"name": "f", "tool_name": "T", "arguments": {"type": "dict", "properties": {}}}
    assert make_readable("text", api).fields == {"name": "T\nf"}
    assert make_readable("text", {"name": "half_\ud83d_pair"}).fields == {"name": "half_?_pair"}
    assert set(documents()[0].fields) == set(TASKS)


def answered(document: Readable, tokenizer: Any) -> dict[str, str]:
    """Task to what is rebuilt of it."""
    answers = encode_document(document, tokenizer).answers.items()
    return {TASKS[task]: tokenizer.decode(ids[:-1]) for task, ids in answers}


@pytest.mark.parametrize("wording", ["Gets a thing, and says what it is. ", "Sieht gut aus: äöü. "])
def test_a_task_asks_for_what_was_read(loaded: tuple[Any, Any], wording: str) -> None:
    """Content is cut at 512 tokens and an answer at 127: what lies beyond is not asked for."""
    _, tokenizer = loaded
    api = {
        "category_name": "Things",
        "tool_name": "Thing Service",
        "name": "get_thing",
        "description": wording,
        "arguments": {"type": "dict", "properties": {"id": {"type": "string"}}, "required": []},
    }
    whole = read(api)
    assert answered(whole, tokenizer) == dict(whole.fields)
    assert list(whole.fields) == list(TASKS)
    long = answered(read({**api, "description": wording * 100}), tokenizer)
    assert list(long) == ["category", "name", "description"]
    assert (wording * 100).startswith(long["description"].rstrip("\ufffd"))
    del api["category_name"]
    assert list(answered(read(api), tokenizer)) == ["name", "description", "parameters"]
    told = make_readable("Tool: get_thing\nAPI: Thing Service", {**api, "category_name": "Things"})
    assert list(answered(told, tokenizer)) == ["name"]


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_two_passes_are_the_cascaded_mask(loaded: tuple[Any, Any], scale: float) -> None:
    """One pass over [content; gist; placeholder; task] under the mask of §2.2 gives the same."""
    model, tokenizer = loaded
    document = encode_document(documents()[7], tokenizer)
    with torch.random.fork_rng(), attached(model, CONFIG, 3, None) as gist, torch.no_grad():
        gist = replace(gist, scale=scale)
        gist.model.eval()
        states_1VD = gist.compress([document.content])
        ((task, answer),) = list(document.answers.items())[2:3]
        logs_1A, real_1A = gist.log_probs(states_1VD, [task], [answer])
        assert bool(real_1A.all())
        table = model.get_input_embeddings()
        blocks = [
            table(torch.tensor(document.content)),
            gist.gist_VD,
            scale * states_1VD[0],
            gist.indicator_MD[task][None],
            table(torch.tensor(answer[:-1])),
        ]
        content, views, task_length = len(document.content), len(gist.gist_VD), len(answer)
        total = content + 2 * views + task_length
        allowed = torch.tril(torch.ones(total, total, dtype=torch.bool))
        allowed[content + views :, : content + views] = False
        logits_LW = gist.model(
            inputs_embeds=torch.cat(blocks)[None],
            attention_mask=torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None],
            use_cache=False,
        ).logits[0, content + 2 * views :]
        expected_A = torch.log_softmax(logits_LW, dim=-1)[torch.arange(task_length), answer]
    assert torch.allclose(logs_1A[0], expected_A, atol=2e-5)


def test_the_document_is_seen_through_the_gists_alone(loaded: tuple[Any, Any]) -> None:
    """Check 13."""
    model, tokenizer = loaded
    one, other = (encode_document(document, tokenizer) for document in documents()[:2])
    ((task, answer),) = list(one.answers.items())[:1]
    with torch.random.fork_rng(), attached(model, CONFIG, 3, None) as gist, torch.no_grad():
        gist.model.eval()
        mine, others = gist.compress([one.content]), gist.compress([other.content])
        told = gist.log_probs(mine, [task], [answer])[0]
        beside = gist.log_probs(torch.cat([mine, others]), [task, task], [answer, answer])[0]
        assert torch.allclose(told[0], beside[0], atol=1e-5)
        assert (beside[0] - beside[1]).abs().max() > 1e-4


def test_states_are_read_at_the_length_of_input_rows(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    """A13: a scalar found once stays with the compression, and can be left out."""
    model, tokenizer = loaded
    readable = documents()[:8]
    norm = float(model.get_input_embeddings().weight.detach().norm(dim=1).mean())
    config = vary(CONFIG, epochs=1)
    ids = [encode_document(one, tokenizer).content for one in readable]
    with torch.random.fork_rng(), attached(model, config, 3, None) as compressor:
        scaled = np.linalg.norm(compressor.embed(ids) * compressor.find_scale(ids), axis=2)
    assert scaled.mean() == pytest.approx(norm, rel=1e-5)

    gist = fit_gist(model, tokenizer, readable, config)
    assert 0 < gist.scale < 0.5
    assert fit_gist(model, tokenizer, readable, config, start=gist).scale == gist.scale
    plain = fit_gist(model, tokenizer, readable, vary(config, rescale=False), start=gist)
    assert plain.scale == 1.0
    again = fit_gist(model, tokenizer, readable, config, start=plain)
    assert again.scale == pytest.approx(gist.scale, rel=0.1)

    gist.save(tmp_path / "gist.safetensors")
    again = Gist.load(tmp_path / "gist.safetensors")
    assert (again.scale, again.prompt) == (gist.scale, "codes/compress")


def test_models_that_lengthen_rows_read_states_as_long_as_words(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    """Gemma multiplies input rows by sqrt(D), which embeddings given in their place bypass."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = loaded[1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
            )
        )
        ids = [encode_document(one, tokenizer).content for one in documents()[:8]]
        with attached(model, CONFIG, 3, None) as compressor:
            words = compressor.look_up(torch.arange(len(tokenizer))).detach().norm(dim=1)
            scaled = np.linalg.norm(compressor.embed(ids) * compressor.find_scale(ids), axis=2)
            new = torch.cat([compressor.gist_VD, compressor.indicator_MD]).detach().norm(dim=1)
    row = float(model.get_input_embeddings().weight.detach().norm(dim=1).mean())
    assert float(words.mean()) == pytest.approx(8 * row, rel=0.01)
    assert scaled.mean() == pytest.approx(float(words.mean()), rel=0.01)
    assert float(new.mean()) == pytest.approx(float(words.mean()), rel=0.2)


def test_no_more_answers_are_scored_at_once_than_a_step_has(loaded: tuple[Any, Any]) -> None:
    """What limits memory limits it where the held-out loss is taken, too."""
    model, tokenizer = loaded
    sizes = []
    head = model.get_output_embeddings()
    watch = head.register_forward_hook(lambda _, __, logits: sizes.append(len(logits)))
    config = vary(CONFIG, batch_size=5, held_out=0.8, epochs=1)
    fit_gist(model, tokenizer, documents()[:20], config)
    watch.remove()
    assert max(sizes) <= 5 + 3 and sum(sizes) == (16 + 4 + 16) * 4


def test_compression_saved_before_there_was_a_scale_stays_as_it_was(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    model, tokenizer = loaded
    config = vary(CONFIG, epochs=1, rescale=False)
    gist = fit_gist(model, tokenizer, documents()[:4], config)
    path = tmp_path / "gist.safetensors"
    gist.save(path)
    with safe_open(path, framework="pt") as file:
        head = json.loads(file.metadata()["gist"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del head["scale"], head["prompt"], head["config"]["rescale"]
    save_file(tensors, path, metadata={"gist": json.dumps(head)})
    early = Gist.load(path)
    assert (early.config, early.scale, early.prompt) == (config, 1.0, "codes/encode")


def test_padding_changes_no_state(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    gist = fit_gist(model, tokenizer, documents()[:4], GistSection(views=2, rank=2, epochs=1))
    texts = ["short", "a text that is a good deal longer than the other one"]
    together_NVD = embed_gists(model, tokenizer, gist, texts)
    for row, text in enumerate(texts):
        alone_1VD = embed_gists(model, tokenizer, gist, [text])
        np.testing.assert_allclose(together_NVD[row], alone_1VD[0], atol=1e-5)
    assert together_NVD.shape == (2, 2, model.config.hidden_size)


def test_training_rebuilds_documents_and_leaves_the_model_alone(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    """Check 14: the loss falls by 70 %, and another document's states at least double it."""
    model, tokenizer = loaded
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heard = []
    config = GistSection(
        views=4, dropout=0.0, learning_rate=1e-3, weight_decay=0.0, epochs=60, held_out=0.3
    )
    gist = fit_gist(model, tokenizer, documents(), config, seed=5, report=heard.append)
    assert [epoch.number for epoch in heard] == list(range(len(gist.epochs)))
    assert min(epoch.held_out for epoch in gist.epochs) <= 0.3 * gist.epochs[0].held_out
    encoded = [encode_document(document, tokenizer) for document in documents()]
    with torch.random.fork_rng(), attached(model, config, gist.seed, gist) as compressor:
        assert compressor.measure(encoded, shuffle=True) >= 2 * compressor.measure(encoded)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "peft_config")

    gist.save(tmp_path / "gist.safetensors")
    texts = [document.content for document in documents()[:5]]
    again = Gist.load(tmp_path / "gist.safetensors")
    assert again.config == gist.config and len(again.epochs) == len(gist.epochs)
    np.testing.assert_array_equal(
        embed_gists(model, tokenizer, again, texts), embed_gists(model, tokenizer, gist, texts)
    )


def test_the_same_seed_gives_the_same_compression(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    config = GistSection(views=2, rank=2, epochs=1)
    one, two = (fit_gist(model, tokenizer, documents()[:6], config, seed=5) for _ in range(2))
    assert torch.equal(one.gist_VD, two.gist_VD)
    assert all(torch.equal(one.adapter[name], two.adapter[name]) for name in one.adapter)


def test_training_can_go_on_from_an_earlier_one(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    first = fit_gist(model, tokenizer, documents()[:10], CONFIG)
    again = fit_gist(model, tokenizer, documents()[:10], CONFIG, start=first)
    best = min(epoch.held_out for epoch in first.epochs)
    assert again.epochs[0].held_out == pytest.approx(best, rel=1e-4)


def test_merged_adapters_are_the_models_own_and_read_documents_as_before(
    loaded: tuple[Any, Any],
) -> None:
    """The control is the same compression beside a model that stays as it was."""
    model, tokenizer = loaded
    one = copy.deepcopy(model)
    apart = fit_gist(model, tokenizer, documents()[:10], CONFIG, seed=3)
    merged = fit_gist(one, tokenizer, documents()[:10], vary(CONFIG, merge=True), seed=3)
    assert [e.held_out for e in merged.epochs] == [e.held_out for e in apart.epochs]
    texts = [document.content for document in documents()[:12]]
    states = (
        embed_gists(model, tokenizer, apart, texts),
        embed_gists(one, tokenizer, merged, texts),
    )
    np.testing.assert_allclose(*states, rtol=2e-3, atol=2e-4)
    plain = replace(apart, adapter=merged.adapter)
    assert np.abs(embed_gists(model, tokenizer, plain, texts) - states[0]).max() > 0.1
    moved = [n for n, v in one.state_dict().items() if not torch.equal(v, model.state_dict()[n])]
    assert len(moved) == 14 and all("proj" in name for name in moved)
    assert not hasattr(one, "peft_config")
    again = fit_gist(
        one, tokenizer, documents()[:10], vary(CONFIG, merge=True), seed=3, start=merged
    )
    best = min(epoch.held_out for epoch in merged.epochs)
    assert again.epochs[0].held_out == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize(("rank", "alpha"), [(8, 8), (12, 32), (3, 32)])
def test_training_goes_on_with_adapters_of_another_shape(
    loaded: tuple[Any, Any], rank: int, alpha: int
) -> None:
    model, tokenizer = loaded
    first = fit_gist(model, tokenizer, documents()[:10], CONFIG)
    config = vary(CONFIG, rank=rank, alpha=alpha, epochs=1)
    again = fit_gist(model, tokenizer, documents()[:10], config, start=first)
    best = min(epoch.held_out for epoch in first.epochs)
    # Fewer ranks hold less, but what they hold is far from a new start.
    near = 1e-4 if rank >= CONFIG.rank else 0.1
    assert again.epochs[0].held_out == pytest.approx(best, rel=near)
    assert best < 0.8 * first.epochs[0].held_out
    assert {len(t) for name, t in again.adapter.items() if "lora_A" in name} == {rank}


@pytest.mark.parametrize(
    ("width_out", "width_in", "rank", "fewer"),
    [
        (7, 9, 6, 2),
        # Narrower than the ranks on one side or both.
        (128, 576, 256, 192),
        (64, 32, 48, 40),
        (16, 64, 32, 20),
        (4, 32, 16, 8),
        (5, 4, 8, 6),
    ],
)
def test_fewer_ranks_keep_the_largest_singular_values(
    width_out: int, width_in: int, rank: int, fewer: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    a_RI = torch.randn(rank, width_in, generator=generator)
    b_OR = torch.randn(width_out, rank, generator=generator)
    old, new = GistSection(views=2, rank=rank, alpha=12), GistSection(views=2, rank=fewer, alpha=8)
    fresh_a, fresh_b = torch.ones(fewer, width_in), torch.zeros(width_out, fewer)
    fresh = {"q.lora_A.weight": fresh_a, "q.lora_B.weight": fresh_b}
    given = {"q.lora_A.weight": a_RI, "q.lora_B.weight": b_OR}
    found = resize_adapter(given, old, new, fresh)
    before_OI = (12 / rank * b_OR @ a_RI).numpy()
    after_OI = (8 / fewer * found["q.lora_B.weight"] @ found["q.lora_A.weight"]).numpy()
    left, values, right = np.linalg.svd(before_OI, full_matrices=False)
    wanted_OI = left[:, :fewer] * values[:fewer] @ right[:fewer]
    np.testing.assert_allclose(after_OI, wanted_OI, atol=1e-5 * values[0])
    kept = min(fewer, width_out, width_in)
    assert (found["q.lora_A.weight"][kept:] == 1).all()
    assert (found["q.lora_B.weight"][:, kept:] == 0).all()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gist.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot read the gist compression") as caught:
        Gist.load(path)
    assert caught.value.where == str(path)


def test_too_little_to_compress_is_refused(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="too few"):
        fit_gist(model, tokenizer, documents()[:1], CONFIG)
    empty = make_readable("text", {"name": "f_g"})
    with pytest.raises(ContentError, match="no field of the tool can be read in 'text'") as caught:
        fit_gist(model, tokenizer, [empty, empty], CONFIG)
    assert "codes/compress" in caught.value.remedy
