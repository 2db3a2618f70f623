"""Files and folders of labelled rows, in any mixture of formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from factory.domain.canon import query_id
from factory.domain.failures import InputError
from factory.lessons.conversations import read_documents, read_lesson, read_turns
from factory.lessons.masking import mask_lesson
from factory.lessons.readers import read_row
from factory.lessons.records import Fault, Lesson, LessonRow, Lessons
from factory.lessons.retrieval import QRELS, is_part, is_split, read_retrieval, read_tested
from factory.lessons.toolalpaca import is_api, split_api
from factory.tools.bytefiles import PACKED_SUFFIXES
from factory.tools.logs import is_trace, open_log
from factory.tools.masking import Masker
from factory.tools.rowfiles import JSON_SUFFIXES, SEPARATORS, BadLine
from factory.tools.sources import read_values

PLAIN_SUFFIXES = (*JSON_SUFFIXES, *SEPARATORS, ".parquet")
SUFFIXES = (*PLAIN_SUFFIXES, *(a + b for a in PLAIN_SUFFIXES for b in PACKED_SUFFIXES))
"""Files that are read of a folder; one that is named is read whatever its suffix."""


def read_lessons(paths: Iterable[Path], *, labelled: bool = False, mask: bool = False) -> Lessons:
    """All rows of files, and of folders with what is below them.

    What traces of a program tell is a label only where it is said to be `labelled`. Questions
    and answers that lie in two files become one lesson, as do the beginnings of one trajectory.
    With `mask`, what is private is put out of each, and of what is said of bad lines.
    Raises InputError where a path is not there or nothing can be read at all.
    """
    bad: list[BadLine] = []
    lessons: list[Lesson] = []
    formats: Counter[str] = Counter()
    for path in (paths := list(paths)):
        tested = read_tested(path)
        for file in _files(path):
            found = _read_file(file, formats, bad, labelled)
            lessons += (_keep_from(lesson, tested) for lesson in found)
    if not lessons and not bad:
        raise InputError("the files hold nothing", where=", ".join(map(str, paths)))
    items = list(_join(lessons, bad))
    whole = tuple(_without_beginnings(items))
    read = Lessons(
        items=whole, bad=tuple(bad), formats=dict(formats), joined=len(items) - len(whole)
    )
    return _mask(read) if mask else read


def _mask(read: Lessons) -> Lessons:
    """Halves are joined by now: a value has one pseudonym in both."""
    made = [mask_lesson(lesson) for lesson in read.items]
    return replace(
        read,
        items=tuple(lesson for lesson, _ in made),
        bad=tuple(replace(line, cause=Masker().mask(line.cause)) for line in read.bad),
        masked=sum((counts for _, counts in made), Counter[str]()),
        masked_rows=sum(bool(counts) for _, counts in made),
    )


def _read_file(
    file: Path, formats: Counter[str], bad: list[BadLine], labelled: bool
) -> list[Lesson]:
    """The lessons of a file, its rows counted by their formats."""
    lessons: list[Lesson] = []
    if is_split(file):
        lessons = list(read_retrieval(file, bad))
        formats["toolbench split"] += len(lessons)
        return lessons
    for row in _rows(file, bad):
        try:
            if is_trace(row.value):
                name, found = "trace", list(_read_trace(row, labelled))
            else:
                name, found = read_row(row.value, row.where)
        except ValueError as error:
            bad.append(BadLine(where=row.where, cause=str(error)))
            continue
        formats[name] += 1
        lessons += found
    return lessons


def _read_trace(row: LessonRow, labelled: bool) -> Iterator[Lesson]:
    """The conversations of a trace. Raises ValueError with what is wrong."""
    for talk in open_log(row.value) or ():
        if not labelled:
            raise ValueError(
                "what a model did is no label: `factory teach --labelled` takes it as one"
            )
        yield read_lesson(read_turns(talk.messages), read_documents(talk.tools), row.where)


def _keep_from(lesson: Lesson, tested: frozenset[str]) -> Lesson:
    """A trajectory of a test's request is not taught."""
    if not lesson.steps or query_id(lesson.query) not in tested:
        return lesson
    fault = Fault(rule="round/eval_overlap", message="is a request of ToolBench's tests")
    return replace(lesson, fault=fault)


