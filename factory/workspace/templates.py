"""Jinja with bounds: templates of users and of models, which end in seconds and in little memory.

The sandbox keeps a template from the machine; this keeps it from running on. Loops and macros look
at the clock, what makes long texts or numbers looks at their size first, and what is written is
counted. The clock is the thread's own, so that a busy machine refuses nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import signature
from string import Formatter
from typing import Any, TypeVar

from jinja2 import Template, TemplateRuntimeError, nodes
from jinja2.filters import make_multi_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import (
    ImmutableSandboxedEnvironment,
    SandboxedEscapeFormatter,
    SandboxedFormatter,
)
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

SECONDS = 5.0
"""Of computing for one rendering."""
MAX_CHARS = 10_000_000
"""Of what is written, and of any text or list made on the way."""
MAX_BITS = 10_000
"""Of a whole number made on the way."""
MAX_WIDTH = 100_000
"""Of a format: what a text or number is filled up to."""
MAX_SOURCE = 1_000_000
"""Of a template, in characters: the longest that models bring have a few ten thousand."""
MAX_INDENT = 16
"""Of tojson, in characters."""
_ITEM = 10
"""What an item of a list weighs beside its text, in characters: a million are the most."""
_SPEC = re.compile(r"(?s)(?:.?[<>=^])?[-+ ]?z?#?0*(?P<width>\d*)[_,]?(?:\.(?P<precision>\d*))?")
_CONVERSION = re.compile(
    r"(?s)%(?:\((?P<key>(?:[^()]|\([^()]*\))*)\))?[#0\- +]*(?P<width>\*|\d*)"
    r"(?:\.(?P<precision>\*|\d*))?[hlL]?(?P<type>.)"
)
_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes"})
_LISTS = frozenset(
    "batch dictsort groupby join list map max min reject rejectattr select selectattr slice sort "
    "sum unique".split()
)
"""Filters that go through a list; what they take is weighed on the way, and what they give."""
_FILTERS = _LISTS | frozenset(
    "center format indent pprint replace round string tojson truncate urlize wordwrap".split()
)
"""Filters whose result may be far longer than what they are given."""


class Unbounded(TemplateRuntimeError):
    """A template that takes too much; str() says of what."""


class BoundedTemplate(Template):
    """A template whose rendering has a time."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        _clock.ends_at = time.thread_time() + SECONDS
        try:
            return super().render(*args, **kwargs)
        except RecursionError:
            raise Unbounded("calls itself without end") from None
        finally:
            _clock.ends_at = float("inf")


class _Deadline(threading.local):
    ends_at = float("inf")


_clock = _Deadline()


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates end. Example: BoundedEnvironment().from_string(text).render().

    Unbounded, a TemplateError, is raised for what takes too much, when it is parsed or rendered.
    """

    template_class = BoundedTemplate
    intercepted_binops = frozenset({"**", "*", "+", "%", "//", "/", "-"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.finalize = self.finalize or _checked
        del self.globals["lipsum"]
        plain, self.filters = self.filters, _Filters(self)
        for name, made in plain.items():
            self.filters[name] = made

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise Unbounded(f"is longer than {MAX_SOURCE} characters")
        try:
            tree = super()._parse(source, name, filename)
            _Watched(self).visit(tree)
        except RecursionError:
            raise Unbounded("is nested too deep") from None
        return tree

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().compile(*args, **kwargs)
        except (RecursionError, MemoryError, SyntaxError, OverflowError, ValueError) as error:
            # Python's own limits: of nesting, and of a number's digits.
            raise Unbounded(f"cannot be compiled: {error}") from None

    def tick(self) -> None:
        """Look at the clock. Raises Unbounded."""
        if time.thread_time() > _clock.ends_at:
            raise Unbounded(f"takes more than {SECONDS:g} s")

    def concat(self, parts: Iterable[str]) -> str:
        """What is written, as far as it may be. Raises Unbounded."""
        found, total = [], 0
        for part in parts:
            found.append(part)
            if (total := total + len(part)) > MAX_CHARS:
                raise Unbounded(f"writes more than {MAX_CHARS} characters")
        return "".join(found)

    def joined(self, *parts: Any) -> str:
        """Values side by side, as `~` has them."""
        return self.concat(str(_checked(part)) for part in parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        name, owner = getattr(obj, "__name__", ""), getattr(obj, "__self__", None)
        if isinstance(owner, str | bytes | int):
            if name == "join" and args:
                args = (list(self.weighed(args[0])),)
            _check_call(name, owner, (*args, *kwargs.values()))
        try:
            return super().call(context, obj, *args, **kwargs)
        except OverflowError as error:  # of range, and of numbers that no machine has
            raise Unbounded(f"calls something with a number that is too large: {error}") from None

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A text's format or format_map, within bounds."""
        plain = super().wrap_str_format(value)
        if plain is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"

        @wraps(plain)
        def bounded(*args: Any, **kwargs: Any) -> str:
            if is_map and (kwargs or len(args) != 1):
                return plain(*args, **kwargs)  # its own complaint
            form = (
                _EscapeFormatter(self, escape=text.escape)
                if isinstance(text, Markup)
                else _PlainFormatter(self)
            )
            found = form.vformat(text, () if is_map else args, args[0] if is_map else kwargs)
            result: str = str.__new__(type(text), found)
            return result

        return bounded

    def weighed(
        self, items: Iterable[Any], shown: Callable[[Any], list[Any]] | None = None
    ) -> Iterator[Any]:
        """The items one by one, as long as they, and what is shown of each, fit in memory."""
        total = 0
        for item in items:
            self.tick()
            total += _weight(item) + (sum(map(_weight, shown(item))) if shown else 0)
            if total > MAX_CHARS:
                raise Unbounded(f"makes a list of more than {MAX_CHARS} characters")
            yield item


