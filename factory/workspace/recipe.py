"""Recipes and settings: TOML in, typed values out, each with its origin.

A recipe (`rounds/<name>.toml`) says how a round is made; `extends` names the recipe it starts
from. Settings (`factory.toml`) say which model and machine. An unknown key is an error that names
the nearest known one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.domain.canon import canonical_json, digest
from factory.domain.failures import RecipeError
from factory.domain.plaintext import shorten
from factory.domain.records import ExampleKind, Form
from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace

RuleSetting = Literal["off", "warn", "reject"]
Share = Annotated[float, Field(ge=0, le=10)]
"""Of samples made, for each accepted one."""


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys and numbers without end are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that came after the first workspaces: known_by leaves one out at its default."""

    def known_by(self) -> dict[str, Any]:
        """What a recipe or a training is known by, so that a new key changes nothing by itself."""
        known: dict[str, Any] = {}
        for key, value in self:
            if key in self.LATER and value == type(self).model_fields[key].default:
                continue
            if isinstance(value, Section):
                known[key] = value.known_by()
            elif isinstance(value, tuple) and any(isinstance(each, Section) for each in value):
                known[key] = [each.known_by() for each in value]
            else:
                known[key] = value
        return known


SectionT = TypeVar("SectionT", bound=Section)
RETIRED = {"score.max_tokens": "how long an answer may be is max_tokens of eval/NAME.toml"}
"""Keys that recipes had before: they decide nothing any more, and what does."""


def vary(section: SectionT, **values: Any) -> SectionT:
    """A section with other values, which are not checked: they need not make a recipe."""
    return section.model_copy(update=values)


class ToolsSection(Section):
    """Writing tool documents (algorithms §1.4: temperature 1.0)."""

    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(1024, gt=0)


class QuantizedSection(Section):
    """The autoencoder of quantized codes (algorithms §4.3 to §4.5, A22 to A26)."""

    LATER = frozenset({"graph_unit", "sinkhorn", "index", "warmup", "kept"})

    latent: int = Field(64, gt=0)
    """Width between encoder and decoder (d)."""
    hidden: tuple[int, ...] = (256, 128)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    beta: float = Field(0.25, ge=0)
    """Weight of the commitment loss (A26; the published code has 2.25)."""
    graph: float = Field(0.1, ge=0)
    """Weight of the graph term (lambda); 0 is off."""
    graph_unit: Literal["relative", "absolute"] = "relative"
    """`relative`: the term's size beside the reconstruction loss at the first step (A22);
    `absolute`: times Eq. 6 by the square of the batch, averaged over levels, as published."""
    graph_on: Literal["encoder", "codebook"] = "encoder"
    """What the graph term moves: the encoder, straight through the quantiser, or, as in the
    published code, the codebooks alone (A23)."""
    sinkhorn: Literal["off", "last", "all"] = "last"
    """Levels whose tools Sinkhorn spreads over the numbers while training: A24's last one, or, as
    in the published code, all."""
    index: Literal["exact", "sinkhorn"] = "exact"
    """How tools that want one code part: by exact assignment (A25), or first by Sinkhorn on the
    last level, as published, and by exact assignment what that leaves together."""
    epsilon: float = Field(0.01, ge=0)
    """Sharpness of Sinkhorn balancing; 0 is off."""
    iterations: int = Field(50, gt=0)
    """Sinkhorn passes."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW."""
    warmup: int = Field(0, ge=0)
    """Epochs in which the rate rises to that; 50 as published."""
    epochs: int = Field(2000, gt=0)
    """Passes over the tools, at most."""
    kept: Literal["error", "collisions"] = "error"
    """Which state is kept: that of the least error, of like ones (1 %) that of fewer collisions
    (A26), or, as published, that of the fewest collisions, of equals that of less error."""
    patience: int = Field(50, ge=0)
    """Of them, those without a gain before training stops (A26); 0 is all of them, as published."""
    batch_size: int = Field(1024, gt=0)
    """Tools of a step."""

    @model_validator(mode="after")
    def _epsilon_can_be_computed(self) -> QuantizedSection:
        if 0 < self.epsilon < 0.003:
            raise ValueError("codes.quantized.epsilon must be 0 or at least 0.003")
        return self


