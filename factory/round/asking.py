"""One query's requests to the model, and every raw output as a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from factory.codes.saving import SavedCodebook
from factory.domain.canon import canonical_json, derive_seed, to_json
from factory.domain.records import (
    SCHEMA_UNSUPPORTED,
    Completion,
    Constraint,
    Message,
    Query,
    Reply,
    Request,
    Sampling,
    Tool,
)
from factory.engines.base import Engine
from factory.ledger.rows import LOG, unsampled_row
from factory.ledger.tables import GenerationRow
from factory.lessons.wishes import ASK, Wish
from factory.round.factory import Factory
from factory.round.sampler import Proposal, find_namesakes
from factory.workspace.prompts import (
    Prompts,
    asking_messages,
    generation_messages,
    invocation_messages,
)
from factory.workspace.recipe import Recipe

WRITING_TEMPERATURE, WRITING_TOP_P = 0.8, 0.95
"""Of requests that the model writes."""
MORE = "more"
"""Subject of the calls that are asked for where the first n do not agree."""


def asking_for(
    factory: Factory,
    number: int,
    engine: Engine,
    query: Query,
    codebook: SavedCodebook | None = None,
) -> Asking:
    """What a round asks an engine for a query, by its prompts and recipe."""
    return Asking(
        query=query,
        round_number=number,
        engine=engine,
        prompts=factory.prompts,
        recipe=factory.recipe,
        codebook=codebook,
    )


def logged_reply(query_id: str, text: str) -> Reply:
    """What a log has, as an answer."""
    completion = Completion(text=text, token_ids=(), finish_reason="stop", logprob=0.0)
    return Reply(request_id=f"{query_id}/log", completions=(completion,), num_prompt_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """An Answerer that asks an engine."""

    query: Query
    round_number: int
    engine: Engine
    prompts: Prompts
    recipe: Recipe
    codebook: SavedCodebook | None
    """The checkpoint's codes; None where it has none yet."""
    generations: list[GenerationRow] = field(default_factory=list)
    """Every answer so far, in order of the stages."""
    namesakes: list[Tool] = field(default_factory=list)
    """Retrieved tools that are not shown, because one that is shown has their name."""

    async def write_tools(self) -> Reply:
        """One sample of candidate tools at the recipe's temperature (algorithms §1.4); the tools of
        its log, where the query comes from one that has some.
        """
        if self.query.log is not None and self.query.log.tools:
            documents = to_json([tool.document for tool in self.query.log.tools])
            text = f"<tools>\n{documents}\n</tools>"
            self.generations.append(
                unsampled_row(self.round_number, self.query.id, "tools", text, LOG)
            )
            return logged_reply(self.query.id, text)
        tools = self.recipe.tools
        request = Request(
            id=f"{self.query.id}/tools",
            messages=generation_messages(self.query.text, self.prompts),
            sampling=Sampling(
                temperature=tools.temperature,
                max_tokens=tools.max_tokens,
                seed=self._seed("tools"),
            ),
        )
        (reply,) = await self.engine.sample([request])
        self._keep("tools", "", request, reply, "tools/generate")
        return reply

    async def propose_codes(self, tools: Sequence[Tool]) -> list[Proposal]:
        """Greedy, along the grammar of codes rather than the trie: a new tool's code is new."""
        if self.codebook is None or self.codebook.grammar_path is None:
            return []
        constraint = Constraint(trie=str(self.codebook.grammar_path))
        sampling = Sampling(max_tokens=self.codebook.num_levels + 1)
        requests = [
            Request(
                id=f"{self.query.id}/propose/{index}",
                messages=(self._ask_with("codes/encode", tool=tool.document),),
                sampling=sampling,
                constraint=constraint,
            )
            for index, tool in enumerate(tools)
        ]
        replies = await self.engine.sample(requests)
        proposals = []
        for tool, request, reply in zip(tools, requests, replies, strict=True):
            self._keep("propose", tool.id, request, reply, "codes/encode")
            completion = reply.completions[0]
            valid = self.codebook.parse(completion.text) is not None
            proposals.append(Proposal(tool.id, completion, valid))
        return proposals

    async def show(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """With tools that the model names by code for the query: answers or hard distractors.

        Drawn at temperature 1, or the likeliest ones (codes.decode), as the papers name tools.
        """
        codes, codebook = self.recipe.codes, self.codebook
        if codebook is None or codes.retrieve == 0 or codes.keep == 0:
            return tools
        request = Request(
            id=f"{self.query.id}/retrieve",
            messages=(self._ask_with("codes/retrieve", query=self.query.text),),
            sampling=Sampling(
                n=codes.retrieve,
                temperature=0.0 if codes.decode == "beam" else 1.0,
                beam=codes.decode == "beam",
                max_tokens=codebook.num_levels + 1,
                seed=self._seed("retrieve"),
            ),
            constraint=Constraint(trie=str(codebook.trie_path)),
        )
        (reply,) = await self.engine.sample([request])
        self._keep("retrieve", "", request, reply, "codes/retrieve")
        likeliest = sorted(reply.completions, key=lambda c: -c.logprob)
        found = [t for each in likeliest if (t := codebook.tool_of(each.text)) is not None]
        retrieved: list[Tool] = []
        names = {tool.name for tool in tools}
        for tool in found:
            if tool.name not in names:
                names.add(tool.name)
                retrieved.append(tool)
        shown = (*tools, *retrieved[: codes.keep])
        self.namesakes.extend(find_namesakes(found, shown))
        return shown

    async def call(self, shown: tuple[Tool, ...]) -> Reply:
        """n samples of calls by top-k sampling (algorithms §1.4, A4)."""
        calls = self.recipe.calls
        return await self._call(
            "calls", shown, calls.n, temperature=calls.temperature, constrain=calls.constrain
        )

    @property
    def has_more(self) -> bool:
        return self.recipe.calls.more > 0

    async def call_more(self, shown: tuple[Tool, ...]) -> Reply:
        """More samples, drawn otherwise."""
        calls = self.recipe.calls
        return await self._call(
            MORE,
            shown[::-1] if calls.more_order == "reversed" else shown,
            calls.more,
            first=calls.n,
            temperature=calls.more_temperature,
            constrain=calls.more_constrain,
        )

    async def _call(
        self,
        stage: str,
        shown: tuple[Tool, ...],
        n: int,
        *,
        temperature: float,
        constrain: str,
        first: int = 0,
    ) -> Reply:
        """n samples of calls, counted from `first` on."""
        calls, documents = self.recipe.calls, [tool.document for tool in shown]
        constraint = None
        if constrain == "schema":
            constraint = Constraint(tools=tuple(documents), form="calls")
        request = Request(
            id=f"{self.query.id}/{stage}",
            messages=invocation_messages(self.query.text, documents, self.prompts),
            sampling=Sampling(
                n=n,
                temperature=temperature,
                top_k=calls.top_k,
                top_p=calls.top_p,
                max_tokens=calls.max_tokens,
                seed=self._seed(stage),
            ),
            constraint=constraint,
        )
        (reply,) = await self.engine.sample([request])
        if reply.completions[0].finish_reason == SCHEMA_UNSUPPORTED:
            request = replace(request, constraint=None)
            (reply,) = await self.engine.sample([request])
        subject = MORE if stage == MORE else ""
        self._keep("calls", subject, request, reply, "calls/system", first)
        return reply

    async def write_request(self, wish: Wish) -> Reply:
        """One request that the calls would answer: the stage `ask`."""
        request = Request(
            id=f"{self.query.id}/{ASK}",
            messages=asking_messages(
                wish.calls, [tool.document for tool in wish.tools], self.prompts
            ),
            sampling=Sampling(
                temperature=WRITING_TEMPERATURE,
                top_p=WRITING_TOP_P,
                max_tokens=self.recipe.calls.max_tokens,
                seed=self._seed(ASK),
            ),
        )
        (reply,) = await self.engine.sample([request])
        self._keep(ASK, "", request, reply, "calls/ask")
        return reply

    def _ask_with(self, prompt: str, **values: object) -> Message:
        return Message(role="user", content=self.prompts.render(prompt, **values))

    def _seed(self, stage: str) -> int:
        return derive_seed(self.recipe.seed, self.round_number, self.query.id, stage)

    def _keep(
        self,
        stage: str,
        subject: str,
        request: Request,
        reply: Reply,
        prompt: str,
        first: int = 0,
    ) -> None:
        """Keep every raw output of a reply, numbered from `first` on."""
        sampling, constraint = request.sampling, request.constraint
        bound = {"constrain": "schema"} if constraint is not None and constraint.tools else {}
        form = {"form": "native"} if request.is_native else {}
        searched = {"decode": "beam"} if sampling.beam else {}
        sampling_json = canonical_json(
            {
                "n": sampling.n,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                **bound,
                **searched,
                **form,
            }
        )
        self.generations.extend(
            {
                "round": self.round_number,
                "query_id": self.query.id,
                "stage": stage,
                "subject": subject,
                "num_prompt_tokens": reply.num_prompt_tokens,
                "sampling_json": sampling_json,
                "prompt_sha": "" if request.is_native else self.prompts.sha(prompt),
                "checkpoint_id": self.engine.checkpoint.id,
                "sample_index": first + index,
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "num_tokens": len(completion.token_ids),
                "logprob": completion.logprob,
                "seed": sampling.seed + index,
            }
            for index, completion in enumerate(reply.completions)
        )
