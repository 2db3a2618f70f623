"""Both backends with a real (tiny, random) model in a real child: the same promises for each."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest_models import CHAT_TEMPLATE, code_names, make_tokenizer, tiny_model
from workspaces import child_pids

from factory.codes.trie import Trie
from factory.domain.canon import tool_id
from factory.domain.failures import InputError, ModelError
from factory.domain.jsontext import parse_strict
from factory.domain.records import (
    CONTEXT_FULL,
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    SCHEMA_UNSUPPORTED,
    Call,
    Checkpoint,
    Constraint,
    Message,
    Reply,
    Request,
    Sampling,
    Tool,
)
from factory.engines.base import unanswered
from factory.engines.chat import Chat
from factory.engines.constrain import constraint_to_wire, guide_to_wire
from factory.engines.opening import open_engine
from factory.engines.process import ProcessEngine
from factory.judge.calls import judge_call
from factory.judge.reading import parse_calls
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

pytestmark = pytest.mark.slow

MAX_MODEL_LEN = 256
CODES = [(a, b, (a * b) % 4) for a in range(4) for b in range(4) if (a + b) % 3]
PROPERTIES: list[dict[str, Any]] = [
    {"days": {"type": "int"}, "warm": {"type": "bool"}},
    {"unit": {"type": "string", "enum": ["°C", "F"]}, "at": {"type": "time", "format": "time"}},
    {"place": {"type": "dict", "properties": {"x": {"type": "float"}}, "required": ["x"]}},
    {"towns": {"type": "list[int]", "maxItems": 2}},
    {},
]
TOOLS = [
    Tool(id=tool_id(document), document=document)
    for number in range(len(CODES))
    for properties in [PROPERTIES[number % len(PROPERTIES)]]
    for document in [
        {
            "name": f"tool_{number}",
            "description": "A tool.",
            "arguments": {
                "type": "dict",
                "properties": properties,
                "required": list(properties)[:1],
            },
        }
    ]
]
NO_ARGUMENTS = TOOLS[4].document


def settings_for(backend: Any, memory_gib: float = 0.06) -> EngineSection:
    return EngineSection(
        backend=backend,
        threads=1,
        max_model_len=MAX_MODEL_LEN,
        memory_gib=memory_gib,
        dtype="float32",
    )


class Served:
    """A running engine with the loop it lives in, and what its tests need."""

    def __init__(self, backend: str, folder: Path, logs: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.logs = logs
        self.notes: list[str] = []
        self.runner = asyncio.Runner()
        self.engine: ProcessEngine = self.run(
            open_engine(
                checkpoint(folder),
                settings=settings_for(backend),
                log_folder=logs,
                notify=self.notes.append,
            )
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def sample(self, *requests: Request) -> list[Reply]:
        replies: list[Reply] = self.run(self.engine.sample(requests))
        return replies


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(id="tiny", path=str(folder), fingerprint=fingerprint(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = [token for level in code_names(3, 4) for token in level]
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny [best]", extra_tokens=tokens)
    shown = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(shown + CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def served(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    served = Served(request.param, model, tmp_path_factory.mktemp("logs"))
    yield served
    served.run(served.engine.close())
    served.runner.close()


def tokenizer(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trie(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trie, Constraint]:
    """A catalogue of codes in the model's token ids, and the constraint that names its file."""
    tok = tokenizer(model)
    names = code_names(3, 4)
    codes = [
        tuple(tok.convert_tokens_to_ids(names[level][k]) for level, k in enumerate(code))
        for code in CODES
    ]
    made = Trie.build(codes, [f"t_{number}" for number in range(len(codes))], tok.eos_token_id)
    path = tmp_path_factory.mktemp("codes") / "trie.npz"
    made.save(path)
    rows = [{"tool_id": f"t_{n}", "document": tool.document} for n, tool in enumerate(TOOLS)]
    path.with_name("tools.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return made, Constraint(trie=str(path))


def with_arguments(constraint: Constraint) -> Constraint:
    """A code, a new line, and the arguments of the tool that the code names."""
    documents = str(Path(constraint.trie).with_name("tools.jsonl"))
    return dataclasses.replace(constraint, until="\n", documents=documents)


def assert_fits(text: str, tool: Tool) -> None:
    call = Call(name=tool.name, arguments=parse_strict(text))
    assert list(judge_call(call, 0, {tool.name: tool})) == []


def chat(number: int, constraint: Constraint | None = None, **sampling: Any) -> Request:
    content = f"What is the weather in town {number}? " * (1 + number % 4)
    values = {"n": 3, "temperature": 0.7, "top_k": 40, "max_tokens": 24, "seed": 256 * number}
    return Request(
        id=f"r{number}",
        messages=(
            Message(role="system", content="You call tools."),
            Message(role="user", content=content),
        ),
        sampling=Sampling(**{**values, **sampling}),
        constraint=constraint,
    )


def ids(replies: list[Reply]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in reply.completions] for reply in replies]


