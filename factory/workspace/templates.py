"""Jinja with bounds: templates of users and of models, which end in seconds and in little memory.

The sandbox keeps a template from the machine; this keeps it from running on. Loops and macros look
at the clock, what makes long texts or numbers looks at their size first, and what is written is
counted. The clock is the thread's own, so that a busy machine refuses nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

from jinja2 import Template, TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 5.0
"""Of computing for one rendering."""
MAX_CHARS = 10_000_000
"""Of what is written, and of any text or list made on the way."""
MAX_BITS = 10_000
"""Of a whole number made on the way."""
MAX_SOURCE = 1_000_000
"""Of a template, in characters: the longest that models bring have a few ten thousand."""
_LONG_WIDTH = re.compile(r"\d{6}")
_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_FILTERS = "batch center format indent join replace round slice tojson truncate wordwrap".split()
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
        del self.globals["lipsum"]
        plain, self.filters = self.filters, _Filters()
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
        return self.concat(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps a text's own format
        name, text = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        if isinstance(text, str | bytes):
            _check_call(name, text, args)
        if any(
            type(value) is int and abs(value) > MAX_CHARS for value in (*args, *kwargs.values())
        ):
            raise Unbounded("calls something with a number that is too large")
        return super().call(context, obj, *args, **kwargs)


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
        _check_format(left, right if isinstance(right, tuple) else (right,))
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


def _check_call(name: str, text: Any, args: tuple[Any, ...]) -> None:
    """Raise Unbounded where a text's own method would make too long a one."""
    size = 0
    if name == "replace" and len(args) > 1:
        size = text.count(args[0]) * len(args[1])
    elif name == "join" and args and isinstance(args[0], list | tuple | dict | set):
        size = sum(len(text) + (len(part) if _is_long(part) else 0) for part in args[0])
    elif name in _WIDTHS and args and isinstance(args[0], int):
        size = args[0] * (text.count("\t") if name == "expandtabs" else 1)
    elif name in ("format", "format_map"):
        _check_format(text, args)
    if size > MAX_CHARS:
        raise Unbounded(f"makes a text of more than {MAX_CHARS} characters")


def _check_format(text: str | bytes, values: Iterable[Any]) -> None:
    """Raise Unbounded for a pattern, of `%` or of braces, that makes too long a text."""
    shown = text.decode("latin-1") if isinstance(text, bytes) else text
    values = [each for x in values for each in (x.values() if isinstance(x, dict) else (x,))]
    numbers = [abs(x) for x in values if isinstance(x, int)]
    if _LONG_WIDTH.search(shown) or ("*" in shown and max(numbers, default=0) > MAX_BITS):
        raise Unbounded("formats to a width that is too large")
    longest = max((len(x) for x in values if _is_long(x)), default=0)
    if (shown.count("%") + shown.count("{")) * longest > 2 * MAX_CHARS:
        raise Unbounded(f"makes a text of more than {MAX_CHARS} characters")


class _Filters(dict[str, Callable[..., Any]]):
    """Filters by name, those that need it guarded, whoever brings them."""

    def __setitem__(self, name: str, made: Callable[..., Any]) -> None:
        super().__setitem__(name, _guarded(name, made) if name in _FILTERS else made)


def _guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at what it is asked for first."""

    @wraps(made)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        if any(type(value) is int and abs(value) > MAX_BITS for value in values[1:]):
            raise Unbounded(f"asks the filter {name} for too much")
        texts = [value for value in args if isinstance(value, str)]
        if name == "format" and texts:
            _check_format(texts[0], values[1:])
        elif name == "replace" and len(texts) > 2:
            _check_call(name, texts[0], tuple(texts[1:]))
        elif name == "join" and len(args) > 1:
            parts = list(args[1])
            _check_call(name, texts[0] if texts else "", (parts,))
            args = (args[0], parts, *args[2:])
        return made(*args, **kwargs)

    return guarded
