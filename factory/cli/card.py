"""The round card: what a round did, every number from a view of the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.cli.terminal import escape, out
from factory.codes.graph import told_of_pairs
from factory.domain.plaintext import shorten
from factory.ledger.database import Ledger, Source
from factory.round.pruning import checkpoints_of, told
from factory.score.intervals import round_estimates
from factory.workspace.folder import Workspace

BAR_WIDTH = 24
END_OF_DRAWING = {
    "budget": "the budget is spent; --budget raises it",
    "pool": "all requests are drawn; --queries adds some",
}
WORK_STAGES = ("sample", "train", "score", "calibrate")
"""Stages whose time is sampling, training or scoring; the rest is the factory's own."""

ASK_NEXT = (
    "select reason, count(*) from rejected group by 1 order by 2 desc",
    "select query, calls_json from accepted where agreement < 1 limit 5",
    "select benchmark, category, before, after, delta from round_delta order by delta",
)


def print_card(ledger: Ledger, number: int, workspace: Workspace) -> None:
    out()
    with ledger.read() as past:
        _print_outcome(past, number)
        _print_gate(past, number)
        _print_funnel(past, number)
        _print_written(past, number)
        _print_accept(past, number)
        _print_calibration(past, number)
        _print_agreement(past, number)
        _print_logged(past, number)
        _print_made(past, number)
        _print_training(past, number)
        _print_language(past, number)
        _print_scores(past, number)
        _print_time(past, number)
        _print_places(past, number, workspace.state)
    out("[bold]ask next[/]")
    for query in ASK_NEXT:
        out(f'  factory sql "{query}"')


def _one(past: Source, sql: str, parameters: list[object]) -> dict[str, Any]:
    records = past.query(sql, parameters).records()
    return records[0] if records else {}


def _print_outcome(past: Source, number: int) -> None:
    sql = """
        select r.checkpoint_id as parent, c.checkpoint_id as made,
               coalesce(c.promoted, false) as ok, s.detail_json,
               json_extract_string(r.recipe_json, '$.calls.form') as form
        from round r
        join stage s on s.round = r.round and s.stage = 'gate'
        left join checkpoint c on c.round = r.round and c.parent_id is not null
        where r.round = ?
        """
    row = _one(past, sql, [number])
    verdict = "[bold green]promoted[/]" if row["ok"] else "[bold yellow]held[/]"
    made = f" → {escape(row['made'])}" if row["made"] else ""
    out(f"[bold]round {number}[/]  {escape(row['parent'])}{made}  {verdict}")
    out(f"  {escape(json.loads(row['detail_json'])['reason'])}")
    if row["form"] == "native":
        out("  calls in the form of the model's own chat template (calls.form)")


def _print_gate(past: Source, number: int) -> None:
    """Whom the new checkpoint met, and how much of a difference is noise."""
    rows = past.query("select * from gate where round = ?", [number]).records()
    for measure in dict.fromkeys(row["measure"] for row in rows):
        of_measure = [row for row in rows if row["measure"] == measure]
        first = of_measure[0]
        noise = "not measured" if first["noise"] is None else f"{first['noise']:.1f}"
        out(
            f"[bold]gate[/]  {measure} on {escape(first['benchmark'])}, "
            f"tolerance {first['tolerance']:.3g} points, noise {noise}"
        )
        for row in of_measure:
            whose = f"{row['opponent']} {row['opponent_id']}"
            whose += {"chat": " in chat", "served": " as served"}.get(str(row["prompt"]), "")
            if row["before"] is None:
                text = "no score to compare with"
            else:
                interval = escape(f"[{row['low']:+.1f}, {row['high']:+.1f}]")
                text = f"{row['before']:.1f} → {row['after']:.1f}  {row['delta']:+.1f} {interval}"
            out(f"  {escape(whose)}  {text}  {row['verdict']}")
    sql = "select source, figure, value, first, since, held from variety where round = ?"
    figures = past.query(sql, [number]).records()
    for source, since in dict.fromkeys((row["source"], row["since"]) for row in figures):
        told = ", ".join(
            f"{row['figure']} {row['value']:.3g} of {row['first']:.3g}"
            + (" (held)" if row["held"] else "")
            for row in figures
            if row["source"] == source
        )
        out(f"  variety of {source}, beside {escape(since)}: {told}")
    sql = "select detail_json from stage where round = ? and stage = 'gate'"
    for told in json.loads(_one(past, sql, [number])["detail_json"]).get("notes", ()):
        out(f"  {escape(told)}")