def test_the_same_seeds_give_the_same_samples_in_any_batch(served: Served) -> None:
    requests = [chat(number) for number in range(12)]
    together = served.sample(*requests)
    alone = [served.sample(request)[0] for request in requests]

    async def at_once() -> list[Reply]:
        calls = [served.engine.sample([chat(99, n=2)]), served.engine.sample(requests[6:])]
        calls += [served.engine.sample([request]) for request in reversed(requests[:6])]
        _, last, *first = await asyncio.gather(*calls)
        return [replies[0] for replies in reversed(first)] + last

    mixed = served.run(at_once())
    assert ids(together) == ids(alone) == ids(mixed)
    assert [reply.request_id for reply in together] == [request.id for request in requests]
    samples = [completion.token_ids for reply in together for completion in reply.completions]
    assert len(set(samples)) == len(samples) == 36
    assert ids(served.sample(chat(3, seed=11))) != ids(served.sample(chat(3, seed=2816)))


def test_n_samples_take_consecutive_seeds(served: Served) -> None:
    three = served.sample(chat(5, seed=512))[0]
    ones = [served.sample(chat(5, n=1, seed=512 + index))[0] for index in range(3)]
    assert ids([three])[0] == [ids([one])[0][0] for one in ones]


def test_constrained_and_free_requests_share_a_batch(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    catalogue, constraint = trie
    free = [chat(number) for number in range(8)]
    undisturbed = served.sample(*free)
    bound = [chat(20 + n, constraint, n=4, temperature=1.5, top_k=0) for n in range(8)]
    greedy = [chat(40 + n, constraint, n=1, temperature=0.0) for n in range(4)]
    mixed = [request for pair in zip(free, bound, strict=True) for request in pair]
    replies = served.sample(*mixed, *greedy)
    assert ids(replies[0:16:2]) == ids(undisturbed)
    answers = [c for reply in [*replies[1:16:2], *replies[16:]] for c in reply.completions]
    assert len(answers) == 36
    for answer in answers:
        assert answer.finish_reason == "stop"
        assert answer.token_ids[-1] == catalogue.end
        assert catalogue.lookup(answer.token_ids[:-1]) is not None
        assert answer.text.startswith("<a_") and answer.text.count("<") == 3
    assert len({answer.token_ids for answer in answers}) > 5
    assert ids(served.sample(*bound)) == ids(replies[1:16:2])


def test_a_grammar_allows_every_combination_and_nothing_else(
    served: Served, model: Path, tmp_path: Path
) -> None:
    tok = tokenizer(model)
    levels = [tok.convert_tokens_to_ids(names) for names in code_names(3, 4)]
    Trie.grammar(levels, tok.eos_token_id).save(tmp_path / "grammar.npz")
    constraint = Constraint(trie=str(tmp_path / "grammar.npz"))
    reply = served.sample(chat(1, constraint, n=40, temperature=2.0, top_k=0))[0]
    codes = [completion.token_ids for completion in reply.completions]
    assert all(
        len(code) == 4 and all(code[level] in levels[level] for level in range(3)) for code in codes
    )
    assert len(set(codes)) > 10


def test_codes_are_bound_inside_their_span_and_everything_is_free_outside(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    catalogue, constraint = trie
    tok = tokenizer(served.folder)
    first = dataclasses.replace(constraint, until="\n")
    bounds = dataclasses.replace(constraint, after="a", until="\n")
    hot: dict[str, Any] = {"n": 4, "temperature": 2.0, "top_k": 0}
    requests = [chat(n, first, **hot) for n in range(4)]
    requests += [chat(10 + n, bounds, max_tokens=120, **hot) for n in range(12)]
    requests += [chat(30 + n, max_tokens=40) for n in range(3)]
    alone = served.sample(*requests[16:])
    replies = served.sample(*requests)
    assert ids(replies[16:]) == ids(alone)
    (close,), (opening,) = tok.encode("\n"), tok.encode("a")
    for completion in (c for reply in replies[:4] for c in reply.completions):
        assert catalogue.lookup(completion.token_ids[:3]) is not None
        assert completion.token_ids[3] == close
    free = [c.token_ids[4:] for reply in replies[:4] for c in reply.completions]
    assert any(set(tail) - set(catalogue.tokens.tolist()) - {close} for tail in free)
    num_spans = 0
    for completion in (c for reply in replies[4:16] for c in reply.completions):
        rest = list(completion.token_ids)
        while opening in rest:
            rest = rest[rest.index(opening) + 1 :]
            code, rest = rest[:3], rest[3:]
            whole = len(code) == 3 and bool(rest)
            assert catalogue.walk(code) is not None
            assert not whole or (tuple(code) in catalogue and rest[0] == close)
            num_spans += whole
    assert num_spans > 3


def test_codes_arguments_calls_and_free_rows_share_a_batch(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    catalogue, code = trie
    hot: dict[str, Any] = {"temperature": 1.5, "top_k": 0, "max_tokens": 150}
    few = tuple(tool.document for tool in TOOLS[:5])
    free = [chat(number) for number in range(4)]
    alone = served.sample(*free, *(chat(30 + n, code, **hot) for n in range(4)))
    kinds = [
        *free,
        *(chat(30 + n, code, **hot) for n in range(4)),
        *(chat(40 + n, with_arguments(code), **hot) for n in range(6)),
        *(chat(50 + n, Constraint(tools=few[n : n + 1]), **hot) for n in range(5)),
        *(chat(60 + n, Constraint(tools=few, form="calls"), **hot) for n in range(4)),
        *(chat(70 + n, with_arguments(code), n=1, temperature=0.0) for n in range(3)),
    ]
    order = random.Random(0).sample(range(len(kinds)), len(kinds))
    shuffled = served.sample(*(kinds[place] for place in order))
    replies = [reply for _, reply in sorted(zip(order, shuffled, strict=True), key=lambda p: p[0])]
    assert ids(replies[:8]) == ids(alone)
    num_whole = 0
    for request, reply in zip(kinds[8:], replies[8:], strict=True):
        constraint = request.constraint
        assert constraint is not None
        for answer in reply.completions:
            assert answer.finish_reason in ("stop", "length")
            if answer.finish_reason == "length":
                assert len(answer.token_ids) == request.sampling.max_tokens
                continue
            num_whole += 1
            if constraint.form == "calls":
                calls = parse_calls(answer.text).calls
                assert calls
                by_name = {tool.name: tool for tool in TOOLS[:5]}
                assert not [f for call in calls for f in judge_call(call, 0, by_name)]
            elif constraint.tools:
                assert_fits(answer.text, TOOLS[few.index(constraint.tools[0])])
            else:
                tool = catalogue.lookup(answer.token_ids[:3])
                assert tool is not None and answer.text.count("\n") == 1
                assert_fits(answer.text.partition("\n")[2], TOOLS[int(tool[2:])])
    assert num_whole > 30
    assert ids(served.sample(*kinds[8:])) == ids(replies[8:])


def test_a_schema_that_cannot_constrain_leaves_its_request_unanswered_and_says_so(
    served: Served, trie: tuple[Trie, Constraint], tmp_path: Path
) -> None:
    arguments = {"type": "dict", "properties": {"a": {"not": {"type": "int"}}}, "required": ["a"]}
    document = {"name": "odd", "description": "A tool.", "arguments": arguments}
    odd = chat(1, Constraint(tools=(document,)))
    fine, refused = served.sample(chat(2), odd)
    assert ids([fine]) == ids(served.sample(chat(2)))
    assert refused == unanswered(odd, SCHEMA_UNSUPPORTED, refused.num_prompt_tokens)
    assert any("request r1 stays unanswered" in note and '"not"' in note for note in served.notes)
    rows = [{"tool_id": f"t_{n}", "document": document} for n in range(len(CODES))]
    (tmp_path / "tools.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    after_code = dataclasses.replace(
        with_arguments(trie[1]), documents=str(tmp_path / "tools.jsonl")
    )
    for answer in served.sample(chat(3, after_code))[0].completions:
        assert trie[0].lookup(answer.token_ids[:3]) and len(answer.token_ids) == 5
        assert answer.finish_reason == SCHEMA_UNSUPPORTED


def test_a_sub_trie_names_its_tools_only(served: Served, trie: tuple[Trie, Constraint]) -> None:
    catalogue, constraint = trie
    hot: dict[str, Any] = {"n": 8, "temperature": 2.0, "top_k": 0}
    few = dataclasses.replace(constraint, only=("t_2", "t_5"))
    one = dataclasses.replace(constraint, only=("t_7",))
    found = [
        {catalogue.lookup(completion.token_ids[:-1]) for completion in reply.completions}
        for reply in served.sample(chat(1, few, **hot), chat(2, constraint, **hot), chat(3, one))
    ]
    assert found[0] == {"t_2", "t_5"} and found[2] == {"t_7"}
    assert len(found[1]) > 2


def rank_codes(served: Served, request: Request, catalogue: Trie) -> list[tuple[Any, float]]:
    """Brute force: the log-probability of every code and its end, likeliest first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModelForCausalLM

        net = AutoModelForCausalLM.from_pretrained(served.folder, dtype=torch.float32)
    prompt = Chat(served.folder).encode(request)
    codes = [(*code, catalogue.end) for code, _ in catalogue.codes()]
    ids_NT = torch.tensor([[*prompt, *code] for code in codes])
    with torch.no_grad():
        logprobs_NTV = net(ids_NT).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
    scores_N = logprobs_NTV.gather(2, ids_NT[:, len(prompt) :, None])[..., 0].sum(1)
    return sorted(zip(codes, scores_N.tolist(), strict=True), key=lambda pair: -pair[1])


def test_a_beam_finds_the_likeliest_codes_in_any_batch(
    served: Served, trie: tuple[Trie, Constraint], tmp_path: Path
) -> None:
    catalogue, constraint = trie
    # More ways on from one node than vLLM tells the log-probabilities of in one request.
    wide = Trie.build([(token,) for token in range(10, 310)], [f"w_{n}" for n in range(300)], 1)
    wide.save(tmp_path / "wide.npz")
    few = dataclasses.replace(constraint, only=("t_2", "t_5", "t_7"))
    beam: dict[str, Any] = {"beam": True, "temperature": 0.0, "top_k": 0, "max_tokens": 4}
    searches = [
        (chat(1, constraint, **beam | {"n": len(CODES)}), catalogue),
        (chat(2, constraint, **beam | {"n": len(CODES)}), catalogue),
        (chat(3, Constraint(trie=str(tmp_path / "wide.npz")), **beam | {"n": 300}), wide),
        (chat(4, few, **beam | {"n": 9}), catalogue.only(["t_2", "t_5", "t_7"])),
        (chat(5, constraint, **beam | {"n": 3}), catalogue),
    ]
    free = [chat(20 + number) for number in range(5)]
    alone = served.sample(*free)
    mixed = [
        each for (search, _), one in zip(searches, free, strict=True) for each in (search, one)
    ]
    replies = served.sample(*mixed)
    assert ids(replies[1::2]) == ids(alone)
    for (request, codes), reply in zip(searches[:4], replies[::2], strict=False):
        wanted = rank_codes(served, request, codes)[: request.sampling.n]
        assert ids([reply])[0] == [code for code, _ in wanted]
        found = [completion.logprob for completion in reply.completions]
        assert found == pytest.approx([score for _, score in wanted], abs=1e-3)
        assert {completion.finish_reason for completion in reply.completions} == {"stop"}
    narrow = replies[8]
    assert len(narrow.completions) == 3 and ids(served.sample(searches[4][0])) == ids([narrow])
    assert all(catalogue.lookup(one.token_ids[:-1]) for one in narrow.completions)
    without = dataclasses.replace(searches[4][0], logprob=False)
    assert [one.logprob for one in served.sample(without)[0].completions] == [0.0] * 3
    long = dataclasses.replace(searches[4][0], messages=(), prompt="x " * (MAX_MODEL_LEN - 3))
    assert served.sample(long)[0].completions[0].finish_reason == PROMPT_TOO_LONG


def test_a_prompt_that_a_beam_has_no_places_for_is_one_reply(
    trie: tuple[Trie, Constraint], model: Path, tmp_path: Path
) -> None:
    from factory.engines.transformers import TransformersBackend

    folder = tmp_path / "chunked"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["attention_chunk_size"] = 40
    (folder / "config.json").write_text(json.dumps(config))
    backend = TransformersBackend(folder, settings_for("transformers"))
    request = chat(1, trie[1], beam=True, n=3, temperature=0.0, top_k=0, max_tokens=4)
    prompts = [[7] * 20, [7] * 60, [7] * 20]
    replies: dict[int, Reply] = {}
    for number, prompt in enumerate(prompts):
        backend.add(number, request, prompt)
    while backend.is_busy:
        backend.step(replies.__setitem__)
    assert replies[1] == unanswered(request, PROMPT_TOO_LONG, 60)
    assert [len(replies[number].completions) for number in (0, 2)] == [3, 3]
    assert {c.finish_reason for n in (0, 2) for c in replies[n].completions} == {"stop"}


def model_config(folder: Path, vocabulary: int) -> SimpleNamespace:
    """What the processors read of vLLM's configuration."""
    model = SimpleNamespace(model=str(folder), get_vocab_size=lambda: vocabulary)
    return SimpleNamespace(model_config=model, speculative_config=None)


def test_the_gpus_of_a_copy_reach_vllm(model: Path) -> None:
    from factory.engines.vllm import engine_arguments

    settings = EngineSection(threads=1, max_model_len=64, tensor_parallel=2, data_parallel=3)
    arguments = engine_arguments(model, settings)
    assert arguments.tensor_parallel_size == 2
    parallel = arguments.create_engine_config().parallel_config
    assert (parallel.tensor_parallel_size, parallel.world_size) == (2, 2)
    assert parallel.data_parallel_size == 1  # each copy is an engine of its own


def test_vllm_tells_its_rows_apart(model: Path, trie: tuple[Trie, Constraint]) -> None:
    """vLLM's first interface: requests enter, move and leave the rows of its batch."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from factory.engines.processors import TrieProcessor

    catalogue, constraint = trie
    vocabulary = len(tokenizer(model))
    config = model_config(model, vocabulary)
    processor = TrieProcessor(config, torch.device("cpu"), False)
    wire = guide_to_wire(constraint.trie, (), (), None)
    bound, free = SamplingParams(extra_args=wire), SamplingParams()
    code = next(code for code, _ in catalogue.codes())
    outputs: list[list[int]] = [[code[0]], [], []]
    added = [
        (0, bound, None, outputs[0]),
        (1, free, None, outputs[1]),
        (2, bound, None, outputs[2]),
    ]
    processor.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))

    def allowed(num_rows: int) -> list[int]:
        return [
            int(n) for n in processor.apply(torch.zeros(num_rows, vocabulary)).isfinite().sum(1)
        ]

    after_first = len(catalogue.children(catalogue.walk(code[:1]) or 0))
    at_root = len(catalogue.children(0))
    assert allowed(3) == [after_first, vocabulary, at_root]
    processor.update_state(BatchUpdate(3, [], [], [(0, 1, MoveDirectionality.SWAP)]))
    assert allowed(3) == [vocabulary, after_first, at_root]
    outputs[0] += [code[1], code[2]]
    processor.update_state(None)
    assert allowed(3) == [vocabulary, 1, at_root]
    processor.update_state(BatchUpdate(2, [1], [], [(2, 1, MoveDirectionality.UNIDIRECTIONAL)]))
    assert allowed(2) == [vocabulary, at_root]


def test_both_interfaces_of_vllm_allow_the_same(model: Path, trie: tuple[Trie, Constraint]) -> None:
    """Model Runner V2's class on its own records, with the runner's buffers on the CPU."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    from factory.engines.processors import TrieProcessor, TrieSlotProcessor

    catalogue, constraint = trie
    tok = tokenizer(model)
    (close,), marker = tok.encode("\n"), tok.encode("call: ")
    vocabulary, num_slots, device = len(tok), 16, torch.device("cpu")
    config = model_config(model, vocabulary)

    def buffer(*shape: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=torch.zeros(shape, dtype=torch.int32))

    states = LogitsProcRequestState(
        device=device,
        max_num_reqs=num_slots,
        vocab_size=vocabulary,
        all_token_ids=buffer(num_slots, 64),
        prompt_len=buffer(num_slots),
        prefill_len=buffer(num_slots),
        total_len=buffer(num_slots),
    )
    slots = TrieSlotProcessor(config, states)
    rows = TrieProcessor(config, device, False)
    code, *_ = [code for code, _ in catalogue.codes()][3:]
    path = constraint.trie
    whole, spans = (path, (), (), None), (path, (), marker, close)
    arguments, some = (
        with_arguments(constraint),
        tok.encode('{"days": 12', add_special_tokens=False),
    )
    written = constraint_to_wire(arguments, Chat(model), native=False)
    known = constraint_to_wire(Constraint(tools=(TOOLS[0].document,)), Chat(model), native=False)
    first = next(token for token, tool in catalogue.codes() if tool == "t_0")
    cases: list[tuple[Any, list[int]]] = [
        (whole, []),
        (whole, [*code[:2]]),
        (whole, [*code]),
        (whole, [*code, catalogue.end, 7]),
        (None, [*code[:1]]),
        (spans, [7, *code[:1]]),
        (spans, [7, *marker, *code[:2]]),
        (spans, [*marker, *code, close, 9, *marker]),
        (written, [*first[:2]]),
        (written, [*first, close]),
        (written, [*first, close, *some]),
        (known, [*some]),
        (known, []),
    ]
    slot_of = [5, 2, 7, 0, 1, 6, 3, 4, 12, 9, 11, 8, 10]
    added = []
    for row, (slot, (wire, output)) in enumerate(zip(slot_of, cases, strict=True)):
        extra = guide_to_wire(*wire) if isinstance(wire, tuple) else wire
        params = SamplingParams(extra_args=extra)
        assert slots.add_request(slot, params) == (wire is not None)
        prompt = [3] * (1 + slot)
        tokens = torch.tensor(prompt + output, dtype=torch.int32)
        states.all_token_ids.gpu[slot, : len(tokens)] = tokens
        states.prompt_len.gpu[slot], states.total_len.gpu[slot] = len(prompt), len(tokens)
        added.append((row, params, None, output))
    slots.apply_staged_writes()
    rows.update_state(BatchUpdate(len(cases), removed=[], added=added, moved=[]))
    mapping = torch.tensor(slot_of, dtype=torch.int32)
    context = LogitsContext(
        expanded_idx_mapping=mapping,
        idx_mapping=mapping,
        idx_mapping_np=mapping.numpy(),
        expanded_local_pos=torch.zeros_like(mapping),
        input_ids=mapping,
        pos=mapping,
        seq_lens_upper_bound_np=mapping.numpy(),
    )
    logits = torch.randn(len(cases), vocabulary)
    expected = rows.apply(logits.clone())
    assert torch.equal(slots.apply(logits.clone(), context), expected)
    num_allowed = expected.isfinite().sum(1).tolist()
    assert num_allowed[2:6] == [1, 1, vocabulary, vocabulary]
    assert num_allowed[7] == num_allowed[0] == len(catalogue.children(0))
    assert num_allowed[10] == num_allowed[11] < vocabulary
    assert num_allowed[9] == num_allowed[12] < num_allowed[10]
    # Two tokens later, of which the host has seen neither.
    more = tok.encode("34", add_special_tokens=False)
    for row in (10, 11):
        slot, output = slot_of[row], cases[row][1]
        start = 1 + slot + len(output)
        states.all_token_ids.gpu[slot, start : start + 2] = torch.tensor(more)
        states.total_len.gpu[slot] += 2
        output += more
    assert torch.equal(slots.apply(logits.clone(), context), rows.apply(logits.clone()))


def test_a_prompt_without_room_for_an_answer_comes_back_empty(served: Served) -> None:
    tok = tokenizer(served.folder)

    def raw(length: int) -> Request:
        return Request(id="raw", prompt="x " * length, sampling=Sampling(n=2, max_tokens=9))

    length = 1
    while len(tok.encode(raw(length + 1).prompt)) < MAX_MODEL_LEN:
        length += 1
    fits, long, longer = served.sample(raw(length), raw(length + 1), raw(5000))
    assert [c.finish_reason for c in fits.completions] == [CONTEXT_FULL] * 2
    room = MAX_MODEL_LEN - fits.num_prompt_tokens
    assert room >= 1 and len(fits.completions[0].token_ids) == room
    num_tokens = len(tok.encode("x " * 5000))
    assert longer == unanswered(raw(5000), PROMPT_TOO_LONG, num_tokens)
    assert long.completions == longer.completions


def test_only_what_the_window_cuts_is_context_full(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    """One prompt near the window's end: an answer that ends, one cut by its own max_tokens."""
    text = "x " * 120

    def raw(number: int, constraint: Constraint | None = None, **values: Any) -> Request:
        sampling = Sampling(temperature=0.0, **values)
        return Request(id=str(number), prompt=text, sampling=sampling, constraint=constraint)

    room = MAX_MODEL_LEN - served.sample(raw(0, max_tokens=1))[0].num_prompt_tokens
    assert room > 5
    requests = [
        raw(1, trie[1], max_tokens=room + 1),
        raw(2, max_tokens=room - 1),
        raw(3, max_tokens=room),
        raw(4, max_tokens=room + 1),
    ]
    answers = [reply.completions[0] for reply in served.sample(*requests)]
    reasons = [answer.finish_reason for answer in answers]
    assert reasons == ["stop", "length", "length", CONTEXT_FULL]
    assert [len(answer.token_ids) for answer in answers] == [4, room - 1, room, room]


def test_a_request_that_vllm_refuses_ends_nothing(served: Served) -> None:
    if served.backend != "vllm":
        pytest.skip("transformers refuses nothing")
    too_many = chat(1, n=20_000)
    restarts = served.engine.num_restarts
    fine, *refused = served.sample(chat(2), too_many, too_many)
    assert ids([fine]) == ids(served.sample(chat(2)))
    tokens, fault = refused[0].num_prompt_tokens, refused[0].completions[0].fault
    assert refused == [unanswered(too_many, ENGINE_DIED, tokens, fault)] * 2 and "vLLM" in fault
    assert served.engine.num_restarts == restarts
    assert sum("engine refuses request r1" in note for note in served.notes) == 1


def test_odd_prompts_are_answered(served: Served) -> None:
    sampling = Sampling(n=2, temperature=0.0, max_tokens=4)
    prompts = ["", "\ud800 lone", "zero \x00 byte", "<|end|>", "héllo 日本 🙂"]
    requests = [Request(id=str(n), prompt=p, sampling=sampling) for n, p in enumerate(prompts)]
    for reply in served.sample(*requests):
        first, second = reply.completions
        assert first == second and 1 <= len(first.token_ids) <= 4


def test_prompt_and_log_probability_are_those_of_the_model(served: Served) -> None:
    request = chat(2, n=2)
    reply = served.sample(request)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModelForCausalLM

        net = AutoModelForCausalLM.from_pretrained(served.folder, dtype=torch.float32)
    tok = tokenizer(served.folder)
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    prompt = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tok.decode(prompt).endswith("<|end|><|assistant|>")
    assert reply.num_prompt_tokens == len(prompt)
    for completion in reply.completions:
        answer = list(completion.token_ids)
        with torch.no_grad():
            logits = net(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1)[range(len(answer)), answer]
        assert completion.logprob == pytest.approx(float(chosen.sum()), abs=1e-2)
        assert completion.text == tok.decode(answer, skip_special_tokens=True)


def test_a_log_probability_that_is_not_wanted_is_left_out(served: Served) -> None:
    wanted = chat(2, n=2)
    replies = served.sample(wanted, dataclasses.replace(wanted, id="without", logprob=False))
    assert ids(replies[:1]) == ids(replies[1:])
    assert all(one.logprob < 0 for one in replies[0].completions)
    assert all(one.logprob == 0 for one in replies[1].completions)


def test_every_field_of_a_request_is_honoured(served: Served) -> None:
    """Each field of a request and of its sampling: what a change of it does to the plain reply.

    A field that is added has to be thought of here.
    """
    plain = chat(3, temperature=1.0, top_k=0)
    greedy = chat(3, temperature=0.0)
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    changes: dict[str, Request] = {
        "id": dataclasses.replace(plain, id="other"),
        "messages": dataclasses.replace(plain, messages=plain.messages[1:]),
        "prompt": dataclasses.replace(plain, messages=(), prompt="a b"),
        "constraint": dataclasses.replace(plain, constraint=Constraint(tools=(NO_ARGUMENTS,))),
        "tools": dataclasses.replace(plain, tools=(tool,)),
        "logprob": dataclasses.replace(plain, logprob=False),
    }
    values: dict[str, Any] = {
        "n": 2,
        "temperature": 0.0,
        "top_k": 1,
        "top_p": 1e-6,
        "max_tokens": 4,
        "seed": 1,
    }
    changes |= {
        name: chat(3, **{"temperature": 1.0, "top_k": 0, name: value})
        for name, value in values.items()
    }
    known = {field.name for record in (Request, Sampling) for field in dataclasses.fields(record)}
    assert known == {*changes, "sampling", "beam"}, "beam: the tests of it, and of refusals, below"
    first, best, *others = served.sample(plain, greedy, *changes.values())
    found = dict(zip(changes, others, strict=True))
    (samples,), (likeliest,) = ids([first]), ids([best])
    assert len(set(samples)) == 3 and len(set(likeliest)) == 1
    assert (first.request_id, found["id"].request_id) == ("r3", "other")
    assert ids([found["id"], found["logprob"]]) == [samples] * 2
    assert {one.logprob for one in found["logprob"].completions} == {0.0}
    tok = tokenizer(served.folder)
    lengths = {
        name: reply.num_prompt_tokens - first.num_prompt_tokens for name, reply in found.items()
    }
    assert lengths["messages"] == -len(tok.encode("<|system|>You call tools.<|end|>"))
    assert lengths["tools"] == len(tok.encode("look"))
    assert found["prompt"].num_prompt_tokens == len(tok.encode("a b"))
    assert [parse_strict(one.text) for one in found["constraint"].completions] == [{}] * 3
    assert ids([found["n"]]) == [samples[:2]]
    for name in ("temperature", "top_k", "top_p"):
        assert ids([found[name]]) == [likeliest], name
    assert ids([found["max_tokens"]]) == [[one[:4] for one in samples]]
    assert not {*samples} & {*ids([found["seed"]])[0]}


def test_every_field_of_a_constraint_is_honoured(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    catalogue, code = trie
    hot: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "max_tokens": 120}
    free = served.sample(chat(3, **hot))[0].completions
    tok = tokenizer(served.folder)
    # A text that the free samples write by themselves, as their second token or later.
    opening, text = next(
        (token, text)
        for one in free
        for token in one.token_ids[1:-4]
        if tok.encode(text := tok.decode([token])) == [token] and text.isascii()
    )
    calls = Constraint(tools=(NO_ARGUMENTS,), form="calls")
    changes = {
        "trie": code,
        "only": dataclasses.replace(code, only=("t_3",)),
        "until": dataclasses.replace(code, until="\n"),
        "after": dataclasses.replace(code, after=text, until="\n"),
        "documents": with_arguments(code),
        "tools": Constraint(tools=(NO_ARGUMENTS,)),
        "form": calls,
    }
    assert {field.name for field in dataclasses.fields(Constraint)} == changes.keys()
    replies = served.sample(*(chat(3, constraint, **hot) for constraint in changes.values()))
    found = dict(zip(changes, (reply.completions for reply in replies), strict=True))
    assert all(catalogue.lookup(one.token_ids[:-1]) is not None for one in found["trie"])
    assert {catalogue.lookup(one.token_ids[:-1]) for one in found["only"]} == {"t_3"}
    (close,) = tok.encode("\n")
    for one in (*found["until"], *found["documents"]):
        assert catalogue.lookup(one.token_ids[:3]) is not None and one.token_ids[3] == close
    spans = 0
    for one, unbound in zip(found["after"], free, strict=True):
        before, _, span = split_at(one.token_ids, opening)
        assert before == split_at(unbound.token_ids, opening)[0]
        assert catalogue.walk(span[:3]) is not None
        spans += len(span) > 3 and span[3] == close
    assert spans
    whole = [one for one in found["documents"] if one.finish_reason == "stop"]
    for one in whole:
        number = int(str(catalogue.lookup(one.token_ids[:3]))[2:])
        assert_fits(one.text.partition("\n")[2], TOOLS[number])
    assert [parse_strict(one.text) for one in found["tools"]] == [{}] * 3
    ended = [one.text for one in found["form"] if one.finish_reason == "stop"]
    names = {call.name for text in ended for call in parse_calls(text).calls or ()}
    assert whole and names == {NO_ARGUMENTS["name"]}


def split_at(
    token_ids: tuple[int, ...], token: int
) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    """What stands before the first such token and after it, and whether there is one."""
    place = token_ids.index(token) if token in token_ids else len(token_ids)
    return token_ids[:place], place < len(token_ids), token_ids[place + 1 :]


def test_what_no_engine_can_do_is_refused_before_it_is_sampled(
    served: Served, trie: tuple[Trie, Constraint]
) -> None:
    plain = chat(1)
    for refused in (
        chat(1, beam=True),
        chat(1, dataclasses.replace(trie[1], until="\n"), beam=True),
        chat(1, top_p=0.0),
        chat(1, Constraint()),
        dataclasses.replace(plain, prompt="also raw"),
        dataclasses.replace(plain, messages=(), prompt="raw", tools=({},)),
    ):
        with pytest.raises(InputError):
            served.sample(chat(2), refused)


def test_kill_9_in_flight_changes_no_reply(served: Served) -> None:
    requests = [chat(number, max_tokens=150) for number in range(20)]
    undisturbed = served.sample(*requests)

    async def disturbed() -> list[Reply]:
        work = asyncio.create_task(served.engine.sample(requests))
        await asyncio.sleep(0.05)
        (pid,) = child_pids()
        assert not work.done()
        os.kill(pid, signal.SIGKILL)
        return await work

    restarts = served.engine.num_restarts
    replies = served.run(disturbed())
    assert served.engine.num_restarts == restarts + 1
    assert "SIGKILL" in served.notes[-1]
    assert ids(replies) == ids(undisturbed)


@pytest.mark.parametrize("beam", [False, True])
def test_a_cancelled_call_does_not_hold_up_the_others(
    served: Served, trie: tuple[Trie, Constraint], beam: bool
) -> None:
    bound = trie[1] if beam else None

    async def run() -> list[Reply]:
        many = [chat(n, bound, n=5, beam=beam) for n in range(30)]
        work = asyncio.create_task(served.engine.sample(many))
        await asyncio.sleep(0.02)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return await served.engine.sample([chat(1)])

    assert ids(served.run(run())) == ids(served.sample(chat(1)))


def test_a_cache_too_small_for_the_batch_changes_no_sample(
    model: Path, trie: tuple[Trie, Constraint], tmp_path: Path
) -> None:
    """vLLM preempts and recomputes sequences then: seeds and tries must survive it."""
    catalogue, constraint = trie
    requests = [chat(number, max_tokens=120) for number in range(8)]
    requests += [chat(20 + number, constraint, temperature=1.5) for number in range(8)]
    requests += [
        chat(40 + number, with_arguments(constraint), temperature=1.5, max_tokens=100)
        for number in range(8)
    ]

    async def sample(memory_gib: float) -> list[Reply]:
        async with await open_engine(
            checkpoint(model),
            settings=settings_for("vllm", memory_gib),
            log_folder=tmp_path,
            notify=lambda text: None,
        ) as engine:
            return await engine.sample(requests)

    tight, roomy = asyncio.run(sample(0.001)), asyncio.run(sample(0.06))
    assert ids(tight) == ids(roomy)
    codes = [completion.token_ids[:-1] for reply in tight[8:16] for completion in reply.completions]
    assert all(code in catalogue for code in codes)


def test_vllm_serves_the_text_model_in_a_multimodal_one(tmp_path: Path) -> None:
    """Of Qwen2-Audio, whose processor needs no package that the CPU environment leaves out."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tok, folder = make_tokenizer(), tmp_path / "model"
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    audio = {"num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "d_model": 32}
    config = Qwen2AudioConfig(
        text_config={**text, "vocab_size": len(tok), "initializer_range": 0.3},
        audio_config={**audio, "encoder_ffn_dim": 32, "max_source_positions": 32},
        audio_token_index=10,
    )
    torch.manual_seed(0)
    net = Qwen2AudioForConditionalGeneration(config).eval()
    net.save_pretrained(folder)
    tok.save_pretrained(folder)
    # As published folders have them; transformers writes one `model` too many.
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("model.model.model.", "model.model."): x for name, x in weights.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    request = chat(1, temperature=0, n=1, max_tokens=12)

    async def sample() -> tuple[int, ...]:
        async with await open_engine(
            checkpoint(folder),
            settings=settings_for("vllm"),
            log_folder=tmp_path,
            notify=lambda text: None,
        ) as engine:
            ((reply,),) = [await engine.sample([request])]
            return reply.completions[0].token_ids

    prompt = torch.tensor([Chat(folder).encode(request)])
    with torch.inference_mode():
        wanted = net.generate(prompt, do_sample=False, max_new_tokens=12)[0, prompt.shape[1] :]
    assert asyncio.run(sample()) == tuple(wanted.tolist())


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_weights_that_cannot_be_loaded_are_a_model_error(
    model: Path, tmp_path: Path, backend: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError) as caught:
        asyncio.run(
            open_engine(
                checkpoint(broken),
                settings=settings_for(backend),
                log_folder=tmp_path,
                notify=lambda text: None,
            )
        )
    assert caught.value.where == str(broken) and caught.value.remedy


SAMPLE_ONCE = """
import asyncio, sys
from pathlib import Path
from factory.domain.records import Checkpoint, Message, Request, Sampling
from factory.engines.opening import open_engine
from factory.workspace.models import fingerprint
from factory.workspace.settings import EngineSection

async def main(backend, folder, logs):
    made = Checkpoint(id="tiny", path=folder, fingerprint=fingerprint(Path(folder)))
    settings = EngineSection(backend=backend, threads=1, max_model_len=128, memory_gib=0.06)
    async with await open_engine(
        made, settings=settings, log_folder=Path(logs), notify=print
    ) as engine:
        request = Request(
            id="r", messages=(Message(role="user", content="hello"),), sampling=Sampling(n=2)
        )
        print(len((await engine.sample([request]))[0].completions), "completions")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_nothing_connects_beyond_this_machine(model: Path, tmp_path: Path, backend: str) -> None:
    trace = tmp_path / "trace"
    strace = [
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-e",
        "trace=connect,sendto",
        "-o",
        str(trace),
    ]
    run = subprocess.run(
        [*strace, sys.executable, "-c", SAMPLE_ONCE, backend, str(model), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout.endswith("2 completions\n"), run.stderr
    inet = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert [line for line in inet if "127.0.0.1" not in line and "::1" not in line] == []