def _without_beginnings(lessons: Sequence[Lesson]) -> Iterator[Lesson]:
    """Of trajectories and conversations that begin alike those that go furthest: ToolLLaMA has a
    row for each step, a log one for each turn.
    """
    paths: dict[str, list[list[tuple[str, str]]]] = {}
    for lesson in lessons:
        if lesson.steps or lesson.turns:
            paths.setdefault(lesson.query, []).append(_path_of(lesson))
    for lesson in lessons:
        path = _path_of(lesson)
        others = paths.get(lesson.query, []) if path else []
        if not any(len(other) > len(path) and other[: len(path)] == path for other in others):
            yield lesson


def _path_of(lesson: Lesson) -> list[tuple[str, str]]:
    """What tells that one goes on where another ends; empty for a label alone."""
    if lesson.turns:
        return [(turn.text, repr((turn.speaker, turn.calls))) for turn in lesson.turns]
    if not lesson.steps and lesson.calls is not None:
        said = ("user", ()), ("assistant", lesson.calls)
        texts = lesson.query, lesson.answer
        return [(text, repr(part)) for text, part in zip(texts, said, strict=True)]
    return [(step.thought, repr(step.call)) for step in lesson.steps]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.is_file() and _is_data(each))
    if is_split(path):
        return [path, *(each for each in found if not is_part(each, path))]
    if not found:
        wanted = ", ".join(PLAIN_SUFFIXES)
        raise InputError("the folder holds no data", where=str(path), remedy=f"name {wanted} files")
    return found


def _is_data(file: Path) -> bool:
    """Not what a retriever's split is read with, nor its splits to test."""
    name = file.name
    if name.startswith(".") or not name.lower().endswith(SUFFIXES):
        return False
    if name.endswith("corpus.tsv"):
        return not file.with_name(name.removesuffix("corpus.tsv") + QRELS).exists()
    return name.endswith(QRELS) or not (name.endswith(".tsv") and "qrels." in name)


def _rows(file: Path, bad: list[BadLine]) -> Iterator[LessonRow]:
    for where, value in read_values(file, bad):
        row = LessonRow(where=where, value=value)
        yield from _split(row, bad) if is_api(value) else (row,)


def _split(row: LessonRow, bad: list[BadLine]) -> Iterator[LessonRow]:
    """The rows of an API of ToolAlpaca; what follows the first fault is lost with it."""
    try:
        yield from split_api(row)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError) else repr(error)
        bad.append(BadLine(where=row.where, cause=f"toolalpaca: {cause}"))


def _join(lessons: Iterable[Lesson], bad: list[BadLine]) -> Iterator[Lesson]:
    """Halves with the same key as one, in the place of the question.

    Those of files of the same name belong together; what is left of either goes by its key alone.
    """
    lessons = list(lessons)
    halves = [each for each in lessons if each.key]
    both = _places(x for x in halves if x.query) & _places(x for x in halves if not x.query)

    def group(half: Lesson) -> tuple[str, str]:
        place = (half.file, half.key)
        return place if place in both else ("", half.key)

    answers: dict[tuple[str, str], list[Lesson]] = {}
    for half in halves:
        if not half.query:
            answers.setdefault(group(half), []).append(half)
    asked = {group(half) for half in halves if half.query}
    for lesson in lessons:
        if not lesson.key:
            yield lesson
            continue
        found = answers.get(group(lesson), [])
        cause = ""
        if not lesson.query and group(lesson) not in asked:
            cause = f"no file has the question of the answer {lesson.key}"
        elif any(each.calls != found[0].calls for each in found):
            files = ", ".join(each.where for each in found)
            cause = f"the answers of {lesson.key} differ: {files}"
        elif lesson.query and (found or "irrelevance" in lesson.key):
            yield _complete(lesson, found[0] if found else None)
        elif lesson.query:
            cause = f"no file has the answer of the question {lesson.key}"
        if cause:
            bad.append(BadLine(where=lesson.where, cause=cause))


def _places(halves: Iterable[Lesson]) -> set[tuple[str, str]]:
    return {(half.file, half.key) for half in halves}


def _complete(question: Lesson, answer: Lesson | None) -> Lesson:
    """BFCL's irrelevance has no file of answers: nothing is to be called."""
    calls = (answer.calls or ()) if answer else ()
    names = tuple(dict.fromkeys(call.name for call in calls))
    return replace(question, calls=calls, names=names, key="")
