"""Engines without a model: choice of backend, model folders, supervision, constraints, replay."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest_models import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from workspaces import child_pids, make_workspace

from factory.codes.trie import DEAD, ROOT, Trie
from factory.domain.failures import ChildError, InputError, MissingError, ModelError
from factory.domain.records import (
    ENGINE_DIED,
    PROMPT_TOO_LONG,
    UNANSWERED,
    Checkpoint,
    Completion,
    Constraint,
    Message,
    Reply,
    Request,
    Sampling,
)
from factory.engines import forest as forests
from factory.engines import opening
from factory.engines.base import check_request, unanswered
from factory.engines.chat import Chat
from factory.engines.constrain import BatchRows, Bound, Guide, make_guide
from factory.engines.forest import Forest
from factory.engines.opening import check_engine, choose_backend, open_engine
from factory.engines.process import DEATHS_PER_RESTART, ProcessEngine
from factory.engines.replay import ReplayEngine
from factory.engines.trainable import check_planned
from factory.engines.wire import reply_from_wire, request_from_wire
from factory.round.doctor import examine
from factory.workspace.models import INSTALL, check_model_folder, fingerprint, is_installed
from factory.workspace.prompts import Prompts
from factory.workspace.settings import EngineSection

SETTINGS = EngineSection(threads=1, max_model_len=128, max_restarts=2)


def ask(prompt: str, n: int = 1, seed: int = 0) -> Request:
    return Request(id=f"id of {prompt}", prompt=prompt, sampling=Sampling(n=n, seed=seed))


def texts(replies: list[Reply]) -> list[list[str]]:
    return [[completion.text for completion in reply.completions] for reply in replies]


def write_folder(folder: Path) -> Path:
    """A folder that looks like a model's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    return folder


# --- supervision, with a real child process that has no model ---


def with_engine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: Callable[[ProcessEngine], Awaitable[Any]],
    notes: list[str] | None = None,
    module: str = "child_engine",
) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    # child_picky serves as back ends do: what it is given is checked before.
    make = tiny_model if module == "child_picky" else write_folder
    folder = make(tmp_path / "model")

    async def run() -> Any:
        engine = ProcessEngine(
            module,
            Checkpoint(id="c", path=str(folder), fingerprint=fingerprint(folder)),
            settings=SETTINGS,
            log=tmp_path / "engine.log",
            notify=(notes if notes is not None else []).append,
        )
        await engine.start()
        async with engine:
            return await asyncio.wait_for(body(engine), 60)

    return asyncio.run(run())


def test_replies_come_in_request_order_and_calls_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> tuple[list[Reply], list[list[Reply]]]:
        assert engine.checkpoint.id == "c"
        assert await engine.sample([]) == []
        one = await engine.sample([ask("a", 2, 10), ask("b"), ask("\ud800", 1, 5)])
        many = await asyncio.gather(*(engine.sample([ask(f"q{i}")]) for i in range(50)))
        return one, list(many)

    one, many = with_engine(tmp_path, monkeypatch, body)
    assert texts(one) == [["a 10", "a 11"], ["b 0"], ["\ud800 5"]]
    assert [texts(replies) for replies in many] == [[[f"q{i} 0"]] for i in range(50)]


def test_a_death_is_survived_and_its_cause_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = f"die once {tmp_path / 'died'}"
    notes: list[str] = []

    async def body(engine: ProcessEngine) -> list[Reply]:
        replies = await engine.sample([ask("before"), ask(deadly, 2, 7), ask("after", 1, 9)])
        assert engine.num_restarts == 1
        return replies

    replies = with_engine(tmp_path, monkeypatch, body, notes)
    assert texts(replies) == [["before 0"], [f"{deadly} 7", f"{deadly} 8"], ["after 9"]]
    assert notes[0] == "loading" and "SIGKILL" in notes[1] and "sent again" in notes[1]


def test_deaths_of_different_requests_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    async def body(engine: ProcessEngine) -> int:
        for number in range(4):
            died_once = ask(f"die once {tmp_path / str(number)}")
            replies = await engine.sample([ask("fine"), died_once])
            assert texts(replies) == [["fine 0"], [f"{died_once.prompt} 0"]]
        return engine.num_restarts

    assert with_engine(tmp_path, monkeypatch, body, notes) == 4
    # Those that were answered before are forgotten.
    restarts = [re.search(r"(\d+) requests are sent again", note) for note in notes]
    assert {int(sent[1]) for sent in restarts if sent} <= {1, 2}


