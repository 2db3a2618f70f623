"""Charts as lists of marks: numbers in, positions out; the page's template turns marks into SVG.

Every chart is WIDTH units wide, about the width of a phone, so that its text is as large as the
page's. Colours are CSS classes: `s1` to `s4` for series, told apart by dash and shape as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from factory.domain.plaintext import shorten

WIDTH = 360
ROW = 38
"""Height of a labelled bar."""
LEFT, RIGHT = 44, 12
"""Margins of a plot with axes."""
TOP, BOTTOM = 12, 34
PLOT = 170
"""Height of a plot's area."""
LABEL_CHARS = 44
NUM_SERIES = 4
DESCRIBED = 16
"""Values told in a chart's description; the table below it has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One SVG element. Example: Mark(tag="rect", css="s1", x=0, y=14, width=120, height=12)."""

    tag: str
    """rect, circle, path or text."""
    css: str = ""
    """Class of the style sheet."""
    x: float = 0
    """Left edge, centre of a circle, anchor of a text."""
    y: float = 0
    """Top edge, centre of a circle, baseline of a text."""
    width: float = 0
    """Of a rect; radius of a circle."""
    height: float = 0
    d: str = ""
    text: str = ""
    tip: str = ""
    """What a pointer that rests on it shows."""


@dataclass(slots=True, kw_only=True)
class Chart:
    """A drawing with its words. Example: bars([("drawn", 32), ("accepted", 13)])."""

    height: float
    """In units of which it is WIDTH wide."""
    description: str
    """What it shows, for those who do not see it."""
    marks: list[Mark] = field(default_factory=list)
    """Back to front."""
    legend: list[tuple[str, str]] = field(default_factory=list)
    """(class, name) of each series, where there are several."""
    swatch: str = "line"
    """What stands before a name in the legend: line, block or dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named line or stack. Example: Series(name="home", values=[47.5, 49.0])."""

    name: str
    values: Sequence[float | None]
    """One for each position; None where nothing was measured."""
    low: Sequence[float | None] = ()
    """Lower ends of intervals, or nothing."""
    high: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its interval. Example: Interval(value=52.0, low=38.5, high=65.2)."""

    value: float
    low: float | None
    """Left end of the line, or None without one."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Round numbers along a line. Example: Axis.over(0, 93)."""

    ticks: Sequence[float]
    """From one end to the other."""
    start: float
    """Where the first tick is."""
    length: float
    """From there to the last one; less than 0 goes left or up."""

    @classmethod
    def over(
        cls,
        low: float,
        high: float,
        *,
        start: float = TOP + PLOT,
        length: float = -PLOT,
        steps: Sequence[float] = (1, 2, 2.5, 5, 10),
        smallest: float = 0,
    ) -> Axis:
        """About five ticks, from at most `low` to at least `high`; upward in a plot by default."""
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = 0, 1
        if high <= low:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        rough = (high - low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = max(smallest, next(power * f for f in steps if power * f >= rough * 0.999))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [round(step * i, 12) for i in range(first, last + 1)]
        return cls(ticks=ticks, start=start, length=length)

    def at(self, value: float) -> float:
        """The position of a value."""
        first, last = self.ticks[0], self.ticks[-1]
        return self.start + self.length * (value - first) / (last - first)


def bars(items: Sequence[tuple[str, float]], unit: str = "", total: float | None = None) -> Chart:
    """A bar for each (label, value), each under its label; `total` is the full width."""
    full = max([total or 0, *(value for _, value in items)]) or 1
    chart = Chart(
        height=ROW * len(items) + 2,
        description=_tell(f"{label} {number(value)}{unit}" for label, value in items),
    )
    for row, (label, value) in enumerate(items):
        y = ROW * row
        told = f"{number(value)}{unit}" + (f" ({value / total:.0%})" if total else "")
        tip, width = f"{label}: {told}", WIDTH * value / full
        chart.marks += [
            *_heading(y, label, told),
            Mark(tag="rect", css="track", y=y + 19, width=WIDTH, height=11),
            Mark(tag="rect", css="s1", y=y + 19, width=width, height=11, tip=tip),
        ]
    return chart


def columns(labels: Sequence[str], series: Sequence[Series], x_title: str) -> Chart:
    """Stacked columns of counts, one at each label."""
    stacks = [sum(s.values[i] or 0 for s in series) for i in range(len(labels))]
    axis = Axis.over(0, max(stacks, default=0) or 1, steps=(1, 2, 5, 10), smallest=1)
    chart = _frame(axis, x_title, series, "block")
    chart.description = _tell(
        f"{label}: " + ", ".join(f"{number(s.values[i] or 0)} {s.name}" for s in series)
        for i, label in enumerate(labels)
    )
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    every = math.ceil(len(labels) / 10) or 1
    for i, label in enumerate(labels):
        x, base = LEFT + step * i, 0.0
        if i % every == 0:
            chart.marks.append(_x_label(x + step / 2, label))
        for place, each in enumerate(series, 1):
            value = each.values[i] or 0
            css, tip = f"s{place}", f"{label}: {number(value)} {each.name}"
            y, height = axis.at(base + value), axis.at(base) - axis.at(base + value)
            left, width = x + step * 0.12, step * 0.76
            box = Mark(tag="rect", css=css, x=left, y=y, width=width, height=height, tip=tip)
            chart.marks.append(box)
            base += value
    return chart


def lines(
    labels: Sequence[str],
    series: Sequence[Series],
    x_title: str,
    *,
    bounds: tuple[float, float] | None = None,
    dots: bool = True,
) -> Chart:
    """A line for each of up to NUM_SERIES series over the labels, with a band for intervals.

    `bounds` fixes the vertical axis; else it follows the values.
    """
    series = series[:NUM_SERIES]
    seen = [v for s in series for v in (*s.values, *s.low, *s.high) if v is not None]
    axis = Axis.over(*(bounds or (min(seen, default=0), max(seen, default=1))))
    chart = _frame(axis, x_title, series, "line")
    chart.description = _tell(_tell_series(labels, each) for each in series)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    x = [LEFT + step * (i + 0.5) for i in range(len(labels))]
    every = math.ceil(len(labels) / 8) or 1
    chart.marks += [_x_label(x[i], labels[i]) for i in range(0, len(labels), every)]
    for place, each in enumerate(series, 1):
        if each.low:
            chart.marks.append(_band(x, each, axis, place))
        points = [
            (px, axis.at(value), f"{each.name}, {label}: {number(value)}")
            for px, value, label in zip(x, each.values, labels, strict=True)
            if value is not None
        ]
        path = " ".join(f"{'ML'[n > 0]}{px:.1f} {py:.1f}" for n, (px, py, _) in enumerate(points))
        chart.marks.append(Mark(tag="path", css=f"line l{place}", d=path or "M0 0"))
        chart.marks += [
            Mark(tag="circle", css=f"s{place}", x=px, y=py, width=3.5, tip=tip)
            for px, py, tip in (points if dots else ())
        ]
    return chart


def intervals(rows: Sequence[tuple[str, Sequence[Interval | None]]], names: Sequence[str]) -> Chart:
    """A row for each label with a dot and its interval for each name, over one axis.

    The last name's dots are filled, others hollow. Zero is marked where the axis has both signs.
    """
    ends = [e for _, dots in rows for d in dots if d for e in (d.value, d.low, d.high)]
    known = [end for end in ends if end is not None]
    axis = Axis.over(min(known, default=0), max(known, default=1), start=8, length=WIDTH - 16)
    bottom = ROW * len(rows) + 4
    chart = Chart(
        height=bottom + 20,
        description=_tell(_tell_intervals(label, dots, names) for label, dots in rows),
        legend=_legend(names),
        swatch="dot",
    )
    for tick in axis.ticks:
        x, css = axis.at(tick), "zero" if tick == 0 and axis.ticks[0] < 0 else "grid-line"
        chart.marks += [
            Mark(tag="path", css=css, d=f"M{x:.1f} 16V{bottom}"),
            Mark(tag="text", css="tick mid", x=x, y=bottom + 14, text=number(tick)),
        ]
    for row, (label, dots) in enumerate(rows):
        y = ROW * row
        told = " → ".join(number(dot.value) for dot in dots if dot)
        chart.marks += _heading(y, label, told, halo=" halo")
        for place, (dot, of) in enumerate(zip(dots, names, strict=True), 1):
            if dot is None:
                continue
            at = y + 16 + 7 * place
            if dot.low is not None and dot.high is not None:
                path = f"M{axis.at(dot.low):.1f} {at}H{axis.at(dot.high):.1f}"
                chart.marks.append(Mark(tag="path", css=f"whisker w{place}", d=path))
            tip = f"{label}, {of}: {_tell_interval(dot)}"
            css = f"s{place}" if place == len(names) else f"s{place} hollow w{place}"
            x = axis.at(dot.value)
            chart.marks.append(Mark(tag="circle", css=css, x=x, y=at, width=4, tip=tip))
    return chart


def number(value: float) -> str:
    """A number as short as it can be read: whole ones whole, others to three digits or so."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.3g}"


def _frame(axis: Axis, x_title: str, series: Sequence[Series], swatch: str) -> Chart:
    """An empty plot: legend, grid, ticks of the vertical axis, title of the horizontal one."""
    names = [each.name for each in series]
    chart = Chart(height=TOP + PLOT + BOTTOM, description="", legend=_legend(names), swatch=swatch)
    for tick in axis.ticks:
        y = axis.at(tick)
        chart.marks += [
            Mark(tag="path", css="grid-line", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"),
            Mark(tag="text", css="tick end", x=LEFT - 6, y=y + 4, text=number(tick)),
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    chart.marks.append(Mark(tag="text", css="tick mid", x=middle, y=TOP + PLOT + 30, text=x_title))
    return chart


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """(class, name) of several series; one alone needs none."""
    return [(f"s{i}", name) for i, name in enumerate(names, 1)] if len(names) > 1 else []


def _heading(y: float, label: str, told: str, halo: str = "") -> list[Mark]:
    """The line above a row: its label on the left, as long as fits, its value on the right."""
    name = shorten(label, LABEL_CHARS - len(told))
    return [
        Mark(tag="text", css=f"label{halo}", x=0, y=y + 13, text=name),
        Mark(tag="text", css=f"value{halo} end", x=WIDTH, y=y + 13, text=told),
    ]


def _x_label(x: float, text: str) -> Mark:
    return Mark(tag="text", css="tick mid", x=x, y=TOP + PLOT + 15, text=shorten(text, 10))


def _band(x: Sequence[float], series: Series, axis: Axis, place: int) -> Mark:
    """The area between a series' intervals, where it has them."""
    pairs = zip(x, series.low, series.high, strict=True)
    edges = [(px, lo, hi) for px, lo, hi in pairs if lo is not None and hi is not None]
    there = [f"{px:.1f} {axis.at(high):.1f}" for px, _, high in edges]
    back = [f"{px:.1f} {axis.at(low):.1f}" for px, low, _ in reversed(edges)]
    path = "M" + "L".join([*there, *back]) + "Z" if edges else "M0 0"
    return Mark(tag="path", css=f"band s{place}", d=path)


def _tell(parts: Iterable[str]) -> str:
    told = list(parts)
    more = f"; and {len(told) - DESCRIBED} more" if len(told) > DESCRIBED else ""
    return "; ".join(told[:DESCRIBED]) + more


def _tell_series(labels: Sequence[str], series: Series) -> str:
    known = [p for p in zip(labels, series.values, strict=True) if p[1] is not None]
    if not known:
        return f"{series.name}: nothing measured"
    (first, start), (last, end) = known[0], known[-1]
    return f"{series.name} from {number(start or 0)} at {first} to {number(end or 0)} at {last}"


def _tell_intervals(label: str, dots: Sequence[Interval | None], names: Sequence[str]) -> str:
    told = [f"{n} {_tell_interval(d)}" for n, d in zip(names, dots, strict=True) if d]
    return f"{label}: " + ", ".join(told)


def _tell_interval(dot: Interval) -> str:
    if dot.low is None or dot.high is None:
        return number(dot.value)
    return f"{number(dot.value)} (95 % interval {number(dot.low)} to {number(dot.high)})"