class GistSection(Section):
    """Compression of documents into gist states before they are coded (SGTC, algorithms §2.2)."""

    LATER = frozenset({"merge"})

    views: int = Field(0, ge=0, le=8)
    """Gist tokens of a document; 0 is none: its code is made from its mean state."""
    rank: int = Field(32, gt=0)
    """Of the adapters; alpha and dropout are theirs too."""
    alpha: int = Field(128, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0)
    """Of Adam, constant."""
    weight_decay: float = Field(1e-4, ge=0)
    batch_size: int = Field(12, gt=0)
    """Instances a step; a document has up to four, which stay together."""
    epochs: int = Field(10, gt=0)
    """At most; training stops after the first that does not lower the held-out loss (A17)."""
    held_out: float = Field(0.02, gt=0, lt=1)
    """Share of the documents that the stopping is decided on, at least one (A17)."""
    merge: bool = False
    """Adapters of compression are merged into the model once they are trained (SGTC: one backbone
    compresses, retrieves and calls); else the model stays as it was."""
    rescale: bool = True
    """Gist states are as long as the model's input rows where it reads them (A13)."""


CoderName = Literal[
    "residual", "quantized", "atomic", "numeric", "hierarchical", "semantic", "none"
]


RowsName = Literal["calibrated", "published", "scaled", "mean", "random"]


class CodesSection(Section):
    """Codes: which coder, shape of the codebook, proposals and retrieval."""

    LATER = frozenset({"decode", "iterations", "rows"})

    coder: CoderName = "residual"
    """SGTC's clustering, ToolWeaver, ToolGen, and what ToolGen compares itself with; `none` makes,
    adds and teaches no codes (ToolDev), and those that a parent has stay as they are."""
    size: int = Field(512, ge=2)
    """Codes a level (K) of residual and quantized, capped at an eighth of the tools (A14)."""
    levels: int = Field(0, ge=0, le=26)
    """Their levels (L); 0 is the smallest with K**L >= 20 N (A27)."""
    min_tools: int = Field(16, ge=2)
    """A codebook is fitted once so many tools are known."""
    dims: int = Field(32, ge=0)
    """Dimensions that PCA keeps (residual, hierarchical); 0 is 128 (factory.codes.config)."""
    digits: int = Field(5, ge=1, le=18)
    """Length of a numeric code."""
    branches: int = Field(10, ge=2, le=10)
    """Children of a cluster (hierarchical)."""
    embedder: str = ""
    """Folder of a sentence-transformers model for the documents; empty is the model itself."""
    recode_every: int = Field(0, ge=0)
    """Trainings after which codes are made anew at the latest, sooner where too many tools are new,
    moved or far out (A41); 0 is never."""
    iterations: int = Field(1, ge=1, le=16)
    """Of one training: codes, all stages, codes anew from the trained model, all stages again
    (SGTC's post-guided iterations, App. C)."""
    post_guided: Literal["appendix", "body"] = "appendix"
    """How gist states follow the trained model before codes are made anew (A16): compression goes
    on (SGTC's appendix), or only the gist tokens move, also by how requests name tools (body)."""
    reframe: bool = True
    """Rows of new code tokens are made of their members' documents or names (§2.4, A20); else they
    start at random, whatever `rows` says."""
    rows: RowsName = "calibrated"
    """How they are made (factory.codes.rows)."""
    gist: GistSection = GistSection()
    quantized: QuantizedSection = QuantizedSection()
    retrieve: int = Field(4, ge=0, le=256)
    """Codes found under the trie for each query; 0 is no retrieval."""
    decode: Literal["sample", "beam"] = "sample"
    """How: drawn at temperature 1, or the likeliest ones, by a beam of `retrieve` branches."""
    keep: int = Field(1, ge=0)
    """Retrieved tools that join the candidates, at most."""

    @model_validator(mode="after")
    def _gists_are_the_models_own(self) -> CodesSection:
        if self.gist.views and (self.coder != "residual" or self.embedder):
            raise ValueError("codes.gist.views needs coder residual and no embedder")
        again = self.recode_every or self.iterations > 1
        if self.post_guided == "body" and not (self.gist.views and again):
            raise ValueError(
                "codes.post_guided body needs codes.gist.views, and recode_every or iterations"
            )
        if self.iterations > 1 and (
            self.coder not in ("residual", "quantized", "hierarchical") or self.embedder
        ):
            raise ValueError("codes.iterations above 1 needs codes of the model's own documents")
        return self

    @property
    def first_rows(self) -> RowsName:
        """How first rows are made."""
        return self.rows if self.reframe else "random"

    @property
    def are_made(self) -> bool:
        """Whether tools get codes."""
        return self.coder != "none"