def test_only_the_request_that_kills_the_engine_stays_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    async def body(engine: ProcessEngine) -> int:
        # What comes behind the killer is in flight at each death, a suspect like it.
        together = engine.sample([ask("a"), ask("die", 2), ask("b"), ask("c", 1, 7)])
        replies, late = await asyncio.gather(together, engine.sample([ask("late")]))
        assert texts(replies) == [["a 0"], ["", ""], ["b 0"], ["c 7"]]
        fault = replies[1].completions[0].fault
        assert replies[1] == unanswered(ask("die", 2), ENGINE_DIED, fault=fault)
        assert fault.startswith("it ended the engine: killed by SIGKILL")
        assert texts(late) == [["late 0"]]
        assert texts(await engine.sample([ask("next")])) == [["next 0"]]
        return engine.num_restarts

    assert with_engine(tmp_path, monkeypatch, body, notes) == SETTINGS.max_restarts + 1
    assert sum("id of die stays unanswered" in note for note in notes) == 1


def test_a_suspect_taken_back_makes_way_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> None:
        stuck = asyncio.create_task(engine.sample([ask("never")]))
        await asyncio.sleep(0)
        killer = asyncio.create_task(engine.sample([ask("die")]))
        while engine.num_restarts < SETTINGS.max_restarts:
            await asyncio.sleep(0.01)
        stuck.cancel()
        assert (await killer)[0].completions[0].finish_reason == ENGINE_DIED
        assert texts(await engine.sample([ask("next")])) == [["next 0"]]

    with_engine(tmp_path, monkeypatch, body)


def test_an_engine_that_dies_over_everything_is_an_error_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    limit = DEATHS_PER_RESTART * SETTINGS.max_restarts

    async def body(engine: ProcessEngine) -> None:
        with pytest.raises(ChildError, match=rf"died {limit + 1} times: killed by SIGKILL"):
            await engine.sample([ask("die") for _ in range(limit + 1)])
        with pytest.raises(ChildError):
            await engine.sample([ask("later")])

    with_engine(tmp_path, monkeypatch, body, notes)
    assert sum("restarted" in note for note in notes) == limit


def test_a_model_that_changes_while_it_is_served_is_no_longer_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> None:
        assert texts(await engine.sample([ask("fine")])) == [["fine 0"]]
        (tmp_path / "model" / "chat_template.jinja").write_text("mended")
        with pytest.raises(ModelError, match="the chat template of checkpoint c changed while"):
            await engine.sample([ask(f"die once {tmp_path / 'died'}")])

    with_engine(tmp_path, monkeypatch, body)


def test_the_same_exception_over_each_request_is_the_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head size that a kernel lacks: every request met the same exception, 13 times."""
    notes: list[str] = []

    async def body(engine: ProcessEngine) -> str:
        calls = [engine.sample([replace(ask("crash"), id=f"r{n}")]) for n in range(24)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in failed} == {ChildError}
        return str(failed[0])

    told = with_engine(tmp_path, monkeypatch, body, notes)
    assert "died over each request that it was given, 3 times: exit code 1" in told
    assert "RuntimeError: cannot compute r1" in told and "mend what the log says" in told
    assert (tmp_path / "model" / "loads").read_text() == "..."
    assert not any("stays unanswered" in note for note in notes)


def test_a_request_that_raises_is_given_up_where_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> None:
        asked = [ask("crash"), *(ask(f"q{n}") for n in range(3)), replace(ask("crash"), id="two")]
        replies = await engine.sample(asked)
        assert texts(replies) == [[""], ["q0 0"], ["q1 0"], ["q2 0"], [""]]
        faults = [reply.completions[0].fault for reply in (replies[0], replies[-1])]
        assert faults[0].startswith("it ended the engine: exit code 1")
        assert faults[0].endswith("RuntimeError: cannot compute id of crash")
        assert faults[1].endswith("RuntimeError: cannot compute two")
        alone = await engine.sample([ask("crash")])
        assert alone[0].completions[0].finish_reason == ENGINE_DIED

    with_engine(tmp_path, monkeypatch, body)


@pytest.mark.slow  # its child imports transformers
def test_an_engine_that_refuses_all_in_the_same_words_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end token beyond the model's rows: vLLM refused each request, which were all booked."""

    async def body(engine: ProcessEngine) -> None:
        (alone,) = await engine.sample([ask("a")])
        assert alone.completions[0].fault == "stop_token_ids [999] out of vocab"
        with pytest.raises(ChildError, match="refuses every request: stop_token_ids") as caught:
            await engine.sample([ask("b"), ask("c")])
        assert "mend what it names" in caught.value.remedy and caught.value.exit_code == 3
        assert caught.value.where == str(tmp_path / "model")

    with_engine(tmp_path, monkeypatch, body, [], "child_picky")