def _print_funnel(past: Source, number: int) -> None:
    row = _one(past, "select * from round_yield where round = ?", [number])
    out(f"[bold]funnel[/]  [dim]select * from round_yield where round = {number}[/]")
    for name in ("drawn", "tools_ok", "called", "voted", "passed", "accepted"):
        label = name.removesuffix("_ok")
        out(f"  {label:<10} {row[name]:>6}  {_bar(row[name], row['drawn'])}")
    out(
        f"  {row['drawn']} drawn = {row['accepted']} accepted ({row['acceptance']:.0%}) "
        f"+ {row['rejected']} rejected + {row['unjudged']} unjudged"
    )
    sql = """
        select status, reason, count(*) as samples, min_by(message, query_id) as message
        from outcome join latest_judgement using (round, judgement)
        where round = ? and status <> 'accepted'
        group by 1, 2 order by 1, 3 desc, 2
        """
    reasons = past.query(sql, [number]).rows
    for status, reason, samples, message in reasons:
        name = reason if status == "rejected" else f"{reason} (unjudged)"
        out(f"    {escape(name):<22} {samples:>5}  [dim]{escape(shorten(message, 72))}[/]")


def _print_written(past: Source, number: int) -> None:
    """How many of the drawn requests the model wrote, and why it wrote more."""
    sql = "select detail_json from stage where round = ? and stage = 'write'"
    waves = [json.loads(detail) for (detail,) in past.query(sql, [number]).rows]
    if not waves:
        return
    fallen = sum((Counter(wave["fallen"]) for wave in waves), Counter[str]())
    drawn, written = (sum(wave[key] for wave in waves) for key in ("drawn", "written"))
    others = ", ".join(f"{count} {reason}" for reason, count in fallen.most_common())
    out(
        f"[bold]written[/]  {drawn} of the requests by the model, of {written} that it wrote"
        + (f" ({escape(others)})" if others else "")
    )


def _print_accept(past: Source, number: int) -> None:
    """How a round that was to accept so many samples came to them."""
    sql = "select detail_json from stage where round = ? and stage = 'sample'"
    rows = past.query(sql, [number]).rows
    facts = json.loads(rows[0][0]) if rows else {}
    if "wanted" not in facts:
        return
    sql = "select count(*) from stage where round = ? and stage = 'draw'"
    waves = past.query(sql, [number]).rows[0][0]
    out(
        f"[bold]accept[/]  {facts['wanted']} wanted, {facts['accepted']} passed of "
        f"{facts['drawn']} requests in {waves} waves, budget {facts['budget']}"
    )
    if facts["accepted"] < facts["wanted"]:
        out(f"  fewer than wanted: {END_OF_DRAWING[facts['ended']]}")


def _print_calibration(past: Source, number: int) -> None:
    """How right labels are by the votes that they need, where the minimum was chosen by that."""
    sql = "select * from calibration where round = ? order by votes"
    rows = past.query(sql, [number]).records()
    if not rows:
        return
    first = rows[0]
    reached = "" if first["reached"] else ", which no number reaches"
    out(
        f"[bold]calibration[/]  at least {first['minimum']} votes, for {first['wanted']:.0%} right "
        f"labels on {escape(first['benchmark'])}{reached}"
    )
    for row in rows:
        right = "" if row["precision"] is None else f", {row['precision']:.1%} right"
        out(
            f"  {row['votes']} votes  {row['kept']} of {row['items']} kept{right}, "
            f"at least {row['low']:.1f} %"
        )
    sql = "select * from calibration_margin where round = ? order by votes desc, margin desc"
    for row in past.query(sql, [number]).records():
        out(
            f"  {row['votes']} votes, margin {row['margin']:.2f}: {row['num_right']} of "
            f"{row['items']} right"
        )


def _print_agreement(past: Source, number: int) -> None:
    rows = past.query(
        "select votes, sum(queries) from vote_margin where round = ? group by 1 order by 1 desc",
        [number],
    ).rows
    total = sum(count for _, count in rows)
    if not total:
        return
    mean = _one(
        past,
        "select avg(votes / num_samples) as agreement, avg(margin) as margin, "
        "avg(entropy) as entropy from latest_vote where round = ?",
        [number],
    )
    out(
        f"[bold]votes[/]  mean agreement {mean['agreement']:.0%}, margin {mean['margin']:.2f}, "
        f"entropy {mean['entropy']:.2f} bits"
    )
    for votes, count in rows:
        out(f"  {votes} agree    {count:>6}  {_bar(count, total)}")