class _SizedFormatter(Formatter):
    """Counts what braces are replaced by, and looks at its width before."""

    written = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        if found := _SPEC.match(format_spec):
            _size_of(found["width"])
            _size_of("" if isinstance(value, str) else found["precision"])
        text: str = super().format_field(_checked(value), format_spec)
        self.written += len(text)
        if self.written > MAX_CHARS:
            raise Unbounded(f"makes a text of more than {MAX_CHARS} characters")
        return text

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return super().convert_field(_checked(value), conversion)


class _PlainFormatter(_SizedFormatter, SandboxedFormatter):
    pass


class _EscapeFormatter(_SizedFormatter, SandboxedEscapeFormatter):
    pass


_WithBody = TypeVar("_WithBody", nodes.For, nodes.Macro, nodes.CallBlock)


class _Watched(NodeTransformer):
    """Puts a look at the clock into loops and macros, and bounds `~`."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: _WithBody) -> _WithBody:
        self.generic_visit(node)
        looking = nodes.ExprStmt(self._call("tick", [], node.lineno), lineno=node.lineno)
        node.body.insert(0, looking.set_environment(self._environment))
        return node

    visit_Macro = visit_CallBlock = visit_For

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return self._call("joined", node.nodes, node.lineno)

    def _call(self, name: str, values: list[nodes.Expr], lineno: int) -> nodes.Call:
        called = nodes.Call(nodes.EnvironmentAttribute(name), values, [], None, None)
        called.set_lineno(lineno).set_environment(self._environment)
        return called


def _check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise Unbounded where the result would be too large."""
    if operator == "%" and isinstance(left, str | bytes):
        _check_format(left, right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        large = sum(bits)
        if operator == "**":
            large = bits[0] * max(0, right) if bits[1] < 64 else MAX_BITS * bits[0]
        if large > MAX_BITS and abs(left) > 1:
            raise Unbounded(f"makes a number of more than {MAX_BITS} bits")
    elif operator == "*":
        size, times = (left, right) if isinstance(right, int) else (right, left)
        if isinstance(times, int) and _is_long(size) and len(size) * times > MAX_CHARS:
            raise Unbounded(f"makes a text or list of more than {MAX_CHARS}")
    elif operator == "+" and sum(len(x) for x in (left, right) if _is_long(x)) > MAX_CHARS:
        raise Unbounded(f"makes a text or list of more than {MAX_CHARS}")


def _is_long(value: object) -> bool:
    return isinstance(value, str | bytes | list | tuple)


def _weight(value: object) -> int:
    """Of an item in a list: of its text, or its own items."""
    if isinstance(value, str | bytes):
        return _ITEM + len(value)
    return _ITEM * (1 + (len(value) if isinstance(value, list | tuple | dict | set) else 0))


def _checked(value: Any, indent: int = 0, between: int = 0) -> Any:
    """The value, if its text is not too long: a list may hold another many times."""
    if not isinstance(value, list | tuple | dict | set):
        return value
    total, waiting = 0, [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        inner = [*each, *each.values()] if isinstance(each, dict) else each
        total += len(inner) * (_ITEM + indent * depth + between)
        for x in inner if total <= MAX_CHARS else ():
            if isinstance(x, str | bytes):
                total += len(x)
            elif isinstance(x, list | tuple | dict | set):
                waiting.append((x, depth + 1))
        if total > MAX_CHARS:
            raise Unbounded(f"writes a list of more than {MAX_CHARS} characters")
    return value


def _check_call(name: str, owner: Any, args: tuple[Any, ...]) -> None:
    """Raise Unbounded where a method of a text or number would make too long a text."""
    size, first = 0, args[0] if args else None
    if name == "replace" and len(args) > 1 and isinstance(args[1], str | bytes):
        size = owner.count(first) * len(args[1])
    elif name == "join" and isinstance(first, list):
        size = sum(len(owner) + len(part) for part in first if isinstance(part, str | bytes))
    elif name == "translate" and isinstance(first, dict):
        size = len(owner) * max((_weight(x) - _ITEM for x in first.values()), default=0)
    elif name in _WIDTHS:
        first = max((x for x in args if isinstance(x, int)), default=0)
        tab = "\t" if isinstance(owner, str) else b"\t"
        size = first * (owner.count(tab) if name == "expandtabs" else 1)
    if size > MAX_CHARS:
        raise Unbounded(f"makes a text of more than {MAX_CHARS} characters")


def _check_format(text: str | bytes, given: Any) -> None:
    """Raise Unbounded for a pattern of `%` that makes too long a text of what is given."""
    shown = text.decode("latin-1") if isinstance(text, bytes) else text
    rest, total = iter(given if isinstance(given, tuple) else (given,)), 0
    for found in _CONVERSION.finditer(shown):
        width, precision = (
            _size_of(next(rest, 0) if (number := found[part]) == "*" else number)
            for part in ("width", "precision")
        )
        if found["type"] == "%":
            continue
        if found["type"] == "(":
            raise Unbounded("formats by a name in too many parentheses")
        named = found["key"] is not None and isinstance(given, Mapping)
        value = _checked(given.get(found["key"]) if named else next(rest, None))
        total += max(width, 0 if found["type"] in "sra" else precision, _weight(value))
        if total > MAX_CHARS:
            raise Unbounded(f"makes a text of more than {MAX_CHARS} characters")


def _size_of(number: Any) -> int:
    """A width or precision of a format. Raises Unbounded."""
    if isinstance(number, str):
        number = int(number[:9] or 0)
    size = abs(number) if isinstance(number, int) else 0
    if size > MAX_WIDTH:
        raise Unbounded("formats to a width that is too large")
    return size


class _Filters(dict[str, Callable[..., Any]]):
    """Filters by name, those that need it guarded, whoever brings them."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        super().__init__()
        self._environment = environment

    def __setitem__(self, name: str, made: Callable[..., Any]) -> None:
        guarded = _guarded(self._environment, name, made) if name in _FILTERS else made
        super().__setitem__(name, guarded)


def _guarded(
    environment: BoundedEnvironment, name: str, made: Callable[..., Any]
) -> Callable[..., Any]:
    """A filter that looks first at what it is given and asked for."""
    passed = int(hasattr(made, "jinja_pass_arg"))  # the environment or context goes first
    known = [*signature(made).parameters]
    if passed and known[0] in ("environment", "eval_ctx", "context"):
        known = known[1:]

    @wraps(made)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if len(args) <= passed:
            return made(*args, **kwargs)
        environment.tick()
        value, options = args[passed], dict(zip(known[1:], args[passed + 1 :], strict=False))
        options |= kwargs
        if name == "format":
            _check_format(str(value), kwargs or args[passed + 1 :])
        else:
            _check_filter(name, value, options)
        if name in _LISTS:
            value = _watched(environment, name, value, options)
        result = made(*args[:passed], value, *args[passed + 1 :], **kwargs)
        return environment.weighed(result) if isinstance(result, Iterator) else result

    return guarded


def _watched(
    environment: BoundedEnvironment, name: str, value: Any, options: dict[str, Any]
) -> Any:
    """What a filter of lists is to go through: weighed now where it has a length, or on the way."""
    if isinstance(value, dict) and name == "dictsort":
        list(environment.weighed(value.values()))
        return value
    shown = None
    if name not in ("map", "batch", "slice") and isinstance(options.get("attribute"), str | int):
        shown = make_multi_attrgetter(environment, options["attribute"])
    if name == "join":
        if isinstance(value, str):
            _check_call(name, str(options.get("d", "")), (list(value),))
            return value
        if isinstance(value, Iterable):
            value = [_checked(part) for part in environment.weighed(value, shown)]
            _check_call(name, str(options.get("d", "")), ([str(x) for x in value],))
        return value
    long = isinstance(value, Iterator) or (
        isinstance(value, str | bytes | list | tuple | dict | set | range) and len(value) > 0
    )
    return environment.weighed(value, shown) if long else value


def _check_filter(name: str, value: Any, options: dict[str, Any]) -> None:
    """Raise Unbounded where a filter is asked for too much."""
    size, text = 0, value if isinstance(value, str) else ""
    sizes = {
        key: abs(x) if isinstance(x, int) else len(x)
        for key, x in options.items()
        if isinstance(x, int | str)
    }
    if name == "tojson":
        if sizes.get("indent", 0) > MAX_INDENT:
            raise Unbounded(f"asks tojson for an indent of more than {MAX_INDENT}")
        _checked(value, sizes.get("indent", 0), sum(map(len, options.get("separators") or ())))
    elif name in ("string", "pprint"):
        _checked(value)
    elif name == "replace":
        _check_call(name, str(value), (str(options.get("old")), str(options.get("new"))))
    elif name == "indent":
        size = (text.count("\n") + 1) * sizes.get("width", 4)
    elif name == "wordwrap":
        size = len(text) * max(0, sizes.get("wrapstring", 1) - 1)
    elif name == "urlize":
        size = len(text.split()) * sum(sizes.get(key, 0) for key in ("target", "rel"))
    elif name == "round" and sizes.get("precision", 0) > MAX_WIDTH:
        raise Unbounded("rounds to too many digits")
    else:
        asked = {"center": "width", "batch": "linecount", "slice": "slices"}.get(name, "")
        size = sizes.get(asked, 0) * (1 if name == "center" else 10 * _ITEM)
    if size > MAX_CHARS:
        raise Unbounded(f"asks the filter {name} for too much")