@pytest.mark.slow  # its child imports transformers
def test_a_refused_request_has_no_answer_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    async def body(engine: ProcessEngine) -> list[Reply]:
        return await engine.sample([ask(prompt) for prompt in ("a", "ok", "b")])

    replies = with_engine(tmp_path, monkeypatch, body, notes, "child_picky")
    found = [reply.completions[0] for reply in replies]
    assert [each.finish_reason for each in found] == [ENGINE_DIED, "stop", ENGINE_DIED]
    refusal = "stop_token_ids [999] out of vocab"
    assert [each.fault for each in found] == [refusal, "", refusal]
    assert len(notes) == 1 and f"id of a, which stays unanswered: {refusal}" in notes[0]


def test_a_failure_of_the_child_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> None:
        with pytest.raises(ModelError, match="the trie is gone"):
            await engine.sample([ask("fail"), ask("never")])
        assert engine.num_restarts == 0

    with_engine(tmp_path, monkeypatch, body)


def test_a_cancelled_call_takes_its_requests_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.sample([ask("fine"), ask("never")]), 0.3)
        assert texts(await engine.sample([ask("next")])) == [["next 0"]]

    with_engine(tmp_path, monkeypatch, body)
    assert [path.name for path in (tmp_path / "model").glob("aborted-*")] == ["aborted-1"]