class CallsSection(Section):
    """Sampling calls (algorithms A4)."""

    LATER = frozenset({"form", "more", "more_constrain", "more_order", "more_temperature"})

    form: Literal["own", "native", "auto"] = "own"
    """How calls are asked for, learnt and scored: in the factory's own prompt and tags, or as the
    model's chat template shows tools and writes calls; `auto` is native where the template can,
    else own. Codes are asked for in the factory's prompts in any case."""
    n: int = Field(5, ge=1, le=256)
    temperature: float = Field(0.7, ge=0, le=2)
    top_k: int = Field(40, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, gt=0)
    constrain: Literal["none", "schema"] = "none"
    """`schema` binds each answer to calls of the candidates under their own schemas: none falls for
    a wrong type or name, so rejects teach nothing of them, and no answer can decline to call."""
    more: int = Field(0, ge=0, le=256)
    """Samples more for a request whose first n have no winner; the vote is then over all."""
    more_temperature: float = Field(1.0, ge=0, le=2)
    """Of those."""
    more_order: Literal["reversed", "same"] = "reversed"
    """In which order the tools are shown to them."""
    more_constrain: Literal["none", "schema"] = "none"
    """As `constrain`, for those alone."""

    @property
    def asked(self) -> Form:
        """The form in force: `auto` is settled by a model's template when a round begins."""
        return "native" if self.form == "native" else "own"


class VoteSection(Section):
    """Voting (algorithms A7)."""

    LATER = frozenset({"bar", "dev", "more", "precision"})

    minimum: int = Field(0, ge=0)
    """Votes the winner needs; 0 is a strict majority of n."""
    more: int = Field(0, ge=0)
    """Votes it needs of all samples where calls.more were drawn; 0 is the same share of them."""
    plurality: bool = False
    """Most votes win, whatever their number (ToolDev as published)."""
    bar: tuple[Annotated[str, Field(pattern="^(reject|call/[a-z_]+)$")], ...] = ()
    """What takes a sample its vote, though it counts in n: `reject` is any rule that rejects it,
    other words are ids of rules, which may only warn. Without any, rules judge the winner alone
    (ToolDev as published)."""

    precision: float = Field(0.0, ge=0, lt=1)
    """Share of the labels that are to be right: `minimum` is what the model's own answers to a
    labelled dev set show to be enough for it; 0 takes `minimum` as it is."""
    dev: str = ""
    """That set; empty is score.dev."""

    @model_validator(mode="after")
    def _votes_are_counted_one_way(self) -> VoteSection:
        if self.precision and (self.minimum or self.plurality):
            raise ValueError("vote.precision sets the minimum: not with minimum or plurality")
        return self

    def needed(self, first: int, total: int) -> int | None:
        """Votes that win among `total` samples, `first` of them the first n; None is a strict
        majority.
        """
        if total == first:
            return self.minimum or None
        return self.more or ceil(self.minimum * total / first) or None