def _print_logged(past: Source, number: int) -> None:
    """What became of the calls that logs have beside the round's requests."""
    sql = "select status, count(*) from logged where round = ? group by 1 order by 2 desc, 1"
    rows = past.query(sql, [number]).rows
    if rows:
        listed = ", ".join(f"{count} {status}" for status, count in rows)
        total = sum(count for _, count in rows)
        where = f"[dim]select * from logged where round = {number}[/]"
        out(f"[bold]logs[/]   {total} requests with logged calls: {escape(listed)}  {where}")


def _print_made(past: Source, number: int) -> None:
    """What the round made of its accepted samples, way by way."""
    sql = """
        select made_by, count(*) filter (status = 'accepted'), count(*) from made
        where round = ? group by 1 order by 3 desc, 1
        """
    rows = past.query(sql, [number]).rows
    if rows:
        listed = ", ".join(f"{kept} {way}" for way, kept, _ in rows)
        rejected = sum(count - kept for _, kept, count in rows)
        where = f"[dim]select * from made where round = {number}[/]"
        out(f"[bold]made[/]   {escape(listed)} ({rejected} rejected)  {where}")


def _print_training(past: Source, number: int) -> None:
    sql = """
        select list(loss order by step) as losses, max(tokens) as tokens, max(seconds) as seconds
        from training where round = ?
        """
    row = _one(past, sql, [number])
    losses = row["losses"]
    if not losses:
        return
    first, last = _ends(losses)
    sql = "select detail_json from stage where round = ? and stage = 'train'"
    detail = _one(past, sql, [number])
    facts = json.loads(detail["detail_json"])
    out(
        f"[bold]training[/]  loss {first:.3f} → {last:.3f}  {sparkline(losses)}  "
        f"{len(losses)} steps, {facts['examples']} examples, "
        f"{row['tokens'] / row['seconds']:.0f} tokens/s"
    )
    _print_losses(past, number, facts.get("stages", ()))
    documents = facts.get("documents", {})
    if any(documents.values()):
        out(
            f"  documents of imported tools: {documents['learnt']} learnt by heart, "
            f"{documents['waiting']} waiting"
        )
    if facts.get("pairs") is not None:
        out(f"  codes: {escape(told_of_pairs(facts['pairs']))}")
    if facts["dropped"]:
        dropped = ", ".join(f"{count} {name}" for name, count in sorted(facts["dropped"].items()))
        out(f"  left out: {escape(dropped)}")


def _print_losses(past: Source, number: int, stages: Sequence[Mapping[str, Any]]) -> None:
    """The loss of each kind of example, stage by stage where there are stages."""
    sql = """
        select stage, loss, losses_json
        from training where round = ? and losses_json is not null order by step
        """
    steps: dict[int | None, list[tuple[float, dict[str, float]]]] = {}
    for stage, loss, losses in past.query(sql, [number]).rows:
        steps.setdefault(stage, []).append((loss, json.loads(losses)))
    if not stages and steps:
        out(f"  by kind: {_kinds([kinds for _, kinds in steps[None]])}")
    for stage in stages:
        done = steps.get(stage["number"], [])
        text = f"skipped, {stage['skipped']}"
        if done:
            first, last = _ends([loss for loss, _ in done])
            text = f"loss {first:.3f} → {last:.3f} ({_kinds([kinds for _, kinds in done])}), "
            text += f"{stage['steps']} steps, {stage['examples']} examples"
        if stage["too_long"]:
            text += f", {stage['too_long']} too long for it"
        out(f"  stage {stage['number']}, {escape(stage['name'])}: {escape(text)}")


