"""An agent that solves a request step by step: Thought, code, input, response (algorithms §3.4).

A step is three assistant turns. The thought is free text; the action turn is one code, decoded
under a trie of the tools at hand and Finish; the input turn is JSON after the tool's documentation
was shown. Only the action turn is constrained (§6), unless `constrain_inputs` binds the input turn
to the documented schema too. It ends with Finish or after MAX_TURNS steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from factory.codes.saving import SavedCodebook
from factory.codes.trie import Trie
from factory.domain.canon import canonical_json, derive_seed, digest, to_json
from factory.domain.failures import ModelError
from factory.domain.jsontext import parse_strict
from factory.domain.records import (
    SCHEMA_UNSUPPORTED,
    UNANSWERED,
    Completion,
    Constraint,
    Message,
    Request,
    Sampling,
)
from factory.engines.base import Engine
from factory.score.toolbench.data import (
    ApiDocument,
    ApiKey,
    ToolQuery,
    keys_of_tools,
    to_tool,
)
from factory.score.toolbench.turns import (
    FINISH,
    FINISH_DOCUMENT,
    FINISH_TOOL,
    MAX_RESPONSE,
    MAX_TURNS,
    Turns,
    action_name,
    documentation_of,
    gt_head,
    is_repeat,
    read_ending,
)
from factory.score.toolbench.virtual import VirtualApi
from factory.workspace.prompts import Prompts

TEMPERATURES = (0.0, 0.6, 1.0, 1.0, 1.0)
"""Of the attempts, one after the other, while the last one gave up (§3.4)."""
Decode = Literal["sample", "beam"]
BEAMS = 5
"""Branches of the beam that searches for the action's code (SGTC, ToolGen)."""
Setting = Literal["gt", "retrieval"]
"""Ground-truth tools are named and the only ones at hand; or all tools are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Thought, action, input, response. Example: Step(thought="First the rate.", …)."""

    thought: str
    action: str
    """The action turn's text: a code, or a name."""
    key: ApiKey | None
    """What it names: an API, FINISH, or None where it names nothing."""
    arguments: str
    response: str
    """What the API said, as the agent saw it; empty for Finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """An attempt at one request. Example: Trajectory(query_id="I1-Inst/588", …)."""

    query_id: str
    query: str
    steps: tuple[Step, ...]
    """In order; the last is Finish where it ended by itself."""
    return_type: str
    """give_answer, give_up_and_restart, or empty where Finish was never called."""
    final_answer: str
    """What the user is told."""
    reason: str = ""
    """Why it ended without an answer: gave_up, repeated, finish_json, max_turns, a finish reason
    of the engine; empty with an answer."""
    attempts: int = 1
    """Attempts made; this is the last of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Actions by code: the trie holds the codes of the tools at hand, and one for Finish."""

    codebook: SavedCodebook
    """Of the checkpoint that acts."""
    texts: Mapping[ApiKey, str]
    """Codes of the APIs at hand and of FINISH."""
    keys: Mapping[str, ApiKey]
    """What a code names; of several APIs with one code the first."""
    folder: Path
    """Where tries are written, one file a set of tools."""
    constraint: Constraint | None
    """None is a free action: a text that names no tool at hand is an error the agent is told."""

    @classmethod
    def of(
        cls,
        codebook: SavedCodebook,
        documents: Mapping[ApiKey, Sequence[ApiDocument]],
        *,
        folder: Path,
    ) -> Codes:
        """The codes of all documents that have one, and of Finish."""
        texts: dict[ApiKey, str] = {}
        for key, several in documents.items():
            coded = [tool for tool in keys_of_tools(several) if tool in codebook]
            if coded:
                texts[key] = codebook.code_text(coded[0])
        return cls._make(codebook, {**texts, FINISH: _finish_code(codebook)}, folder)

    @classmethod
    def _make(cls, codebook: SavedCodebook, texts: Mapping[ApiKey, str], folder: Path) -> Codes:
        keys = {text: key for key, text in reversed(list(texts.items()))}
        # Finish may be a tool of the corpus too: its code ends the task.
        keys[texts[FINISH]] = FINISH
        return cls(
            codebook=codebook,
            texts=texts,
            keys=keys,
            folder=folder,
            constraint=_write_trie(codebook, texts, folder),
        )

    @property
    def max_tokens(self) -> int:
        return self.codebook.num_levels + 1

    @property
    def listing(self) -> Sequence[str]:
        return ()

    def __contains__(self, key: ApiKey) -> bool:
        return key in self.texts

    def read(self, text: str) -> ApiKey | None:
        code = self.codebook.parse(text)
        return None if code is None else self.keys.get(self.codebook.text_of(code))

    def write(self, key: ApiKey) -> str:
        return self.texts[key]

    def only(self, keys: Sequence[ApiKey]) -> Codes:
        """The same codes with only these tools and Finish at hand (§2.8 GT, in-domain)."""
        texts = {key: self.texts[key] for key in (*keys, FINISH) if key in self.texts}
        return self._make(self.codebook, texts, self.folder)


def _write_trie(codebook: SavedCodebook, texts: Mapping[ApiKey, str], folder: Path) -> Constraint:
    """A file with the trie of these codes; the same codes have the same file."""
    codes = sorted(set(texts.values()))
    path = folder / f"{digest(canonical_json([codebook.sha(), codes]), 16)}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        end = Trie.load(codebook.trie_path).end
        Trie.build([codebook.spell(text) for text in codes], codes, end).save(path)
    return Constraint(trie=str(path))


@dataclass(frozen=True, slots=True)
class Names:
    """Actions by name, in free text: for models without codes, and for servers behind HTTP."""

    keys: tuple[ApiKey, ...]
    """The APIs at hand, listed in the system prompt."""
    constraint: None = None
    """Names are not constrained: one that does not exist is an error the agent is told."""
    max_tokens: int = 64
    """Of the action turn."""

    @property
    def listing(self) -> Sequence[str]:
        return [*map(action_name, self.keys), FINISH.api]

    def __contains__(self, key: ApiKey) -> bool:
        return key == FINISH or key in self.keys

    def read(self, text: str) -> ApiKey | None:
        name = text.strip()
        return next((key for key in (*self.keys, FINISH) if self.write(key) == name), None)

    def write(self, key: ApiKey) -> str:
        return action_name(key)


ActionSpace: TypeAlias = Codes | Names
"""How an agent names its next action: what the action turn may decode (`constraint`) and how long
it is, the names that the system prompt lists, and a text read and written as an API or FINISH."""


def _finish_code(codebook: SavedCodebook) -> str:
    """Code of the tool called Finish, else the one reserved for it, else the last free one."""
    for entry in codebook.tools:
        if entry.tool.name == FINISH.api:
            return codebook.code_text(entry.tool.id)
    if codebook.finish is not None:
        return codebook.text_of(codebook.finish)
    if not codebook.tokens:
        raise ModelError(
            f"{codebook.coder.name} codes leave none for Finish",
            where=str(codebook.trie_path.parent),
            remedy="add a tool called Finish and train a round, or use a coder with code tokens",
        )
    levels = [range(len(level) - 1, -1, -1) for level in codebook.tokens]
    texts = map(codebook.text_of, itertools.product(*levels))
    return next(text for text in texts if codebook.tool_of(text) is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Everything an attempt needs. Example: await Agent(engine=…).solve(query, actions)."""

    engine: Engine
    templates: Prompts
    apis: VirtualApi
    documents: Mapping[ApiKey, Sequence[ApiDocument]]
    """Documentation of every API at hand."""
    seed: int = 0
    max_turns: int = MAX_TURNS
    """Steps of an attempt."""
    max_tokens: int = 512
    """Of a thought, and of an input."""
    temperatures: Sequence[float] = TEMPERATURES
    """Of the attempts; one is no retry."""
    constrain_inputs: bool = False
    """Bind inputs to the schema of the tool that was named; off in the paper (§6)."""
    decode: Decode = "sample"
    """How a code is decoded: at the attempt's temperature, or the likeliest of BEAMS branches."""

    async def solve(
        self, query: ToolQuery, actions: ActionSpace, setting: Setting = "retrieval"
    ) -> Trajectory:
        """Attempts at one request, until one does not give up; the last one made."""
        for attempt, temperature in enumerate(self.temperatures, start=1):
            made = await self._attempt(query, actions, setting, attempt, temperature)
            if made.reason not in ("gave_up", "repeated"):
                break
        return made

    async def _attempt(
        self,
        query: ToolQuery,
        actions: ActionSpace,
        setting: Setting,
        attempt: int,
        temperature: float,
    ) -> Trajectory:
        """One attempt from the start."""
        turns = list(Turns(self.templates).open(query.text, actions.listing))
        trajectory = Trajectory(
            query_id=query.id,
            query=query.text,
            steps=(),
            return_type="",
            final_answer="",
            reason="max_turns",
            attempts=attempt,
        )
        seen: dict[ApiKey, list[str]] = {}
        head = ""
        if setting == "gt":
            # The tools at hand are named at the head of the plan (§3.4).
            head = gt_head([actions.write(key) for key in sorted(query.relevant) if key in actions])
        for number in range(self.max_turns):
            name = f"{query.id}/{attempt}/{number}"
            step = await self._step(name, turns, actions, temperature, "" if number else head)
            if isinstance(step, str):
                return replace(trajectory, reason=step)
            trajectory = replace(trajectory, steps=(*trajectory.steps, step))
            if step.key == FINISH:
                return _finish(trajectory, step.arguments)
            if step.key is not None:
                inputs = seen.setdefault(step.key, [])
                if is_repeat(step.arguments, inputs):
                    return replace(trajectory, reason="repeated")
                inputs.append(step.arguments)
        return trajectory

    async def _step(
        self, name: str, turns: list[Message], actions: ActionSpace, temperature: float, prefix: str
    ) -> Step | str:
        """The three turns of a step, added to `turns`; or why the engine gave none."""

        async def say(kind: str, max_tokens: int, constraint: Constraint | None) -> str | None:
            sampling = Sampling(
                temperature=temperature,
                max_tokens=max_tokens,
                seed=derive_seed(self.seed, name, kind),
            )
            if kind == "action" and constraint is not None and self.decode == "beam":
                sampling = replace(sampling, n=BEAMS, temperature=0.0, beam=True)
            request = Request(
                id=f"{name}/{kind}",
                messages=tuple(turns),
                sampling=sampling,
                constraint=constraint,
                logprob=False,
            )
            completion = await self._ask(request)
            if completion.finish_reason in UNANSWERED:
                turns.append(Message(role="assistant", content=completion.finish_reason))
                return None
            text = (prefix if kind == "thought" else "") + completion.text
            coded = isinstance(actions, Codes)
            turns.append(Message(role="assistant", content=text, codes=coded))
            return text

        asked = Turns(self.templates)
        if (thought := await say("thought", self.max_tokens, None)) is None:
            return turns[-1].content
        turns.append(asked.ask_action())
        if (action := await say("action", actions.max_tokens, actions.constraint)) is None:
            return turns[-1].content
        key = actions.read(action)
        if key is None:
            known = to_json({"error": f"there is no tool {action.strip()!r}", "response": ""})
            turns.append(Message(role="user", content=known))
            return Step(thought=thought, action=action, key=None, arguments="", response=known)
        turns.append(asked.ask_input(self._documentation(key)))
        bound = self._input_constraint(key) if self.constrain_inputs else None
        if (arguments := await say("input", self.max_tokens, bound)) is None:
            return turns[-1].content
        response = "" if key == FINISH else await self._call(key, arguments)
        turns.append(Message(role="user", content=response))
        return Step(thought=thought, action=action, key=key, arguments=arguments, response=response)

    async def _ask(self, request: Request) -> Completion:
        """The answer, of a beam the likeliest; free where no schema can constrain it."""
        completion = (await self.engine.sample([request]))[0].completions[0]
        if completion.finish_reason == SCHEMA_UNSUPPORTED:
            request = replace(request, constraint=None)
            completion = (await self.engine.sample([request]))[0].completions[0]
        return completion

    def _input_constraint(self, key: ApiKey) -> Constraint | None:
        """The schema of an input; None where the documentation is no tool's."""
        if key == FINISH:
            return Constraint(tools=(dict(FINISH_TOOL),))
        tool = to_tool(self.documents[key][0])
        return Constraint(tools=(tool.document,)) if tool else None

    async def _call(self, key: ApiKey, text: str) -> str:
        """The response as the agent sees it; input that is no JSON object reaches no API."""
        try:
            arguments = parse_strict(text)
            if not isinstance(arguments, dict):
                raise ValueError("the input is no JSON object")
        except (ValueError, RecursionError) as error:
            return to_json({"error": f"the input cannot be read: {error}", "response": ""})
        found = await self.apis.call(self.documents[key][0], arguments)
        return found.text[:MAX_RESPONSE]

    def _documentation(self, key: ApiKey) -> Mapping[str, Any]:
        """Of the tool that the API is; of an API that is none as ToolBench describes it."""
        if key == FINISH:
            return FINISH_DOCUMENT
        first = self.documents[key][0]
        if (tool := to_tool(first)) is not None:
            return documentation_of(tool.document)
        return {
            "name": key.api,
            "description": first.document.get("api_description", ""),
            "required": first.document.get("required_parameters", []),
            "optional": first.document.get("optional_parameters", []),
        }


def _finish(trajectory: Trajectory, text: str) -> Trajectory:
    """The trajectory ended by Finish with this input."""
    end = read_ending(text)
    return replace(
        trajectory, return_type=end.return_type, final_answer=end.final_answer, reason=end.reason
    )