class DrawSection(Section):
    """Which of the fresh requests a round draws."""

    weak: float = Field(0.0, ge=0, le=1)
    """Share of them that is most like requests that failed in the last rounds; the others are the
    first."""


class MakeSection(Section):
    """Samples made of a round's accepted ones: so many by each way for each that is learnt."""

    LATER = frozenset({"ask", "chat"})

    frames: Share = 0.0
    """In the words in which other requests begin and end, those above all that failed."""
    phrases: Share = 0.0
    """With its values in the words in which other requests bring them in."""
    joints: Share = 0.0
    """Going on to the next call in the words of other requests."""
    join: Share = 0.0
    """Two requests in one, their calls one after the other, their tools together."""
    values: Share = 0.0
    """Other values of the same kind, in the request and in the call."""
    words: Share = 0.0
    """Values in other words, as the round's requests have them or as no text has."""
    distractors: Share = 0.0
    """Near tools of the catalogue beside those that the call needs."""
    rename: Share = 0.0
    """Other names of tools and arguments."""
    optional: Share = 0.0
    """Optional parameters that the request says nothing of."""
    withheld: Share = 0.0
    """Without the tool that is needed: the answer says so, and calls nothing."""
    missing: Share = 0.0
    """Without a value that a call needs: the answer asks for it."""
    repair: Share = 0.0
    """A call that a rule rejects, what the rule says, and the right call after it."""
    ask: Share = 0.0
    """Requests that the model writes for calls, as it learns to from those of kind `ask`."""
    chat: Share = 0.0
    """Requests that need no tool, which all of the model's answers call nothing for."""

    @property
    def asks_model(self) -> bool:
        """Whether something is made that the model is asked for."""
        return self.ask > 0 or self.chat > 0

    @property
    def shares(self) -> dict[str, float]:
        """The ways that make something, with their shares."""
        return {way: share for way, share in self if share}


OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]