def test_copies_share_the_requests_and_die_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """engine.data_parallel: a child for each copy, on GPUs of its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setitem(opening.BACKENDS, "transformers", "child_engine")
    monkeypatch.setattr(opening, "visible_gpus", lambda: ("5", "7"))
    folder = write_folder(tmp_path / "model")
    where = Checkpoint(id="c", path=str(folder), fingerprint=fingerprint(folder))
    copies = {"threads": 4, "data_parallel": 2, "backend": "transformers"}

    async def run() -> tuple[list[list[Reply]], str]:
        async with await open_engine(
            where,
            settings=SETTINGS.model_copy(update=copies),
            log_folder=tmp_path,
            notify=lambda text: None,
        ) as engine:
            assert engine.checkpoint == where
            answers = [await engine.sample([ask("where", n=n, seed=4) for n in (1, 2, 1, 1)])]
            answers.append(await engine.sample([ask(f"die once {tmp_path / 'died'}")]))
            assert engine.num_restarts == 1
            with pytest.raises(ModelError, match="the trie is gone") as failed:
                await engine.sample([ask("fail"), ask("never")])
        return answers, failed.value.remedy

    (first, second), remedy = asyncio.run(run())
    wheres = [reply.completions[0].text for reply in first]
    assert wheres == [f"{gpu} of 2 threads 4" for gpu in (5, 7, 5, 5)]
    assert len(first[1].completions) == 2 and remedy == "make it"
    assert second[0].completions[0].text.endswith("died 0")
    assert (folder / "loads").read_text() == "..."  # two copies, and one again
    assert {path.name for path in tmp_path.glob("*.log")} == {
        "engine-transformers.log",
        "engine-transformers-2.log",
    }


def test_copies_need_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "visible_gpus", lambda: ("0", "1", "3"))
    four = EngineSection(tensor_parallel=2, data_parallel=2)
    with pytest.raises(MissingError, match="take 4 GPUs; this machine has 3"):
        opening.gpus_of_copies(four, "vllm")
    two = EngineSection(tensor_parallel=2)
    assert opening.gpus_of_copies(two, "vllm") == [("0", "1")]
    assert opening.gpus_of_copies(EngineSection(), "vllm") == [()]
    with pytest.raises(InputError, match="on one device"):
        opening.gpus_of_copies(two, "transformers")
    monkeypatch.setattr(opening, "visible_gpus", lambda: ())
    assert opening.gpus_of_copies(four, "vllm") == [(), ()]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("temperature", 3.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("max_tokens", 0),
        ("seed", -1),
    ],
)
def test_impossible_sampling_is_the_callers_error(field: str, value: float) -> None:
    values: dict[str, Any] = {field: value}
    with pytest.raises(InputError, match=f"{field} must be") as caught:
        check_request(Request(id="odd", prompt="p", sampling=Sampling(**values)))
    assert caught.value.where == "odd"
    with pytest.raises(InputError, match="either messages or a prompt"):
        check_request(Request(id="odd", sampling=Sampling()))


def test_close_cancels_what_waits_and_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: ProcessEngine) -> int:
        waiting = asyncio.create_task(engine.sample([ask("never")]))
        await asyncio.sleep(0.05)
        (pid,) = child_pids()
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ChildError, match="closed"):
            await engine.sample([ask("late")])
        return pid

    pid = with_engine(tmp_path, monkeypatch, body)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("code", "remedy"), [(9, "mend what the log says"), (12, "gpu_memory")])
def test_a_child_that_never_gets_ready_is_an_error_of_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    (write_folder(tmp_path / "model") / "dies").write_text(str(code))

    async def body(engine: ProcessEngine) -> None:
        raise AssertionError("it is not ready")

    with pytest.raises(ChildError, match=f"2 times while it loaded: exit code {code}") as caught:
        with_engine(tmp_path, monkeypatch, body)
    assert remedy in caught.value.remedy
    assert (tmp_path / "model" / "loads").read_text() == ".."


def test_other_weights_than_recorded_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setitem(opening.BACKENDS, "transformers", "child_engine")
    folder = write_folder(tmp_path / "model")
    checkpoint = Checkpoint(id="r3", path=str(folder), fingerprint=fingerprint(folder))
    save_file({"x": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="weights of checkpoint r3 have changed") as caught:
        asyncio.run(
            open_engine(
                checkpoint,
                settings=SETTINGS.model_copy(update={"backend": "transformers"}),
                log_folder=tmp_path,
                notify=lambda text: None,
            )
        )
    assert caught.value.where == str(folder) and caught.value.remedy


# --- choice of backend and model folders ---


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name in packages else real(name, package),
    )


def test_auto_takes_vllm_where_it_is_and_else_says_that_it_is_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(opening, "is_installed", lambda package: True)
    assert choose_backend("auto", notes.append) == "vllm" and not notes
    monkeypatch.setattr(opening, "is_installed", lambda package: package != "vllm")
    assert choose_backend("auto", notes.append) == "transformers"
    assert "slower" in notes[0] and "pip install" in notes[0]


def test_a_missing_backend_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "vllm", "transformers")
    for backend in ("vllm", "transformers", "auto"):
        with pytest.raises(MissingError) as caught:
            choose_backend(backend, lambda text: None)
        assert "pip install 'tool-factory[" in caught.value.remedy
    with pytest.raises(InputError, match="no engine 'vlm'"):
        choose_backend("vlm", lambda text: None)


def test_an_engine_that_is_asked_for_and_missing_is_named_before_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"ray"}
    monkeypatch.setattr(opening, "is_installed", lambda package: package not in missing)
    workspace = make_workspace(tmp_path / "ws")
    dealt = EngineSection(backend="ray", inner="vllm")

    def look(**engine: str) -> tuple[str, str, str]:
        lines = [f'{key} = "{value}"' for key, value in engine.items()]
        workspace.marker.write_text("\n".join(["[engine]", *lines]), encoding="utf-8")
        found = next(check for check in examine(workspace) if check.name == "engine")
        return found.state, found.detail, found.remedy

    assert look(backend="ray") == ("bad", "ray is not installed", INSTALL["ray"])
    with pytest.raises(MissingError, match="ray is not installed"):
        check_planned(workspace.model_folder("rounds/seed"), Prompts.load(workspace), dealt)
    missing |= {"vllm"}
    missing -= {"ray"}
    assert look(backend="ray", inner="vllm")[:2] == ("bad", "vllm is not installed")
    assert look()[0] == "warn"
    assert look(backend="transformers")[1].startswith("transformers ")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert check_engine(dealt, print) == ("ray",)


def test_a_folder_of_that_name_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_engine_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("some_engine_folder")


def test_fingerprint_is_of_names_and_bytes_of_weights_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    first = fingerprint(folder)
    assert first.startswith("sha256:") and len(first) == 71
    (folder / "README.md").write_text("a card")
    assert fingerprint(folder) == first
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    renamed = fingerprint(folder)
    (folder / "other.safetensors").write_bytes(b"weightz")
    assert len({first, renamed, fingerprint(folder)}) == 3


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("model.safetensors", "weights"),
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_an_incomplete_model_folder_says_what_is_missing(
    tmp_path: Path, missing: str, word: str
) -> None:
    folder = write_folder(tmp_path / "m")
    check_model_folder(folder)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=word) as caught:
        check_model_folder(folder)
    assert caught.value.where == str(folder) and caught.value.remedy
    with pytest.raises(ModelError, match="does not exist"):
        check_model_folder(tmp_path / "nowhere")


def test_a_chat_template_inside_the_tokenizer_config_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_model_folder(folder)


# --- the wire, constraints, replay ---


def test_a_tokenizer_written_in_python_serves(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    folder = tiny_model(tmp_path / "model")
    for file in folder.glob("*token*"):
        file.unlink()
    tokenizer = ByT5Tokenizer(chat_template="{{ messages[0].content }}</s>")
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink(missing_ok=True)
    request = Request(
        id="python", messages=(Message(role="user", content="ab"),), sampling=Sampling()
    )
    assert Chat(folder).encode(request) == [100, 101, 1]


def test_prompts_are_tokenised_as_the_tokenizer_does_it_whole(tmp_path: Path) -> None:
    """Also where the saved tokenizer cuts and pads, which transformers switches off."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = tiny_model(tmp_path / "model")
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(3)
    rust.enable_padding(length=40)
    rust.save(str(folder / "tokenizer.json"))
    chat, tokenizer = Chat(folder), AutoTokenizer.from_pretrained(folder)
    for text in (
        "Book a table for four.",
        "<|end|> of <|user|>",
        "\N{WAVING HAND SIGN} wave " * 30,
        "",
    ):
        raw = Request(id="raw", prompt=text, sampling=Sampling())
        assert chat.encode(raw) == (tokenizer.encode(text) or [min(chat.end_ids)])
        messages = (Message(role="user", content=text),)
        asked = Request(id="asked", messages=messages, sampling=Sampling())
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        forged = "<|end|>" in text
        assert (chat.encode(asked) == expected) != forged
        assert chat.encode(asked).count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (Constraint(), "either a trie or tools"),
        (Constraint(trie="t", tools=({"name": "f"},)), "either a trie or tools"),
        (Constraint(tools=({"name": "f"},), until="\n"), "no code to bound"),
        (Constraint(tools=({"name": "f"}, {"name": "g"})), "of one tool"),
        (Constraint(trie="t", documents="d"), "needs `until`"),
        (Constraint(trie="t", documents="d", until="\n", after="Action: "), "needs `until`"),
    ],
)
def test_a_contradictory_constraint_is_the_callers_error(
    constraint: Constraint, fault: str
) -> None:
    request = Request(id="r", prompt="p", sampling=Sampling(), constraint=constraint)
    with pytest.raises(InputError, match=fault):
        check_request(request)


