"""The records that cross stages, and the words the project uses.

query    a request in a person's words
tool     a document the model may call: name, description, arguments, results (ToolDev dialect)
code     a tool's name in tokens: one code token per level
call     a tool's name with arguments
vote     what n sampled answers to one query agree on
verdict  one rule's finding about one record
round    draw, write tools, code, call, vote, judge, train, score, gate

Records are frozen and already valid: whoever makes one has checked it. Fields are only added,
never renamed or given another meaning, because rows of old rounds are read back into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
Severity = Literal["reject", "warn"]
Status = Literal["accepted", "rejected", "unjudged"]
ExampleKind = Literal["adapt", "gen", "code", "retrieve", "invoke", "ask", "trajectory", "dpo"]
Unit = Literal["percent", "perplexity"]
Form = Literal["own", "native"]
"""How calls are asked for and written: in the factory's prompt and tags, or as the model's own chat
template has them."""
IGNORED = -100
"""Label of a token without loss, to torch's cross-entropy and to TRL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message. Example: Message(role="user", content="What is 20 USD in EUR?")."""

    role: Role
    content: str
    """The text, without the template's markers."""
    loss: bool = True
    """Of an assistant's text in an example: whether it is learnt, or only stands there."""
    codes: bool = False
    """Whether code tokens in the text name tools; else they are letters, as in any other text."""
    calls: tuple[Call, ...] = ()
    """In the native form, of an assistant: what it calls, in place of a text."""
    tools: tuple[dict[str, Any], ...] = ()
    """In the native form, of the system: documents of the tools that the template is to show."""

    def to_json(self) -> dict[str, Any]:
        """As JSON, which from_json reads; what is as usual does not stand there.

        Nor does `codes`: what is kept has no codes yet, or none any more.
        """
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        more = {
            "loss": self.loss,
            "calls": [{"name": call.name, "arguments": call.arguments} for call in self.calls],
            "tools": [*self.tools],
        }
        return row | {key: value for key, value in more.items() if value not in (True, [])}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Message:
        """The message of to_json, or of dataclasses.asdict."""
        calls = tuple(Call(**call) for call in row.get("calls", ()))
        return cls(**{**row, "calls": calls, "tools": tuple(row.get("tools", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A request to make a sample of.

    Example: Query(id="q_3b1f…", text="Book a table for 4", source="queries.jsonl:7").
    """

    id: str
    """Content id (canon.query_id)."""
    text: str
    source: str
    """Where it came from: file and line, `home` or `model`."""
    log: Logged | None = None
    """What its log has beside it, where it comes from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a log has of a request: no labels, but candidates that rules and vote judge."""

    tools: tuple[Tool, ...] = ()
    """The tools that were on offer."""
    calls: tuple[Call, ...] = ()
    """The calls that were made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool document. Example: Tool(id="t_91…", document={"name": "book_table", …})."""

    id: str
    """Content id (canon.tool_id)."""
    document: dict[str, Any]
    """ToolDev dialect: name, description, arguments{type, properties, required}, results."""

    def __hash__(self) -> int:
        # A document cannot be hashed, its content id can: tools are keys of caches.
        return hash(self.id)

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def arguments(self) -> dict[str, Any]:
        """The parameters' schema: {"type": "dict", "properties": {…}, "required": […]}."""
        arguments: dict[str, Any] = self.document["arguments"]
        return arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. Example: Call(name="book_table", arguments={"people": 4})."""

    name: str
    arguments: dict[str, Any]
    """Argument values as parsed from JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One rule's finding about one record. No verdict means that no rule fired.

    Example: Verdict(subject="sample:3", rule="call/wrong_type", reason="wrong_type",
    severity="reject", path="$[0].arguments.people", message="'4' is a string, not an integer").
    """

    subject: str
    """What was judged: `tools`, `tool:<index>`, `sample:<index>`, `code:<tool id>`, `vote`; by a
    set rule: `query`, `tool:<tool id>` or `calls` (the winner)."""
    rule: str
    """Rule id, the path of its file without suffix below rules/, e.g. `call/wrong_type`."""
    reason: str
    """Reason code (algorithms §1.5)."""
    severity: Severity
    """`reject` makes the record fall, `warn` is only kept."""
    path: str
    """JSON path of the offending part, `$` for the whole."""
    message: str
    """One sentence with the offending value (bounded length)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What n sampled answers agree on (algorithms §9.2)."""

    num_samples: int
    """n, the denominator always."""
    winner: int | None
    """Index of the winning class's representative sample; None where nothing won."""
    votes: int
    """Votes of the largest class."""
    margin: float
    """(votes of first - votes of second) / n."""
    entropy: float
    """Entropy of the classes in bits, 0 when all votes agree."""
    decided_by: Literal["strict", "loose", "none"]
    """Which key reached the minimum."""
    reason: str
    """Empty, or vote_below_min, vote_tie, no_call_majority."""
    classes: tuple[int, ...]
    """Class number of each sample, by the deciding key (strict if none); largest class is 0; -1 has
    no vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Example: Sampling(n=5, temperature=0.7, top_k=40, max_tokens=256, seed=512)"""

    n: int = 1
    """Samples of one prompt; they share its prefill and take the seeds seed … seed+n-1."""
    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    """1 is off."""
    max_tokens: int = 256
    """New tokens at most."""
    seed: int = 0
    """From canon.derive_seed."""
    beam: bool = False
    """In place of samples the likeliest codes of the constraint's trie, by a beam of n branches;
    `max_tokens` is the room that the longest code and its end take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Decode only paths of a trie, only JSON under tools' own schemas, or one after the other.

    Examples: Constraint(trie="/ws/.factory/checkpoints/r1/codes/trie.npz", after="Action: ",
    until="\\n"); Constraint(tools=(document,)) where the tool is chosen already.
    """

    trie: str = ""
    """Path of a saved trie (factory.codes.trie.Trie.save); "" where `tools` say it all."""
    only: tuple[str, ...] = ()
    """Ids of the tools that may be named; () is all of the trie's."""
    after: str = ""
    """Text that opens a code span, compared token by token; "" is the start of the answer."""
    until: str = ""
    """Text of one token that closes a code, after which all is allowed; "" ends the answer."""
    documents: str = ""
    """Path of the tools.jsonl of a codebook: after its first code and `until` the answer is that
    tool's arguments as JSON, and nothing else."""
    tools: tuple[dict[str, Any], ...] = ()
    """Documents, in place of a trie: the answer is JSON under their schemas."""
    form: Literal["arguments", "calls"] = "arguments"
    """With `tools`: the arguments of the one tool; or one call or more in Hermes tags."""

    @property
    def is_one_code(self) -> bool:
        """Whether the whole answer is a code of the trie."""
        return bool(self.trie) and not (self.after or self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt for the engine; exactly one of messages and prompt is given."""

    id: str
    """Unique among the requests in flight."""
    sampling: Sampling
    messages: tuple[Message, ...] = ()
    """Chat messages, rendered with the model's own chat template and a generation prompt."""
    prompt: str | None = None
    """Raw text instead of messages, in which control tokens are control tokens."""
    constraint: Constraint | None = None
    """What may be decoded; None is anything."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools for the chat template's own tools argument, as OpenAI's API writes them."""
    logprob: bool = True
    """Whether the log-probability of the completions is wanted; it costs time at every token."""

    @property
    def is_native(self) -> bool:
        """Whether the chat template shows the tools, so that calls come in its own form."""
        return bool(self.tools) or any(message.tools for message in self.messages)


FinishReason = Literal[
    "stop", "length", "prompt_too_long", "context_full", "engine_died", "schema_unsupported"
]
"""Why an answer ended: `stop` at the end of its turn, `length` at `max_tokens`, or as below."""
PROMPT_TOO_LONG: Final = "prompt_too_long"
"""The prompt leaves no room for a new token."""
CONTEXT_FULL: Final = "context_full"
"""The model's window cut the answer before it had `max_tokens`."""
ENGINE_DIED: Final = "engine_died"
"""The request kills the engine, or the engine refuses it."""
SCHEMA_UNSUPPORTED: Final = "schema_unsupported"
"""A tool's schema was to constrain the answer and no grammar can be made of it; it may be asked
again without."""
UNANSWERED = frozenset({PROMPT_TOO_LONG, ENGINE_DIED, SCHEMA_UNSUPPORTED})
"""Completions without an answer: nothing can be said of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer."""

    text: str
    """Decoded text without special tokens, but with code tokens and, where the request has tools,
    with those that mark calls."""
    token_ids: tuple[int, ...]
    """New token ids, the end-of-turn token included when it was sampled."""
    finish_reason: FinishReason
    logprob: float
    """Cumulative log-probability of the new tokens under the sampling model; 0 if not wanted."""
    calls_apart: bool = False
    """Whether a server told the calls apart from the text, where they stand in Hermes' tags now."""
    fault: str = ""
    """Why there is no answer, where a server said so or sent none that can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The engine's answer to one request."""

    request_id: str
    completions: tuple[Completion, ...]
    """n completions, in sample order; of a beam the likeliest first, at most n."""
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example; texts name tools by id, codes are rendered when training starts.

    Example: Example(kind="retrieve", messages=(user query, assistant "{{tool:t_91…}}"),
    origin="r1/q_3b…").
    """

    kind: ExampleKind
    """Which objective it trains (algorithms §8)."""
    messages: tuple[Message, ...]
    """The chat; loss on assistant messages that are not without, and their end-of-turn token."""
    origin: str
    """Where it comes from: `r<round>/<query id>` or `seed/<number>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder that an engine serves as it is."""

    id: str
    """`seed`, `r1`, … or the folder's name for a user's own model."""
    path: str
    """Absolute path of the folder."""
    fingerprint: str
    """SHA-256 over the weight files (factory.workspace.models.fingerprint)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """One benchmark item judged."""

    item: str
    """Item id, e.g. `parallel_3`."""
    category: str
    correct: bool
    reason: str
    """Empty, or why it is wrong; `unreadable_call` where BFCL would count a broken call as none."""
    message: str
    answer: str
    """The model's raw text."""
    calls: tuple[Call, ...] | None = None
    """The calls read out of it; None where none could be read."""
    value: float | None = None
    """Its mark from 0 to 1; None is that of the verdict."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Its other measures and what the verdict rests on."""

    @property
    def mark(self) -> float:
        """From 0 to 1."""
        return float(self.correct) if self.value is None else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A benchmark's score: mean over categories, with a bootstrap interval."""

    benchmark: str
    """`home`, `home-dev`, …"""
    checkpoint: str
    value: float
    """Overall, in percent."""
    low: float
    """2.5th percentile of the bootstrap, in percent."""
    high: float
    """97.5th percentile of the bootstrap, in percent."""
    categories: dict[str, float] = field(default_factory=dict)
    """Percent by category."""
    num_items: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The same percentiles by category, where they are kept."""
    unit: Unit = "percent"
    """What the numbers are; of perplexity less is better."""


class BenchmarkQuestion(Protocol):
    """A question of a benchmark of any kind, as rules over a round compare samples with it."""

    @property
    def id(self) -> str: ...

    @property
    def query(self) -> str: ...

    @property
    def functions(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def documents(self) -> Sequence[Mapping[str, Any]]:
        """The same as tool documents."""


class HeldOut(Protocol):
    """What no training may use: the questions of a benchmark of any kind."""

    @property
    def name(self) -> str: ...

    @property
    def items(self) -> Sequence[BenchmarkQuestion]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two tools that were called together. Example: Pair(a="t_1…", b="t_2…", weight=1.4)."""

    a: str
    b: str
    """Tools' ids."""
    weight: float
    """How often, by how sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeAlias:
    """What became of a code token.

    Example: CodeAlias(old_token="<a_3>", new_token="<a_3>", overlap=12).
    """

    old_token: str
    """Token of the codebook before."""
    new_token: str
    """Token of the same position now."""
    overlap: int
    """Tools that had the one and have the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What sampling made of a query: judged, trained on where accepted; bare when it is drawn."""

    query: Query
    tools: tuple[Tool, ...] = ()
    """The tools it was answered with."""
    calls: tuple[Call, ...] = ()
    """The answer that won the vote, or that people labelled."""
    answer: str = ""
    """What the label says where the right answer calls nothing; a label without either names only
    the tools that the request needs."""
    chat: tuple[Message, ...] = ()
    """A labelled conversation, taught turn by turn, its codes as they are in an Example."""
    made_by: str = ""
    """How a round made it of accepted samples (`join`, `withheld`, …); empty where it is none."""
    made_of: tuple[str, ...] = ()
    """Ids of the requests of those samples."""

    @property
    def taught_tools(self) -> tuple[Tool, ...]:
        """The tools that it teaches to find: those called, or those that it needs."""
        names = {call.name for call in self.calls}
        if not names and not self.answer:
            return self.tools
        return tuple(tool for tool in self.tools if tool.name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastQuery:
    """An accepted query. Example: PastQuery(round_number=1, id="q_3b1f…", text="Book a …")."""

    round_number: int
    id: str
    text: str
    calls: tuple[Call, ...] = ()
    """The calls that won; empty where they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What earlier rounds accepted."""

    queries: Sequence[PastQuery] = ()
    """By round, then in draw order."""
    tools: Sequence[Tool] = ()
    """Their distinct documents, in the order in which they came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One optimizer step."""

    step: int
    """1 … steps; begins again where a child was restarted."""
    steps: int
    loss: float
    """Weighted mean cross-entropy of the step's target tokens, in nats."""
    learning_rate: float
    """After warm-up and decay."""
    tokens: int
    """Tokens seen so far, padding left out."""
    seconds: float
    """Since the first step began."""
    stage: int | None = None
    """Number of its stage, from 1; None where the recipe has none."""
    stage_name: str | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    """By kind of example, mean cross-entropy of its target tokens in this step, not weighted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fluency:
    """What a model makes of text that names no tool by code."""

    perplexity: float
    code_mass: float
    """Mean probability of all code tokens together, token by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCode:
    """The code one tool got in this run."""

    tool_id: str
    code: str
    """Its code tokens, e.g. `<a_3><b_1>`."""
    resolved_by: str
    """`nearest`, or how a collision was resolved (factory.codes.assign)."""
    error: float
    """Quantisation error of the document's embedding."""
    ood: bool
    """Too far from the codebook: not trained on."""
