"""What a model's losing answers teach beside the accepted one: to mend a call, and what not to say.

A repair is a short conversation: the call that a rule rejects, what the rule says of it in place of
a response, the right call. A preference is the right answer against a losing one, the two alike up
to the first wrong call, so that nothing else tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

from factory.domain.canon import to_json
from factory.domain.records import Call, Candidate, Example, Tool
from factory.judge.answers import Syntax
from factory.judge.keys import make_key
from factory.judge.reading import SYNTAX, parse_calls
from factory.ledger.losing import Losing
from factory.lessons.examples import call_chat
from factory.lessons.records import Utterance
from factory.train.examples import calling
from factory.workspace.prompts import Prompts, invocation_messages

REPAIR = "repair"
"""Way of making a sample, beside those of factory.lessons.harder."""


def make_repairs(
    rng: Random,
    accepted: Sequence[Candidate],
    losing: Mapping[str, Sequence[Losing]],
    prompts: Prompts,
    count: int,
) -> Iterator[tuple[Candidate, tuple[Utterance, ...]]]:
    """At most `count` samples with the turns of their conversation, one of a request.

    Fewer where fewer requests have a losing answer whose calls can be read and a rule rejects.
    """
    for sample in rng.sample(accepted, len(accepted)):
        if count <= 0:
            return
        for answer in losing.get(sample.query.id, ()):
            failed = parse_calls(answer.text, syntax=SYNTAX[answer.form]).calls
            if not (answer.message and failed and sample.calls):
                continue
            error = to_json({"error": f"{answer.message} (at {answer.path})"})
            turns = (
                Utterance(speaker="user", text=sample.query.text),
                Utterance(speaker="assistant", text="", calls=failed, loss=False),
                Utterance(speaker="tool", text=error),
                Utterance(speaker="assistant", text="", calls=sample.calls),
            )
            chat = call_chat(sample.query.text, sample.tools, turns, prompts, is_taught=False)
            source = f"made: {REPAIR} of {sample.query.id}"
            yield replace(sample, query=replace(sample.query, source=source), chat=chat), turns
            count -= 1
            break


def preference_examples(
    accepted: Iterable[Candidate],
    losing: Mapping[str, Sequence[Losing]],
    prompts: Prompts,
    number: int,
) -> list[Example]:
    """A pair of each accepted sample of round `number` that has a losing answer with calls.

    The chat ends with the answer to prefer, then the other one, which is without loss.
    """
    examples = []
    for sample in accepted:
        pairs = (
            split_pair(sample, answer.text, SYNTAX[answer.form])
            for answer in losing.get(sample.query.id, ())
        )
        if pair := next(filter(None, pairs), None):
            asked = invocation_messages(
                sample.query.text, [tool.document for tool in sample.tools], prompts
            )
            chosen, rejected = pair
            answers = (calling(chosen, prompts), calling(rejected, prompts, loss=False))
            origin = f"r{number}/{sample.query.id}"
            examples.append(Example(kind="dpo", messages=(*asked, *answers), origin=origin))
    return examples


def split_pair(
    sample: Candidate, losing: str, syntax: Syntax = "hermes"
) -> tuple[list[Call], list[Call]] | None:
    """The right calls and those of a losing answer; the right ones in its order up to the first
    wrong one, then that which stands in its place: of the same tool, where there is one.

    None where the losing answer has no calls that can be read, or no wrong one.
    """
    wrong = list(parse_calls(losing, syntax=syntax).calls or ())
    tools = {tool.name: tool for tool in sample.tools}
    left = [(_key(call, tools), call) for call in sample.calls]
    shared: list[Call] = []
    for call in wrong:
        place = next((n for n, (key, _) in enumerate(left) if key == _key(call, tools)), None)
        if place is None:
            left.sort(key=lambda entry: entry[1].name != call.name)
            break
        shared.append(left.pop(place)[1])
    else:
        if not wrong or not left:
            return None
    rejected = [*shared, *wrong[len(shared) :]]
    return [*shared, *(call for _, call in left)], rejected


def _key(call: Call, tools: Mapping[str, Tool]) -> str:
    return make_key([call], tools).text