def _kinds(steps: Sequence[Mapping[str, float]]) -> str:
    """`code 7.1 → 0.4, retrieve 6.2 → 1.3` of the steps' losses by kind."""
    losses: dict[str, list[float]] = {}
    for step in steps:
        for kind, loss in step.items():
            losses.setdefault(kind, []).append(loss)
    ends = {kind: _ends(values) for kind, values in sorted(losses.items())}
    return ", ".join(f"{kind} {first:.3f} → {last:.3f}" for kind, (first, last) in ends.items())


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last tenth."""
    tail = max(1, len(losses) // 10)
    return sum(losses[:tail]) / tail, sum(losses[-tail:]) / tail


def _print_language(past: Source, number: int) -> None:
    rows = past.query("select * exclude round from language where round = ?", [number]).records()
    by_moment = {row["moment"]: row for row in rows}
    if "after" not in by_moment:
        return
    named = {"before": "{:.1f}", "coded": "{:.1f} with new codes", "after": "{:.1f}"}
    shown = [
        words.format(by_moment[moment]["perplexity"])
        for moment, words in named.items()
        if moment in by_moment
    ]
    masses = [by_moment[moment]["code_mass"] for moment in named if moment in by_moment]
    out(
        f"[bold]language[/]  perplexity of plain requests {' → '.join(shown)}, code tokens take "
        + " → ".join(f"{mass:.2%}" for mass in masses)
    )


def _print_scores(past: Source, number: int) -> None:
    sql = """
        select parent.benchmark, parent.category, parent.value, parent.low, parent.high,
               new.value, new.low, new.high, parent.unit
        from round_score as parent
        left join round_score as new
          on new.round = parent.round and new.model = 'new'
          and new.benchmark = parent.benchmark and new.category = parent.category
        where parent.round = ? and parent.model = 'parent'
        order by parent.benchmark, parent.category <> 'overall', parent.category
        """
    rows = past.query(sql, [number]).rows
    estimates = round_estimates(past, number)
    out("[bold]scores[/]  percent, 95 % interval; the change in points, on the same items")
    for benchmark, category, before, low, high, after, low_after, high_after, unit in rows:
        mark = f" ({unit})" if unit == "perplexity" else ""
        name = f"{benchmark}{mark}" if category == "overall" else f"  {category}"
        text = f"  {escape(name):<22} {_score(before, low, high):>20}"
        if after is not None:
            text += f" → {_score(after, low_after, high_after):<20} {after - before:+.1f}"
            if change := estimates.get((benchmark, category, "change")):
                text += escape(f" [{change.low:+.1f}, {change.high:+.1f}]")
        out(text)
    _print_cut(past, number)


def _print_cut(past: Source, number: int) -> None:
    """How many answers of each model a limit cut, by benchmark."""
    sql = """
        select benchmark, model, json_extract_string(nullif(detail_json, ''), '$.cut') as cut_by,
               count(*) as answers
        from round_score as score
        join latest_item using (checkpoint_id, benchmark, basis)
        where score.round = ? and score.category = 'overall' and cut_by is not null
        group by all order by benchmark, model desc, cut_by
        """
    rows = past.query(sql, [number]).rows
    for benchmark, model, limit, answers in rows:
        whose = "the parent's" if model == "parent" else "the new model's"
        out(f"  {escape(benchmark)}: {answers} of {whose} answers cut at {limit}")


def _score(value: float, low: float | None, high: float | None) -> str:
    interval = "" if low is None else f" [{low:.1f}, {high:.1f}]"
    return f"{value:.1f}{escape(interval)}"


def _print_time(past: Source, number: int) -> None:
    rows = past.query(
        "select stage, sum(seconds) from stage where round = ? group by 1 order by min(started_at)",
        [number],
    ).rows
    total = sum(seconds for _, seconds in rows)
    work = sum(seconds for stage, seconds in rows if stage.startswith(WORK_STAGES))
    parts = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in rows if seconds >= 0.05)
    out(f"[bold]time[/]  {total:.0f} s: {escape(parts)}")
    if total:
        out(f"  {1 - work / total:.0%} is not sampling, training or scoring")


def _print_places(past: Source, number: int, state: Path) -> None:
    out("[bold]files[/]")
    sql = "select path from checkpoint where round = ? and parent_id is not null"
    row = _one(past, sql, [number])
    out(f"  ledger      {escape(state / 'ledger.duckdb')}")
    if row:
        out(f"  checkpoint  {escape(state.parent / row['path'])}")
        count, size = checkpoints_of(state)
        more = "; `factory prune` removes what nothing needs" if count > 1 else ""
        out(f"              {count} checkpoint{'s' * (count != 1)} here, {told(size)}{more}")
    out(f"  logs        {escape(state / 'logs' / f'r{number}')}")
    page = state / "reports" / f"r{number}.html"
    if page.exists():
        out(f"  report      {escape(page)}")


def _bar(count: int, total: int) -> str:
    return "█" * round(BAR_WIDTH * count / total) if total else ""


def sparkline(values: list[float], width: int = 16) -> str:
    """The course of `values` in `width` block characters at most."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (high - low) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (mean - low) / scale)] for mean in means)
