"""The rules: files in, typed rules out. Nothing is judged here.

A rule is `rules/<subject>/<name>.toml` (reason code, severity, why, limits) with its cases beside
it, `<name>.cases.jsonl`, which it must let pass and must catch. Its id is its path:
`call/wrong_type`. `rules/tool/document.schema.json` is the JSON Schema of a tool document; an
`x-rule` next to its keywords says which rule speaks when they are broken. A rule over many samples
is one SELECT, `rules/round/<name>.sql`, whose `$names` are its limits (factory.judge.sets).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from jsonschema import SchemaError
from pydantic import BaseModel, ConfigDict

from factory.domain.bounded import parse_json, read_text
from factory.domain.canon import canonical_json, digest
from factory.domain.failures import ContentError
from factory.domain.jsontext import walk
from factory.domain.records import Severity
from factory.tools.formats import CHECKER
from factory.tools.pattern import PatternError, compile_pattern
from factory.tools.references import Inliner
from factory.tools.schema import Schema, StrictValidator, make_validator
from factory.workspace.checking import check_table, read_toml
from factory.workspace.folder import Workspace, files_sha
from factory.workspace.recipe import RuleSetting

Limit = int | float | list[str]
RuleStage = Literal["draw", "round"]
"""When a set rule judges: the drawn queries before anything is sampled, or what was sampled."""

DOCUMENT_SCHEMA = "rules/tool/document.schema.json"
SETS = "round"
"""Folder of the rules over many samples, in SQL."""
SUBJECTS = ("tool", "call", "vote", "code", SETS)
"""Folders of rules; each has its judge in factory.check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Example: Rule(id="call/wrong_type", reason="wrong_type", severity="reject", …)."""

    id: str
    """Path of its file without suffix, below rules/."""
    reason: str
    """Reason code its verdicts carry (algorithms §1.5)."""
    severity: Severity
    """After the workspace's settings."""
    why: str
    """One sentence for the person whose sample fell."""
    limits: dict[str, Limit]
    source: str
    active: bool = True
    """False where the settings switch it off."""
    stage: RuleStage = "round"
    sql: str = ""
    """A set rule's SELECT; empty for a rule about one record."""
    sql_source: str = ""

    def limit(self, name: str) -> int:
        """A numeric limit; ContentError where the file lacks it."""
        value = self.limits.get(name)
        if isinstance(value, int):
            return value
        raise self._lacks(f"a whole number `{name}`", f"{name} = …")

    def words(self, name: str) -> frozenset[str]:
        """A list limit; ContentError where the file lacks it."""
        value = self.limits.get(name)
        if isinstance(value, list):
            return frozenset(value)
        raise self._lacks(f"a list `{name}`", f"{name} = […]")

    def _lacks(self, what: str, line: str) -> ContentError:
        remedy = f"add `{line}` under [limits]"
        return ContentError(f"rule {self.id} needs {what}", where=self.source, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of a cases file. Example: Case(rule="call/wrong_type", accept=False, …)."""

    rule: str
    accept: bool
    """Whether the rule must let it pass."""
    content: dict[str, Any]
    """The record to judge; its keys depend on the subject (factory.judge.cases.judge_case)."""
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """All rules of a workspace."""

    rules: dict[str, Rule]
    """Rule id to rule, switched-off ones included."""
    document_validator: Any
    """JSON Schema of a tool document, compiled."""
    sha: str
    """Hash of every rule file and setting."""
    cases: tuple[Case, ...] = field(default=(), repr=False)
    settled: frozenset[str] = frozenset()
    """Rules that factory.toml sets: no recipe changes them."""
    plain: Rulebook | None = field(default=None, repr=False)
    """The same before a recipe's [rules]; None where there are none."""

    @classmethod
    def load(
        cls, workspace: Workspace, settings: Mapping[str, RuleSetting] | None = None
    ) -> Rulebook:
        """Reads the rules; `settings` ([rules] of factory.toml) switch them off or over.

        Raises ContentError with file and line.
        """
        rules = {rule.id: rule for rule in _read_rules(workspace)}
        settings = settings or {}
        for rule_id, setting in settings.items():
            rules[rule_id] = _set(_find(rules, rule_id), setting)
        schema = _read_schema(workspace.find(DOCUMENT_SCHEMA), rules)
        files = chain(
            workspace.walk("rules", ".toml"),
            workspace.walk("rules", ".json"),
            workspace.walk("rules", ".sql"),
        )
        return cls(
            rules=rules,
            document_validator=make_validator(_put_in_place(schema)),
            sha=digest(files_sha(files) + canonical_json(dict(settings)), 16),
            cases=tuple(_read_cases(workspace, rules)),
            settled=frozenset(settings),
        )

    def under(self, recipe_rules: Mapping[str, RuleSetting]) -> Rulebook:
        """These rules as a recipe's [rules] has them, in place of another recipe's.

        What factory.toml says of a rule stays. Raises ContentError for a rule that is not there.
        """
        plain = self.plain or self
        rules = dict(plain.rules)
        for rule_id, setting in recipe_rules.items():
            rule = _find(rules, rule_id)
            if rule_id not in plain.settled:
                rules[rule_id] = _set(rule, setting)
        if rules == plain.rules:
            return plain
        sha = digest(plain.sha + canonical_json(dict(recipe_rules)), 16)
        return replace(plain, rules=rules, sha=sha, plain=plain)

    def rule(self, rule_id: str) -> Rule:
        """The rule of an id; ContentError naming the nearest where there is none."""
        return _find(self.rules, rule_id)

    def check_bar(self, bar: Iterable[str]) -> None:
        """Raise ContentError where vote.bar names a rule that is not there."""
        for rule_id in bar:
            if rule_id != "reject":
                self.rule(rule_id)


def _set(rule: Rule, setting: RuleSetting) -> Rule:
    changes: dict[str, Any] = {"active": False} if setting == "off" else {"severity": setting}
    return replace(rule, **changes)


class _RuleFile(BaseModel):
    """What a rule's TOML may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    severity: Severity
    why: str
    limits: dict[str, Limit] = {}
    stage: RuleStage = "round"


def _read_rules(workspace: Workspace) -> Iterator[Rule]:
    selects = {
        path.removeprefix("rules/").removesuffix(".sql"): file
        for path, file in workspace.walk("rules", ".sql")
    }
    for path, file in workspace.walk("rules", ".toml"):
        rule_id = path.removeprefix("rules/").removesuffix(".toml")
        if rule_id.split("/")[0] not in SUBJECTS:
            raise ContentError(
                f"no rules are judged in rules/{rule_id.split('/')[0]}",
                where=str(file),
                remedy=f"move it to one of rules/{', rules/'.join(SUBJECTS)}",
            )
        content = check_table(_RuleFile, read_toml(file), str(file), name=f"rule {rule_id}")
        select = selects.pop(rule_id, None)
        if (select is not None) != rule_id.startswith(f"{SETS}/"):
            raise ContentError(
                f"rule {rule_id} has no SELECT" if select is None else "only set rules are SQL",
                where=str(file),
                remedy=f"a set rule is rules/{SETS}/NAME.toml with NAME.sql beside it",
            )
        yield Rule(
            id=rule_id,
            reason=content.reason,
            severity=content.severity,
            why=content.why,
            limits=content.limits,
            source=str(file),
            stage=content.stage,
            sql="" if select is None else _read_select(select, content.limits),
            sql_source=str(select or ""),
        )
    for rule_id, select in selects.items():
        raise ContentError(
            f"rule {rule_id} has no reason, severity and why",
            where=str(select),
            remedy=f"write them into {select.with_suffix('.toml').name} beside it",
        )


def _read_select(file: Path, limits: Mapping[str, Limit]) -> str:
    """The one SELECT of a file, whose parameters are limits. Raises ContentError."""
    import duckdb

    try:
        sql = read_text(file)
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise ContentError(f"not valid SQL: {error}", where=str(file)) from error
    kinds = [statement.type.name for statement in statements]
    if kinds != [duckdb.StatementType.SELECT.name]:
        raise ContentError(
            f"a set rule is one SELECT, this is {' and '.join(kinds) or 'empty'}",
            where=str(file),
            remedy="return query_id and detail of each finding with one SELECT",
        )
    missing = sorted(statements[0].named_parameters - limits.keys())
    if missing:
        raise ContentError(
            f"${missing[0]} is no limit of the rule",
            where=str(file),
            remedy=f"add `{missing[0]} = …` under [limits] in {file.with_suffix('.toml').name}",
        )
    return sql


def _find(rules: Mapping[str, Rule], rule_id: str) -> Rule:
    if rule_id in rules:
        return rules[rule_id]
    near = difflib.get_close_matches(rule_id, rules, n=1, cutoff=0.0)
    raise ContentError(
        f"no rule {rule_id}", where="rules/", remedy=f"did you mean {near[0]}?" if near else ""
    )


def _read_schema(file: Path, rules: Mapping[str, Rule]) -> Schema:
    """The document schema: valid, self-contained, and every x-rule names a rule."""
    schema: Schema = parse_json(read_text(file), str(file))
    try:
        StrictValidator.check_schema(schema, format_checker=CHECKER)
    except SchemaError as error:
        raise ContentError(f"not a JSON Schema: {error.message}", where=str(file)) from error
    for _, part in walk(schema):
        if isinstance(part, dict):
            _check_reference(part, schema, file)
            for mark in _marks(part):
                _find(rules, mark)
            _check_pattern(part, file)
    return schema


def _put_in_place(schema: Schema) -> Schema:
    """The schema without references, which are slow to follow; one with circles as it is."""
    try:
        whole: Schema = Inliner(schema).copy(schema)
    except ValueError:
        return schema
    return whole


def _marks(part: Mapping[str, Any]) -> list[str]:
    mark = part.get("x-rule", {})
    return [mark] if isinstance(mark, str) else list(mark.values())


def _check_pattern(part: Mapping[str, Any], file: Path) -> None:
    pattern = part.get("pattern")
    try:
        compile_pattern(pattern if isinstance(pattern, str) else "")
    except PatternError as error:
        raise ContentError(f"pattern {pattern!r}: {error}", where=str(file)) from error


def _check_reference(part: Mapping[str, Any], schema: Schema, file: Path) -> None:
    target = part.get("$ref")
    if target is None or target in {f"#/$defs/{name}" for name in schema.get("$defs", {})}:
        return
    raise ContentError(f"$ref {target!r} names none of the file's own $defs", where=str(file))


def _read_cases(workspace: Workspace, rules: Mapping[str, Rule]) -> Iterator[Case]:
    for path, file in workspace.walk("rules", ".cases.jsonl"):
        rule_id = path.removeprefix("rules/").removesuffix(".cases.jsonl")
        if rule_id not in rules:
            raise ContentError(f"cases without a rule: {path}", where=str(file))
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                yield _read_case(rule_id, line, f"{file}:{number}")


def _read_case(rule_id: str, line: str, where: str) -> Case:
    content = parse_json(line, where)
    if not isinstance(content, dict) or not isinstance(content.get("accept"), bool):
        raise ContentError('a case is an object with "accept": true or false', where=where)
    accept = content.pop("accept")
    return Case(rule=rule_id, accept=accept, content=content, where=where)