class TrainSection(Section):
    """Training (algorithms §1.2, §8, A10, A11)."""

    LATER = frozenset(
        {"accepted", "ask", "no_call", "optimizer", "processes", "row_rate", "save_minutes"}
    )

    method: Literal["full", "lora"] = "lora"
    """All weights, or low-rank adapters on all linear layers plus the rows of the code tokens."""
    optimizer: OptimizerName = "adamw"
    """Adam with decoupled decay; its moments in 8 bits, paged to the machine's memory, or both
    (bitsandbytes, on a GPU)."""
    processes: int = Field(1, ge=0)
    """Processes that share all weights, gradients and moments, one a GPU (FSDP); 0 is one for each
    GPU. LoRA has one."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak, reached after `warmup_ratio` of the steps, then cosine to 0."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the examples."""
    batch_size: int = Field(64, gt=0)
    """Examples of one optimizer step."""
    micro_batch_size: int = Field(8, gt=0)
    """Examples of one forward pass, of like length; a step's gradients add up over its passes."""
    max_length: int = Field(4096, gt=0)
    """Longest example in tokens; longer ones are dropped and counted."""
    row_rate: float = Field(0.0, ge=0)
    """Learning rate of the code tokens' rows by that of the rest; 0: 5 with lora, 1 with full."""
    lora_rank: int = Field(16, gt=0)
    lora_alpha: int = Field(32, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the steps with rising learning rate (ToolDev §4)."""
    code_share: float = Field(0.3, ge=0, lt=1)
    """Share of the loss on codes (algorithms §8), as long as none weighs more than another example;
    0 is no weighting."""
    replay: float = Field(0.4, ge=0)
    """Seed examples replayed, as a share of the seed set (at most `replay_limit` of them)."""
    replay_limit: int = Field(8000, ge=0)
    history: float = Field(0.2, ge=0, le=1)
    """Share of earlier rounds' accepted examples that is replayed."""
    documents: int = Field(10000, ge=0)
    """Documents of imported tools that a round learns by heart at most (ToolGen's first stage); the
    others wait for the next round."""
    gen_target: Literal["called", "all"] = "called"
    """Tools that a request is taught to be written for: those called and two others (A2), or all of
    its own (ToolDev Eq. 3)."""
    no_call: str = Field("None of these tools can do that.", min_length=1)
    """What a lesson teaches to say where a row's right answer calls nothing, in no words of its
    own."""
    ask: bool = False
    """Whether calls are taught turned round too, from them to the request, so that the model can
    write requests; where make.ask is set they are in any case."""
    accepted: float = Field(1.0, ge=0, le=1)
    """Share of a round's accepted samples that is learnt; 0 is replay alone, a control."""
    min_accepted: int = Field(8, ge=1)
    """Fewer accepted samples than this and the round does not train."""
    save_minutes: float = Field(0.0, ge=0)
    """After so many a step is saved, from which a training that is killed goes on; 0 is never."""

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainSection:
        if self.batch_size % self.turn:
            raise ValueError(f"batch_size must be a multiple of {self.turn_name}")
        return self

    @property
    def turn(self) -> int:
        """Examples that all processes see at once."""
        return self.micro_batch_size * max(1, self.processes)

    @property
    def turn_name(self) -> str:
        """The keys that a batch is divided by."""
        return "micro_batch_size" + (" times processes" if self.processes > 1 else "")

    @model_validator(mode="after")
    def _processes_share_what_can_be_shared(self) -> TrainSection:
        if self.processes > 1 and self.method == "lora":
            raise ValueError("processes above 1 share all weights: they need method full")
        if self.processes > 1 and self.optimizer != "adamw":
            raise ValueError(f"processes above 1 share Adam's moments: not {self.optimizer}")
        if self.processes != 1 and self.row_rate not in (0, 1):
            raise ValueError("row_rate moves rows in one process only (processes = 1)")
        if self.processes != 1 and self.save_minutes:
            raise ValueError("save_minutes saves trainings of one process only (processes = 1)")
        return self


class StageSection(Section):
    """One stage of a training; a key without a value here has that of [train]."""

    LATER = frozenset({"beta"})

    name: str = ""
    """What progress, ledger and card call it; empty is its kinds."""
    kinds: tuple[ExampleKind, ...] = Field(min_length=1)
    """Kinds of examples that it teaches; those of no stage are left out and counted."""
    weights: dict[ExampleKind, Annotated[float, Field(gt=0)]] = {}
    """Shares of its kinds in the loss, 1 for a kind that is not named: the loss is the weighted sum
    of each kind's mean (ToolDev Eq. 6). Without any, all tokens count as train.code_share says."""
    epochs: float | None = Field(None, ge=0)
    """Passes over its examples; 0 leaves the stage out."""
    learning_rate: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, gt=0)
    micro_batch_size: int | None = Field(None, gt=0)
    max_length: int | None = Field(None, gt=0)
    warmup_ratio: float | None = Field(None, ge=0, le=1)
    rows_only: bool = False
    """Only the code tokens' rows move, all else is frozen."""
    beta: float = Field(0.1, gt=0)
    """Of kind dpo: how much straying from the model that the stage began with costs."""

    @model_validator(mode="after")
    def _weights_are_of_its_kinds(self) -> StageSection:
        if others := ", ".join(kind for kind in self.weights if kind not in self.kinds):
            raise ValueError(f"weights of {others}, which kinds does not name")
        return self

    @model_validator(mode="after")
    def _pairs_are_apart(self) -> StageSection:
        if "dpo" in self.kinds and (len(self.kinds) > 1 or self.weights or self.rows_only):
            raise ValueError("dpo is a stage of its own, without other kinds, weights or rows_only")
        return self

    def settle(self, train: TrainSection) -> TrainSection:
        """[train] as it is in this stage; unchecked, as the recipe has checked it."""
        own = {key: getattr(self, key) for key in STAGE_KEYS}
        return vary(train, **{key: value for key, value in own.items() if value is not None})


