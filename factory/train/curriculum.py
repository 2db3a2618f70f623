"""What a round teaches: its examples, the tools that get a code, and how training is set up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from factory.codes.codebook import Codebook
from factory.codes.graph import canonical_pairs
from factory.domain.canon import derive_seed
from factory.domain.failures import RecipeError
from factory.domain.records import Candidate, Example, Pair, Tool
from factory.ledger.database import Source
from factory.ledger.history import code_answers, imported_tools
from factory.train.examples import (
    MAX_OTHER_TOOLS,
    answer_example,
    ask_example,
    code_example,
    examples_from_sample,
    names_by_code,
    placeholder,
    read_examples,
    tools_of,
    unique_examples,
)
from factory.train.job import TrainingSetup
from factory.workspace.folder import Workspace
from factory.workspace.prompts import Prompts
from factory.workspace.recipe import CodesSection, Recipe
from factory.workspace.settings import Settings

OTHER_WORDS = frozenset({"frames", "phrases", "join", "values", "words", "ask"})
"""Ways of making samples that give a request in other words, with the tools of its origins; `ask`
also with tools of the catalogue, which are not taught to be written."""


def own_examples(
    accepted: Sequence[Candidate],
    documents: Sequence[Tool],
    codebook: Codebook | None,
    prompts: Prompts,
    recipe: Recipe,
    number: int,
) -> list[Example]:
    """What round `number` teaches, each chat once; replay comes on top.

    Examples of its accepted samples, those made of them included, then the codes of `documents`,
    which it learns by heart.
    """
    max_others = None if recipe.train.gen_target == "all" else MAX_OTHER_TOOLS
    examples: list[Example] = []
    for sample in accepted:
        if sample.made_by:
            examples += made_examples(sample, prompts, number)
            continue
        examples += examples_from_sample(
            query=sample.query,
            tools=sample.tools,
            calls=sample.calls,
            prompts=prompts,
            round_number=number,
            written=[tool for tool in sample.tools if not _has_code(tool, codebook)],
            max_others=max_others,
        )
        examples.append(turned_sample(sample, prompts, number))
    examples += [code_example(tool, prompts, f"r{number}/{tool.id}") for tool in documents]
    return unique_examples(taught_by(recipe, examples))


def turned_sample(sample: Candidate, prompts: Prompts, number: int) -> Example:
    """A sample with calls turned round: from them to its request."""
    origin = f"r{number}/{sample.query.id}"
    return ask_example(sample.query.text, sample.tools, sample.calls, prompts, origin)


def made_examples(sample: Candidate, prompts: Prompts, number: int) -> list[Example]:
    """What a sample teaches that was made of accepted ones.

    A request in other words teaches all that one in its own would. With other tools it teaches the
    answer alone: the request asks for the tools of the sample that it was made of.
    """
    origin = f"r{number}/{sample.query.id}"
    if sample.chat:
        return [Example(kind="invoke", messages=sample.chat, origin=origin)]
    if not sample.calls:
        return [answer_example(sample.query.text, sample.tools, sample.answer, prompts, origin)]
    examples = examples_from_sample(
        query=sample.query,
        tools=sample.tools,
        calls=sample.calls,
        prompts=prompts,
        round_number=number,
        written=(),
    )
    if sample.made_by in OTHER_WORDS:
        return [each for each in examples if sample.made_of or each.kind != "gen"]
    return [example for example in examples if example.kind == "invoke"]


def learnt_share(accepted: Sequence[Candidate], recipe: Recipe) -> list[Candidate]:
    """The share `train.accepted` of the samples, in their order; their ids decide which."""
    wanted = round(recipe.train.accepted * len(accepted))
    order = sorted(accepted, key=lambda x: derive_seed(recipe.seed, "learnt", x.query.id))
    kept = {sample.query.id for sample in order[:wanted]}
    return [sample for sample in accepted if sample.query.id in kept]


def taught_by(recipe: Recipe, examples: Sequence[Example]) -> list[Example]:
    """The examples that the recipe teaches: without codes, none that names a tool by code; pairs of
    answers where a stage has them, calls turned round where requests are written from them.
    """
    return [
        example
        for example in examples
        if (recipe.codes.are_made or not names_by_code(example))
        and (recipe.prefers or example.kind != "dpo")
        and (recipe.asks or example.kind != "ask")
    ]


def unlearnt_tools(past: Source, checkpoint_id: str, recipe: Recipe) -> list[Tool]:
    """Imported tools whose documents the checkpoint has not learnt by heart, in import order.

    None where the recipe has no codes that they could be learnt by.
    """
    if not recipe.codes.are_made:
        return []
    learnt = code_answers(past, checkpoint_id)
    return [tool for tool in imported_tools(past) if placeholder(tool.id) not in learnt]


def documents_to_learn(
    unlearnt: Sequence[Tool], codebook: Codebook | None, recipe: Recipe
) -> list[Tool]:
    """The first `train.documents` of the imported tools that a lineage has not learnt yet (A29).

    Outliers wait for codes made anew (A38).
    """
    outliers = codebook.outliers if codebook is not None else frozenset()
    return [tool for tool in unlearnt if tool.id not in outliers][: recipe.train.documents]


def tools_to_code(
    imported: Sequence[Tool], accepted: Sequence[Candidate], codebook: Codebook | None
) -> list[Tool]:
    """Tools without a code: imported ones, then those that an accepted vote called (A40)."""
    tools = {tool.id: tool for tool in imported}
    for sample in accepted:
        tools |= {tool.id: tool for tool in sample.taught_tools}
    return [tool for tool in tools.values() if not _has_code(tool, codebook)]


def _has_code(tool: Tool, codebook: Codebook | None) -> bool:
    return codebook is not None and tool.id in codebook


def called_together(
    pairs: Sequence[Pair],
    written: Sequence[Tool],
    accepted: Sequence[Candidate],
    coded: Sequence[Tool],
    codebook: Codebook | None,
) -> list[Pair]:
    """The pairs by the tools that have codes, or get one now: namesakes are one tool (A43)."""
    known = [entry.tool for entry in codebook.tools] if codebook is not None else []
    called = [*written, *(tool for sample in accepted for tool in sample.tools)]
    return canonical_pairs(pairs, called, [*known, *coded])


def seed_examples(workspace: Workspace, settings: Settings) -> list[Example]:
    """Examples for replay: the settings' file, else the base model's own, if any."""
    if settings.replay:
        return read_examples(workspace.root / settings.replay)
    path = workspace.model_folder(settings.model) / "replay.jsonl"
    return read_examples(path) if path.exists() else []


def named_together(examples: Iterable[Example]) -> list[Pair]:
    """Tools that one chat names, or the chats of one request, each pair once (A42).

    A trajectory names several; of labels, each tool of a request has an example of its own.
    """
    named: dict[str, set[str]] = {}
    for example in examples:
        asked = next((m.content for m in example.messages if m.role == "user"), "")
        named.setdefault(asked, set()).update(tools_of(example))
    return [
        Pair(a=a, b=b, weight=1.0)
        for ids in named.values()
        for a, b in combinations(sorted(ids), 2)
    ]


def train_setup(recipe: Recipe, number: int, dtype: str, version: int) -> TrainingSetup:
    """How round `number` trains; a new codebook would get this version."""
    return TrainingSetup(
        train=recipe.train,
        stages=recipe.taught_stages,
        codes=recipe.codes,
        seed=derive_seed(recipe.seed, number, "train") % 2**31,
        # Where the recipe compresses nothing, trials that do are known by seed 0.
        gist_seed=recipe.seed if recipe.codes.gist.views else 0,
        dtype=dtype,
        version=version,
        form=recipe.calls.asked,
    )


def need_codes(recipe: Recipe) -> CodesSection:
    """The recipe's codes. Raises RecipeError where it makes none."""
    if not recipe.codes.are_made:
        raise RecipeError(
            "this recipe makes no codes: codes.coder is none",
            remedy="take one that does (--recipe base, `recipe` in factory.toml), or another coder "
            "(--set codes.coder=residual)",
        )
    return recipe.codes
