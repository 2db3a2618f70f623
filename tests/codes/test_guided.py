"""Post-guided training as SGTC's body has it: what moves, by which gradient, and what stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from conftest_models import tiny_model

from factory.codes.arrays import Floats
from factory.codes.codebook import Codebook, Fresh
from factory.codes.gist import (
    Epoch,
    Gist,
    attached,
    content_ids,
    embed_gists,
    encode_document,
    fit_gist,
    make_readable,
)
from factory.codes.growing import fit_codebook
from factory.codes.guided import CodedChat, Coding, _Guide, guide_gist, make_coding
from factory.codes.install import install
from factory.codes.recoding import recode
from factory.domain.canon import tool_id
from factory.domain.failures import RecipeError
from factory.domain.records import IGNORED, Tool
from factory.workspace.folder import Workspace, shipped_root
from factory.workspace.recipe import CodesSection, GistSection, load_recipe, vary

torch = pytest.importorskip("torch")

GIST = GistSection(views=2, rank=4, alpha=8, dropout=0.0, learning_rate=3e-3, epochs=2)
CODES = CodesSection(size=4, levels=2, min_tools=2, gist=GIST, recode_every=1, post_guided="body")
VERBS = ("book", "find", "cancel", "rate", "list", "open", "close", "move")
PLACES = ("hotel", "flight", "museum", "garden")


def make_tool(name: str) -> Tool:
    document = {"name": name, "description": f"Can {name}.", "arguments": {"type": "dict"}}
    return Tool(id=tool_id(document), document=document)


TOOLS = [make_tool(f"{verb}_{place}") for verb in VERBS for place in PLACES]
READABLE = [make_readable(f"Can {tool.name}.", tool.document) for tool in TOOLS]


@dataclass
class World:
    """A model with a codebook over gist states, as a first training leaves it."""

    model: Any
    tokenizer: Any
    gist: Gist
    codebook: Codebook
    embeddings_NVD: Floats

    def chats(self, codebook: Codebook) -> list[tuple[list[int], list[int]] | None]:
        """A request for each tool and, every fourth, a chat of two steps."""
        made = []
        for row, tool in enumerate(TOOLS):
            steps = [tool, TOOLS[row - 5]] if row % 4 == 0 else [tool]
            ids: list[int] = []
            labels: list[int] = []
            for step in steps:
                asked = self.tokenizer.encode(f"please {step.name}", add_special_tokens=False)
                code = self.tokenizer.encode(codebook.code_text(step.id), add_special_tokens=False)
                answer = [*code, self.tokenizer.eos_token_id]
                ids += asked + answer
                labels += [IGNORED] * len(asked) + answer
            made.append((ids, labels))
        return made

    def coding(
        self, codebook: Codebook, embeddings_NVD: Floats, fresh: Fresh | None = ()
    ) -> Coding:
        ids = install(codebook, self.model, self.tokenizer, embeddings_NVD, fresh=fresh)
        row_of = {tool.id: row for row, tool in enumerate(TOOLS)}
        order = [row_of[entry.tool.id] for entry in codebook.tools]
        assert order == list(range(len(TOOLS)))
        return make_coding(codebook, self.model, ids, embeddings_NVD, row_of, self.chats(codebook))

    def recode(self, heard: list[Floats | None]) -> Callable[[Floats | None], Coding]:
        def follow(embeddings_NVD: Floats | None) -> Coding:
            heard.append(embeddings_NVD)
            if embeddings_NVD is None:
                return self.coding(self.codebook, self.embeddings_NVD)
            new = recode(self.codebook, [], embeddings_NVD, CODES)
            return self.coding(new.codebook, embeddings_NVD, new.fresh)

        return follow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("guided") / "model", tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    gist = fit_gist(model, tokenizer, READABLE, vary(GIST, epochs=1), seed=1)
    texts = [document.content for document in READABLE]
    embeddings_NVD = embed_gists(model, tokenizer, gist, texts)
    codebook = fit_codebook(TOOLS, embeddings_NVD, CODES)
    install(codebook, model, tokenizer, embeddings_NVD)
    return World(model, tokenizer, gist, codebook, embeddings_NVD)


@pytest.fixture
def world(trained: World) -> World:
    """Its own copy for each test: guiding writes rows."""
    return replace(trained, model=copy.deepcopy(trained.model))


def test_code_tokens_of_a_chat_are_found(world: World) -> None:
    coding = world.coding(world.codebook, world.embeddings_NVD)
    chat = coding.chats[4]
    assert chat is not None
    assert [(mark.row, mark.position) for mark in chat.marks] == [
        (row, position) for row in (4, 31) for position in range(4)
    ]
    names = [world.tokenizer.convert_ids_to_tokens(chat.ids[mark.place]) for mark in chat.marks]
    codes = [world.codebook.code_text(TOOLS[row].id) for row in (4, 31)]
    assert "".join(names) == "".join(codes)
    assert (coding.scales_NP > 0).all()


def test_the_loss_is_the_frozen_models_own(world: World) -> None:
    """Until the states move, code tokens have their rows; adapters are off: plain cross-entropy."""
    coding = world.coding(world.codebook, world.embeddings_NVD)
    chats = [chat for chat in coding.chats[:6] if chat is not None]
    with torch.random.fork_rng(), attached(world.model, GIST, 1, world.gist) as compressor:
        guide = _Guide(compressor, [encode_document(one, world.tokenizer) for one in READABLE])
        loss, count = guide.chat_loss(chats, coding)
    expected, number = 0.0, 0
    for chat in chats:
        ids, labels = torch.tensor([chat.ids]), torch.tensor([chat.labels])
        with torch.no_grad():
            mean = world.model(input_ids=ids, labels=labels).loss
        asked = sum(label != IGNORED for label in chat.labels)
        expected, number = expected + float(mean) * asked, number + asked
    assert count == number
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_code_tokens_gradient_is_its_tools_state(world: World) -> None:
    """Moving a state by d moves the loss as moving its rows by scale * (d, PCA's part of d)."""
    coding = world.coding(world.codebook, world.embeddings_NVD)
    chat = coding.chats[4]
    assert chat is not None
    with torch.random.fork_rng(), attached(world.model, GIST, 1, world.gist) as compressor:
        compressor.model.eval()
        guide = _Guide(compressor, [encode_document(one, world.tokenizer) for one in READABLE])
        states: list[Any] = []
        compress = type(compressor).compress

        def watch(self: Any, content: Any) -> Any:
            states.append(compress(self, content).detach().requires_grad_())
            return states[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(compressor), "compress", watch)
            loss, _ = guide.chat_loss([chat], coding)
        (slope_UVD,) = torch.autograd.grad(loss, states)
    rows = sorted({mark.row for mark in chat.marks})
    inputs_TD = world.model.get_input_embeddings()(torch.tensor(chat.ids)).detach()
    inputs_TD.requires_grad_()
    labels = torch.tensor([chat.labels])
    asked = sum(label != IGNORED for label in chat.labels)
    plain = world.model(inputs_embeds=inputs_TD[None], labels=labels).loss * asked
    (plain_TD,) = torch.autograd.grad(plain, [inputs_TD])
    expected_UVD = torch.zeros_like(slope_UVD)
    for mark in chat.marks:
        part_D = plain_TD[mark.place] * float(coding.scales_NP[mark.row, mark.position])
        view, level = divmod(mark.position, 2)
        if level:
            kept_dD = torch.from_numpy(coding.directions[mark.position])
            part_D = kept_dD.T @ (kept_dD @ part_D)
        expected_UVD[rows.index(mark.row), view] += part_D
    assert expected_UVD.abs().max() > 1e-3
    assert torch.allclose(slope_UVD, expected_UVD, atol=1e-4, rtol=1e-3)


def test_only_the_gist_tokens_move_and_every_epoch_makes_new_codes(world: World) -> None:
    weights = {name: value.clone() for name, value in world.model.state_dict().items()}
    codes = {world.tokenizer.convert_tokens_to_ids(t) for p in world.codebook.tokens for t in p}
    heard: list[Floats | None] = []
    epochs: list[Epoch] = []
    guided = guide_gist(
        world.model,
        world.tokenizer,
        READABLE,
        world.gist,
        vary(GIST, epochs=3, learning_rate=1e-4, held_out=0.5),
        world.recode(heard),
        seed=2,
        report=epochs.append,
    )
    assert [epoch.number for epoch in epochs] == [0, 1, 2, 3] and guided.epochs == tuple(epochs)
    assert heard[0] is None and len(heard) == 3
    states = [found for found in heard if found is not None]
    assert not np.allclose(states[0], world.embeddings_NVD, atol=1e-4)
    assert not torch.equal(guided.gist_VD, world.gist.gist_VD)
    assert torch.equal(guided.indicator_MD, world.gist.indicator_MD)
    assert all(torch.equal(guided.adapter[k], world.gist.adapter[k]) for k in guided.adapter)
    for name, value in world.model.state_dict().items():
        others = [row for row in range(len(value)) if row not in codes]
        same = value[others] if name in ("model.embed_tokens.weight", "lm_head.weight") else value
        then = weights[name][others] if same is not value else weights[name]
        assert torch.equal(same, then), name
    ids = [content_ids(document.content, world.tokenizer) for document in READABLE]
    with torch.random.fork_rng(), attached(world.model, GIST, 1, guided) as compressor:
        assert not np.allclose(compressor.embed(ids), states[-1], atol=1e-4)


def test_an_epoch_that_does_not_help_is_taken_back(world: World) -> None:
    heard: list[Floats | None] = []
    config = vary(GIST, epochs=3, learning_rate=1.0, weight_decay=0.0, held_out=0.5)
    guided = guide_gist(
        world.model, world.tokenizer, READABLE, world.gist, config, world.recode(heard)
    )
    before, after = guided.epochs
    assert after.held_out > before.held_out and heard == [None]
    assert torch.equal(guided.gist_VD, world.gist.gist_VD)


def test_both_losses_pull(world: World) -> None:
    """Each moves the gist tokens by itself, and the sum falls in the codes in force."""
    coding = world.coding(world.codebook, world.embeddings_NVD)
    chats = [chat for chat in coding.chats if chat is not None]
    with torch.random.fork_rng(), attached(world.model, GIST, 1, world.gist) as compressor:
        compressor.model.eval()
        guide = _Guide(compressor, [encode_document(one, world.tokenizer) for one in READABLE])
        slopes = [
            torch.autograd.grad(loss, [compressor.gist_VD])[0]
            for loss, _ in (compressor.loss(guide.documents), guide.chat_loss(chats, coding))
        ]
        assert all(float(slope.norm()) > 1e-3 for slope in slopes)
        rows, every = list(range(len(TOOLS))), list(range(len(coding.chats)))
        optimizer = torch.optim.Adam([compressor.gist_VD], lr=3e-3)
        before = guide.measure(rows, every, coding)
        for part, several in guide.shuffle(rows, every, coding, 16):
            guide.step(part, several, coding, optimizer)
        assert guide.measure(rows, every, coding) < before


def test_a_chat_without_codes_is_left_out(world: World) -> None:
    coding = world.coding(world.codebook, world.embeddings_NVD)
    some: list[CodedChat | None] = [
        None if row % 2 else chat for row, chat in enumerate(coding.chats)
    ]
    with torch.random.fork_rng(), attached(world.model, GIST, 1, world.gist) as compressor:
        guide = _Guide(compressor, [encode_document(one, world.tokenizer) for one in READABLE])
        half = replace(coding, chats=some)
        seen = [chat for _, part in guide.shuffle([0, 1], range(32), half, 8) for chat in part]
        assert {tuple(chat.ids) for chat in seen} == {
            tuple(chat.ids) for chat in some if chat is not None
        }
        none = replace(coding, chats=[None] * len(coding.chats))
        alone = guide.measure([0, 1], range(32), none)
        assert alone == pytest.approx(compressor.measure(guide.documents[:2]))


def test_body_needs_gist_states_and_new_codes() -> None:
    workspace = Workspace(shipped_root())
    flags = {"codes.post_guided": '"body"'}
    assert load_recipe(workspace, "sgtc", flags).recipe.codes.post_guided == "body"
    assert load_recipe(workspace, "sgtc", {}).recipe.codes.post_guided == "appendix"
    once = flags | {"codes.iterations": "1"}
    assert load_recipe(workspace, "sgtc", once).recipe.codes.recode_every == 1
    assert load_recipe(workspace, "sgtc", flags | {"codes.recode_every": "0"}).recipe.stage
    for missing in (
        {"codes.recode_every": "0", "codes.iterations": "1"},
        {"codes.gist.views": "0"},
    ):
        with pytest.raises(RecipeError, match="post_guided body needs"):
            load_recipe(workspace, "sgtc", flags | missing)