def test_a_beam_needs_a_trie_that_binds_the_whole_answer() -> None:
    beam = Sampling(n=4, beam=True)
    check_request(Request(id="r", prompt="p", sampling=beam, constraint=Constraint(trie="t")))
    others = (Constraint(tools=({"name": "f"},)), Constraint(trie="t", until="\n"))
    for constraint in (None, Constraint(trie="t", after="a"), *others):
        request = Request(id="r", prompt="p", sampling=beam, constraint=constraint)
        with pytest.raises(InputError, match="binds the whole answer"):
            check_request(request)


def test_records_survive_the_wire() -> None:
    requests = [
        Request(id="a", prompt="p", sampling=Sampling(seed=2**61), constraint=Constraint(trie="t")),
        Request(
            id="b",
            messages=(Message(role="system", content="s"), Message(role="user", content="\ud83d")),
            sampling=Sampling(n=5, temperature=0.7, top_k=40),
            constraint=Constraint(tools=({"name": "f"}, {"name": "g"}), form="calls"),
        ),
    ]
    assert [request_from_wire(asdict(request)) for request in requests] == requests
    completion = Completion(text="é", token_ids=(1, 2), finish_reason="stop", logprob=-0.25)
    reply = Reply(request_id="a", completions=(completion, completion), num_prompt_tokens=4)
    assert reply_from_wire(asdict(reply)) == reply
    empty = unanswered(requests[1], PROMPT_TOO_LONG, 900)
    assert reply_from_wire(asdict(empty)) == empty and empty.num_prompt_tokens == 900
    assert texts([empty]) == [[""] * 5] and empty.completions[0].finish_reason in UNANSWERED