STAGE_KEYS = (
    "epochs",
    "learning_rate",
    "batch_size",
    "micro_batch_size",
    "max_length",
    "warmup_ratio",
)
"""Keys of [train] that a stage may have of its own."""


class CollapseSection(Section):
    """When a model that repeats itself is held, beside the first of its lineage; 0 is no limit.

    Answers are compared with those to the same questions, samples with as many of round 1.
    """

    words: float = Field(0.5, ge=0, le=1)
    """Least share of the different words that it may keep."""
    tools: float = Field(0.5, ge=0, le=1)
    """Of the different tools called."""
    values: float = Field(0.5, ge=0, le=1)
    """Of the entropy of argument values."""
    votes: float = Field(0.2, ge=0, le=1)
    """Of the mean entropy of votes."""
    repeats: float = Field(0.3, ge=0, le=1)
    """Share of requests that may repeat an earlier one of their round, above that of round 1."""


class ScoreSection(Section):
    """Which benchmarks are scored, and how the gate decides (algorithms A11c, A45)."""

    LATER = frozenset({"language", "abstain", "base", "collapse"})

    benchmarks: tuple[str, ...] = ("home",)
    """Reported before and after; never used for selection."""
    dev: str = "home-dev"
    """The gate's own set; an empty name is no gate."""
    abstain: str = ""
    """The gate's set of requests that are to be answered without a call; an empty name is none."""
    base: tuple[Literal["own", "chat"], ...] = ("own", "chat")
    """How the model that was given is asked the gate's set, as an opponent of every checkpoint:
    `chat` where its template shows tools. Without any it is none, and no noise is measured."""
    tolerance: float = Field(1.0, ge=0)
    """Points the dev score may fall below the parent, the best so far or the model that was given
    before the new checkpoint is held; at least the noise between two passes of one model."""
    language: float = Field(0.0, ge=0)
    """How many times the perplexity of plain text that the lineage started with a checkpoint may
    have before it is held; 0 is no limit."""
    collapse: CollapseSection = CollapseSection()


BUDGET = 4
"""Queries a wanted sample that a round may draw where no budget is given."""


