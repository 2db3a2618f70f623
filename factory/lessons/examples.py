"""What labelled rows teach: examples of the kinds that an accepted sample gives, `adapt`, and whole
conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from factory.domain.records import Candidate, Example, Message, Tool
from factory.judge.rulebook import Rulebook
from factory.judge.verdicts import check_document, first_reject
from factory.lessons.records import Utterance
from factory.train.curriculum import made_examples, taught_by, turned_sample
from factory.train.examples import (
    adapt_example,
    answer_example,
    calling,
    code_example,
    examples_from_sample,
    unique_examples,
)
from factory.workspace.prompts import Prompts, invocation_messages
from factory.workspace.recipe import Recipe


def lesson_examples(
    labelled: Sequence[Candidate],
    documents: Sequence[Tool],
    *,
    rulebook: Rulebook,
    prompts: Prompts,
    recipe: Recipe,
    number: int,
    made: Sequence[Candidate] = (),
) -> list[Example]:
    """What the lesson of round `number` teaches, each chat once; replay comes on top.

    A request with calls gives what an accepted sample gives, with no other tools in the target of
    gen; one whose right answer calls nothing gives that answer; one that only names its tools gives
    all but the calls. A conversation comes besides, turn by turn, its first answer learnt only
    where that is no example of its own. Documents are written from their descriptions (ToolDev
    Eq. 1) and learnt by heart. A document that a rule rejects is never the target of writing.
    What was `made` of labelled rows teaches what it does in a round.
    """
    shown = {tool.id: tool for each in (*labelled, *made) for tool in each.taught_tools}
    writable = _find_writable([*shown.values(), *documents], rulebook)
    examples = [
        example for sample in labelled for example in _from_label(sample, writable, prompts, number)
    ]
    examples += [
        example
        for sample in made
        for example in made_examples(sample, prompts, number)
        if example.kind != "gen" or writable.issuperset(tool.id for tool in sample.taught_tools)
    ]
    for tool in documents:
        origin = f"r{number}/{tool.id}"
        if tool.id in writable:
            examples.append(adapt_example(tool, prompts, origin))
        examples.append(code_example(tool, prompts, origin))
    return unique_examples(taught_by(recipe, examples))


def call_chat(
    query: str,
    tools: Sequence[Tool],
    turns: Sequence[Utterance],
    prompts: Prompts,
    *,
    is_taught: bool,
) -> tuple[Message, ...]:
    """A conversation in the words in which a model is asked for calls, and answers.

    In the own form responses stand in a turn of the user, as Hermes writes them: not every chat
    template has another place for them. `is_taught` says that the first answer is an example of its
    own.
    """
    asked = invocation_messages(query, [tool.document for tool in tools], prompts)
    last = max((place for place, turn in enumerate(turns) if turn.speaker != "tool"), default=0)
    return (*asked, *said_messages(turns[1 : last + 1], prompts, is_taught=is_taught))


def said_messages(
    turns: Sequence[Utterance], prompts: Prompts, *, is_taught: bool = False
) -> list[Message]:
    """What is said after the system's message of such a conversation; see call_chat."""
    chat: list[Message] = []
    responses: list[str] = []
    native = prompts.form == "native"
    for place, turn in enumerate(turns):
        if turn.speaker == "tool" and native:
            chat.append(Message(role="tool", content=turn.text))
            continue
        if turn.speaker == "tool":
            responses.append(f"<tool_response>\n{turn.text}\n</tool_response>")
            continue
        if responses:
            chat.append(Message(role="user", content="\n".join(responses)))
            responses = []
        if turn.speaker == "assistant":
            is_learnt = turn.loss and not (is_taught and place == 0)
            said = Message(role="assistant", content=turn.text, loss=is_learnt)
            chat.append(calling(turn.calls, prompts, loss=is_learnt) if turn.calls else said)
        else:
            text = turn.text if native else prompts.render("calls/invoke", query=turn.text)
            chat.append(Message(role="user", content=text))
    if responses:
        chat.append(Message(role="user", content="\n".join(responses)))
    return chat


def _from_label(
    sample: Candidate, writable: frozenset[str], prompts: Prompts, number: int
) -> list[Example]:
    origin = f"r{number}/{sample.query.id}"
    examples = _from_answer(sample, writable, prompts, number, origin)
    if any(message.role == "assistant" and message.loss for message in sample.chat):
        examples.append(Example(kind="trajectory", messages=sample.chat, origin=origin))
    return examples


def _from_answer(
    sample: Candidate, writable: frozenset[str], prompts: Prompts, number: int, origin: str
) -> list[Example]:
    if sample.answer and not sample.calls:
        return [answer_example(sample.query.text, sample.tools, sample.answer, prompts, origin)]
    needed = sample.taught_tools
    examples = examples_from_sample(
        query=sample.query,
        tools=sample.tools,
        needed=needed,
        calls=sample.calls,
        prompts=prompts,
        round_number=number,
        written=(),
    )
    if sample.calls:
        examples.append(turned_sample(sample, prompts, number))
    unwanted = set() if sample.calls else {"invoke"}
    if not needed or any(tool.id not in writable for tool in needed):
        unwanted.add("gen")
    return [example for example in examples if example.kind not in unwanted]


def _find_writable(tools: Iterable[Tool], rulebook: Rulebook) -> frozenset[str]:
    """Ids of the documents that no rule rejects."""
    return frozenset(
        tool.id
        for tool in {tool.id: tool for tool in tools}.values()
        if first_reject(check_document(tool.document, rulebook=rulebook)) is None
    )