CODES = st.dictionaries(
    st.lists(st.integers(3, 8), min_size=1, max_size=4).map(tuple),
    st.sampled_from("abc"),
    min_size=1,
    max_size=12,
)
VOCABULARY, UNTIL, OPEN, OTHER = 14, 9, (10, 11), (12,)


def walk(guide: Guide | None, output: Sequence[int]) -> set[int]:
    """What may follow, token by token as algorithms §6 says it: the reference."""
    everything = set(range(VOCABULARY))
    if guide is None:
        return everything
    trie = guide.trie
    node: int | None = None if guide.marker else ROOT
    for at, token in enumerate(output):
        if node is not None:
            left = trie.step(node, token) == DEAD
            closes = left and token == guide.close and (node == DEAD or trie.is_leaf(node))
            node = trie.step(node, token)
            if closes:
                node = None if guide.spans else DEAD
        seen = tuple(output[: at + 1])
        if node is None and guide.marker and seen[-len(guide.marker) :] == guide.marker:
            node = ROOT
    if node is None:
        return everything
    allowed = set(trie.allowed(node).tolist())
    return {guide.close if token == trie.end else token for token in allowed}


@st.composite
def guided_rows(draw: st.DrawFn) -> list[tuple[Guide | None, list[int]]]:
    """A batch: rows with several tries and kinds of span, each some way on its allowed paths."""
    tries = [
        Trie.build(list(codes), list(codes.values()), end=2)
        for codes in draw(st.lists(CODES, min_size=1, max_size=3))
    ]
    rows: list[tuple[Guide | None, list[int]]] = []
    for _ in range(draw(st.integers(1, 6))):
        marker = draw(st.sampled_from([(), OPEN, OTHER]))
        until = draw(st.sampled_from([2, UNTIL]))
        guide = Guide(
            trie=draw(st.sampled_from(tries)),
            close=until,
            marker=marker,
            spans=bool(marker) or until == UNTIL,
        )
        output: list[int] = []
        chosen = draw(st.sampled_from([guide, guide, guide, None]))
        for _ in range(draw(st.integers(0, 14))):
            allowed = walk(chosen, output)
            likely = sorted(allowed & {*OPEN, *OTHER}) or sorted(allowed)
            output.append(draw(st.sampled_from(draw(st.sampled_from([likely, sorted(allowed)])))))
        rows.append((chosen, output))
    return rows


def allowed_tokens(logits_RV: Any) -> list[set[int]]:
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits_RV]


@settings(max_examples=60)
@given(guided_rows())
def test_a_batch_allows_what_the_trie_allows_each_row(
    rows: list[tuple[Guide | None, list[int]]],
) -> None:
    import torch

    guided = {row: (Bound(guide, "", None), ids) for row, (guide, ids) in enumerate(rows) if guide}
    logits = torch.randn(len(rows), VOCABULARY)
    before = logits.clone()
    BatchRows(Forest(logits.device), guided, len(rows)).apply(logits)
    assert allowed_tokens(logits) == [walk(guide, ids) for guide, ids in rows]
    assert torch.equal(logits[logits.isfinite()], before[logits.isfinite()])


def test_a_forest_drops_what_nobody_walks_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(forests, "LEAST_ROOM", 20)
    forest = Forest(torch.device("cpu"))
    old = Trie.build([(a, b) for a in range(3, 9) for b in range(3, 9)], [""] * 36, end=2)
    new = Trie.build([(3, 4)], ["t"], end=2)
    forest.cover([old])
    forest.cover([new])
    with pytest.raises(KeyError):
        forest.root(old)
    nodes = forest.step(torch.tensor([forest.root(new)] * 2), torch.tensor([3, 4]))
    assert forest.is_leaf(nodes).tolist() == [False, True]
    forest.cover([old, new])
    assert forest.root(old) != forest.root(new)