class Recipe(Section):
    """How a round is made; at most thirty or so knobs."""

    LATER = frozenset({"draw", "accept", "budget", "rules", "stage", "make"})

    extends: str = ""
    num_queries: int = Field(1000, gt=0)
    """Queries of a round when --n is not given."""
    accept: int = Field(0, ge=0)
    """Samples that a round accepts, exactly: it draws on until it has them; 0 draws num_queries."""
    budget: int = Field(0, ge=0)
    """Queries that it draws for that at most; 0 is four for each."""
    window: int = Field(256, gt=0)
    """Queries in flight at once."""
    seed: int = 0
    draw: DrawSection = DrawSection()
    tools: ToolsSection = ToolsSection()
    codes: CodesSection = CodesSection()
    calls: CallsSection = CallsSection()
    vote: VoteSection = VoteSection()
    make: MakeSection = MakeSection()
    train: TrainSection = TrainSection()
    stage: tuple[StageSection, ...] = ()
    """What a training does one after the other; none: all kinds together, as [train] says."""
    score: ScoreSection = ScoreSection()
    rules: dict[str, RuleSetting] = {}
    """Rules that are off, warn or reject in this recipe's rounds; factory.toml's [rules] win."""

    @model_validator(mode="after")
    def _minimum_can_be_reached(self) -> Recipe:
        if self.vote.minimum > self.calls.n:
            raise ValueError("vote.minimum must not exceed calls.n")
        if self.vote.more > self.calls.n + self.calls.more:
            raise ValueError("vote.more must not exceed calls.n and calls.more together")
        return self

    @model_validator(mode="after")
    def _budget_can_be_enough(self) -> Recipe:
        if 0 < self.budget < self.accept:
            raise ValueError(
                f"a budget of {self.budget} requests cannot give {self.accept} samples"
            )
        return self

    @model_validator(mode="after")
    def _batches_of_stages_divide(self) -> Recipe:
        for number, stage in enumerate(self.stage, 1):
            train = stage.settle(self.train)
            if train.batch_size % train.turn:
                raise ValueError(
                    f"stage {stage.name or number}: batch_size ({train.batch_size}) must be a "
                    f"multiple of {train.turn_name} ({train.turn})"
                )
            if stage.rows_only and train.processes > 1:
                raise ValueError(
                    f"stage {stage.name or number}: rows_only trains in one process (processes = 1)"
                )
            if "dpo" in stage.kinds and train.processes != 1:
                raise ValueError(
                    f"stage {stage.name or number}: dpo trains in one process (processes = 1)"
                )
        return self

    @property
    def most_drawn(self) -> int:
        """Queries that a round may draw: its budget, or what it draws in one go."""
        return (self.budget or BUDGET * self.accept) if self.accept else self.num_queries

    @property
    def prefers(self) -> bool:
        """Whether a stage teaches pairs of a winning and a losing answer."""
        return any("dpo" in stage.kinds and stage.epochs != 0 for stage in self.stage)

    @property
    def asks(self) -> bool:
        """Whether examples of kind `ask` are taught."""
        return self.train.ask or self.make.ask > 0

    @property
    def taught_stages(self) -> tuple[StageSection, ...]:
        """The stages, `ask` in the one that teaches calls where it is taught and none names it."""
        if not self.asks or any("ask" in stage.kinds for stage in self.stage):
            return self.stage
        return tuple(
            vary(stage, kinds=(*stage.kinds, "ask")) if "invoke" in stage.kinds else stage
            for stage in self.stage
        )

    @property
    def longest_answer(self) -> int:
        """New tokens that sampling may ask for."""
        return max(self.tools.max_tokens, self.calls.max_tokens)

    @property
    def sha(self) -> str:
        """Content hash of the resolved recipe."""
        return digest(canonical_json(self.known_by()), 16)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe with the origin of every value that is not a default."""

    name: str
    recipe: Recipe
    origins: dict[str, str]
    """Dotted key to the file or flag that set it."""
    retired: tuple[str, ...] = ()
    """Sentences about RETIRED keys that its files have."""

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(key, value, origin) of every knob; of a stage, what it has of its own."""
        for key, value in flatten(self.recipe.model_dump(mode="json")):
            if key == "stage" and value:
                yield from self._stage_lines()
            elif key != "extends":
                yield key, json.dumps(value), self.origins.get(key, "default")

    def _stage_lines(self) -> Iterator[tuple[str, str, str]]:
        given = self.origins.get("stage", "default")
        for number, stage in enumerate(self.recipe.stage, 1):
            for key, value in stage.model_dump(mode="json", exclude_defaults=True).items():
                names = (f"stage.{name}.{key}" for name in (stage.name, number) if name)
                origin = next((self.origins[n] for n in names if n in self.origins), given)
                yield f"stage.{number}.{key}", json.dumps(value), origin


def load_recipe(workspace: Workspace, name: str, overrides: Mapping[str, str]) -> Resolved:
    """Recipe `name` with its ancestors and command-line overrides (dotted key to TOML value).

    Raises RecipeError: unknown recipe or key, wrong type, out of range, circular `extends`.
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    current = name
    while current:
        path = f"rounds/{current}.toml"
        if any(path == seen for seen, _ in chain):
            raise RecipeError(f"recipe {name} extends itself", where=path)
        table = read_toml(workspace.find(path), error=RecipeError)
        chain.append((path, table))
        current = str(table.get("extends", ""))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    retired: list[str] = []
    for path, table in reversed(chain):
        retired += [f"{path}: {RETIRED[key]}, not {key}" for key in _drop_retired(table)]
        for key, value in flatten(table):
            _put(merged, key, value)
            origins[key] = path
    for key, text in overrides.items():
        if key in RETIRED:
            raise RecipeError(f"{key} decides nothing", where=f"--set {key}", remedy=RETIRED[key])
        _put(merged, key, parse_value(key, text))
        origins[key] = "flag"
    where = f"rounds/{name}.toml" + (" and --set" if overrides else "")
    return Resolved(name, _check(merged, where), origins, tuple(retired))


def _drop_retired(table: dict[str, Any]) -> list[str]:
    """The RETIRED keys that a recipe's table had."""
    flat = dict(flatten(table))
    dropped = [key for key in RETIRED if key in flat]
    for key in dropped:
        section, _, name = key.partition(".")
        del table[section][name]
    return dropped