def test_a_guide_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "trie.npz")
    with pytest.raises(ModelError):
        make_guide(path, (), (), None, 100)
    Trie.build([(7, 8), (7, 5)], ["t_1", "t_2"], end=2).save(path)
    guide = make_guide(path, (), (), None, 9)
    assert guide.close == 2 and not guide.spans and guide.trie.lookup((7, 8)) == "t_1"
    assert make_guide(path, ("t_2",), (), None, 9).trie.lookup((7, 8)) is None
    assert make_guide(path, (), (), None, 9) is guide
    with pytest.raises(ModelError, match="token 8"):
        make_guide(path, (), (), None, 8)
    with pytest.raises(ModelError, match="t_9"):
        make_guide(path, ("t_9",), (), None, 9)
    with pytest.raises(InputError, match="until"):
        make_guide(path, (), (), 7, 9)
    with pytest.raises(InputError, match="after"):
        make_guide(path, (), (1, 8), None, 9)


def test_every_field_of_a_request_reaches_the_replayed_answers_or_is_refused() -> None:
    """A field that is added has to be thought of here."""
    plain = Request(id="r", messages=(Message(role="user", content="a"),), sampling=Sampling(n=2))
    changes: dict[str, Any] = {
        "id": "s",
        "sampling": Sampling(n=1, temperature=1, top_k=2, top_p=0.5, max_tokens=3, seed=4),
        "messages": (Message(role="user", content="a b c"),),
        "prompt": None,
        "constraint": Constraint(trie="t"),
        "tools": ({"type": "function"},),
        "logprob": False,
    }
    assert {field.name for field in fields(Request)} == changes.keys()
    engine = ReplayEngine(lambda request: [repr(request)])

    def replay(request: Request) -> Reply:
        return asyncio.run(engine.sample([request]))[0]

    for name, value in changes.items():
        request = replace(plain, **{name: value})
        reply = replay(request)
        assert [one.text for one in reply.completions] == [repr(request)] * request.sampling.n
        assert reply.request_id == request.id, name
    assert replay(replace(plain, messages=(), prompt="a b")).num_prompt_tokens == 2
    asked = len(engine.requests)
    sampling: dict[str, Any] = {"n": 0, "temperature": 3.0, "top_k": -1, "top_p": 0.0}
    sampling |= {"max_tokens": 0, "seed": -1, "beam": True}
    assert {field.name for field in fields(Sampling)} == sampling.keys()
    for refused in (
        *(replace(plain, sampling=replace(plain.sampling, **{k: v})) for k, v in sampling.items()),
        replace(plain, prompt="also raw"),
        replace(plain, messages=()),
        replace(plain, messages=(), prompt="raw", tools=({},)),
        replace(plain, constraint=Constraint()),
    ):
        with pytest.raises(InputError):
            asyncio.run(engine.sample([plain, refused]))
    assert len(engine.requests) == asked, "nothing beside it is answered"


def test_replay_answers_from_a_table_or_a_function() -> None:
    async def run() -> None:
        async with ReplayEngine({"id of a": ["x", "y z"], "id of b": ["same"]}) as engine:
            replies = await engine.sample([ask("b", 2), ask("a", 2)])
            assert texts(replies) == [["same", "same"], ["x", "y z"]]
            assert replies[1].completions[1].token_ids == (0, 1)
            assert [request.prompt for request in engine.requests] == ["b", "a"]
            with pytest.raises(InputError, match="No answer is recorded"):
                await engine.sample([ask("c")])
            with pytest.raises(InputError, match="2 recorded answers, 3 asked"):
                await engine.sample([ask("a", 3)])
        bound = Request(
            id="f", prompt="p", sampling=Sampling(n=3, beam=True), constraint=Constraint(trie="t")
        )
        assert texts(await ReplayEngine({"f": ["one"]}).sample([bound])) == [["one"]]
        echo = ReplayEngine(lambda request: [(request.prompt or "").upper()])
        assert texts(await echo.sample([ask("hello")])) == [["HELLO"]]
        assert echo.checkpoint.id == "replay"

    asyncio.run(run())