def _check(table: Mapping[str, Any], where: str) -> Recipe:
    once = "--set '{}'" if "--set" in where else "write {}"
    return check_table(Recipe, table, where, error=RecipeError, list_remedy=once)


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaf values of nested tables."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_stored_recipe(name: str, text: str) -> Resolved:
    """The recipe of a ledger row. Raises RecipeError where this version cannot read it."""
    table = json.loads(text)
    _drop_retired(table)
    return Resolved(name, _check(table, f"the ledger's recipe {name}"), {})


def mend(
    stored: Resolved,
    given: Resolved,
    sections: tuple[str, ...] = ("make.", "train.", "score.", "codes.", "stage"),
    fixed: frozenset[str] = frozenset({"codes.retrieve", "codes.decode", "codes.keep"}),
) -> Resolved:
    """`stored` with the values of some sections that flags give now, but for the `fixed` ones.

    What has been sampled stays as it was sampled; what comes after may be vary.
    """
    set_by_flag = {
        key.split(".")[0] if key.startswith("stage.") else key
        for key, origin in given.origins.items()
        if origin == "flag"
    }
    flags = {
        key: value
        for key, value in flatten(given.recipe.model_dump(mode="json"))
        if key in set_by_flag and key.startswith(sections) and key not in fixed
    }
    table = stored.recipe.model_dump(mode="json")
    for key, value in flags.items():
        _put(table, key, value)
    origins = stored.origins | dict.fromkeys(flags, "flag")
    return Resolved(stored.name, _check(table, "--set"), origins)


def with_values(recipe: Recipe, values: Mapping[str, object], where: str) -> Recipe:
    """A recipe with other values by dotted key. Raises RecipeError as a recipe's file does."""
    table = recipe.model_dump(mode="json")
    for key, value in values.items():
        _put(table, key, value)
    return _check(table, where)


def _put(table: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    place: Any = table
    for parent in parents:
        if isinstance(place, list):
            place = _stage_of(place, parent, dotted)
        elif parent == "stage" and not place.get("stage"):
            raise RecipeError("this recipe has no stages", where=dotted, remedy="add [[stage]]")
        else:
            place = place.setdefault(parent, {})
        if not isinstance(place, dict | list):
            raise RecipeError(f"{parent} is a value, not a table", where=dotted)
    if isinstance(place, list):
        raise RecipeError(f"{dotted} is a table, not a value", where=dotted)
    place[last] = value


def _stage_of(stages: list[dict[str, Any]], word: str, dotted: str) -> dict[str, Any]:
    """The stage of this name or, counted from 1, of this number."""
    for number, stage in enumerate(stages, 1):
        if word in (stage.get("name"), str(number)):
            return stage
    known = ", ".join(stage.get("name") or str(n) for n, stage in enumerate(stages, 1))
    raise RecipeError(f"there is no stage {word!r}", where=dotted, remedy=f"one of {known}")


def parse_value(key: str, text: str) -> object:
    """What a flag `--set key=text` gives: a TOML value, or a bare word. Raises RecipeError."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        if any(character in text for character in "[]{}=\"'\n"):
            raise RecipeError(
                f"{shorten(text, 200)!r} is not a TOML value",
                where=f"--set {key}",
                remedy="quote it as in TOML",
            ) from None
        return text
