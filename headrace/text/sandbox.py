"""The environment in which a model's chat template runs. Templates are untrusted: one with nested loops, or
with `"x" * 10**12`, must not stop the server, so each run is bounded.

Jinja's sandbox restricts what a template can access. In addition this module counts steps (iterations, calls,
filters, operators) and limits the sizes of the texts and lists that a template creates.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.finite import dumped_pieces

STEPS, STEPS_OF_EACH = 100_000, 1_000  # per run, and more for each message and tool
SIZE, SIZE_OF_EACH = 1_000_000, 8  # characters or items of a value, and more per character of input
SECONDS = 10.0  # CPU time of a run
MAX_NUMBER = 100_000  # the largest number as an argument of a filter or method
MAX_BITS = 4_096  # the largest size of an integer
WIDTH = re.compile(r"%[^a-zA-Z%]*?(?:\d{5}|\*)")  # a %-format with a large width, or a width from an argument
WIDE_FIELD = re.compile(r":[^{}:]*(?:\d{5}|\{)")  # the same for str.format
CHECKED_EVERY = 1_024  # steps


class RunTooLong(jinja2.TemplateError):
    """A run of a template exceeded a limit."""


class _Budget:
    """The remaining steps, size and time of one run."""

    def __init__(self, steps: int, size: int) -> None:
        self.steps, self.size = steps, size
        self._until = time.thread_time() + SECONDS

    def spend(self) -> None:
        self.steps -= 1
        is_late = not self.steps % CHECKED_EVERY and time.thread_time() > self._until
        if self.steps < 0 or is_late:
            raise RunTooLong("it takes more steps than a template may")

    def check(self, size: int) -> None:
        if size > self.size:
            raise RunTooLong("it makes more text than a template may")


class _Running(threading.local):
    budget: _Budget | None = None


_running = _Running()


@contextmanager
def bounded(parts: int, characters: int) -> Iterator[None]:
    """Limit the run of a template inside the block. `parts`: messages and tools of its input; `characters`:
    their length. Exceeding a limit raises RunTooLong.
    """
    _running.budget = _Budget(STEPS + STEPS_OF_EACH * parts, SIZE + SIZE_OF_EACH * characters)
    try:
        yield
    finally:
        _running.budget = None


def _spend() -> None:
    if _running.budget is not None:
        _running.budget.spend()


def _check(size: int) -> None:
    if _running.budget is not None:
        _running.budget.check(size)


def _counted(value: Iterable[Any]) -> Iterator[Any]:
    for one in value:
        _spend()
        yield one


def _concat(pieces: Iterable[str]) -> str:
    checked, size = [], 0
    for piece in pieces:
        size += len(piece)
        _check(size)
        checked.append(piece)
    return "".join(checked)


def _joined(values: Iterable[Any]) -> str:
    """The value of `a ~ b`."""
    return _concat(str(_measured(value)) for value in values)


def _measured(value: Any) -> Any:
    """Return the value after checking the size of its text. A list that contains another one twice, and so
    on, is small, but its text grows exponentially.
    """
    if not isinstance(value, str | int | float | None):
        _check(_size(value))
    return value


def _size(value: Any) -> int:
    _spend()
    if isinstance(value, dict):
        return sum(_size(key) + _size(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 1


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the filters and functions that published templates use."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_measured,
            optimized=False,  # constant folding while parsing would not be counted
            extensions=[loopcontrols, _Generation],
        )
        self.filters = {name: _filter(name, one) for name, one in self.filters.items()}
        self.filters |= {"tojson": _to_json, "__counted": _counted, "__joined": _joined}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern[:MAX_BITS])
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in list(source.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "__counted", [], [], None, None)
        _replace_concat(source)
        generated: str = super()._generate(source, *args, **kwargs)
        return generated

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _spend()
        if operator == "+" and isinstance(left, str | list | tuple) and hasattr(right, "__len__"):
            _check(len(left) + len(right))
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            right = tuple(map(_measured, right)) if isinstance(right, tuple) else _measured(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and WIDE_FIELD.search(value.__self__):
            raise RunTooLong("it asks for wider text than a template may")
        return wrapped

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _spend()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            _check_of_text(name, owner, args)
        elif name in ("format", "format_map"):
            for value in (*args, *kwargs.values()):
                _measured(value)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str | list | tuple):
            _check(len(result))
        return result


def _replace_concat(node: nodes.Node) -> None:
    """Replace `a ~ b` by a filter that checks the size of the result."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_without_concat(one) for one in value])
        else:
            setattr(node, name, _without_concat(value))


def _without_concat(value: Any) -> Any:
    if not isinstance(value, nodes.Node):
        return value
    _replace_concat(value)
    if isinstance(value, nodes.Concat):
        return nodes.Filter(nodes.List(value.nodes), "__joined", [], [], None, None, lineno=value.lineno)
    return value


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            _check(len(value) * max(0, times))
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise RunTooLong("it computes with numbers larger than a template may")


def _check_format(source: str) -> None:
    if WIDTH.search(source):
        raise RunTooLong("it asks for wider text than a template may")


def _check_numbers(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
        raise RunTooLong("it asks for wider text than a template may")


def _check_of_text(name: str, text: str, args: tuple[Any, ...]) -> None:
    """Check a call of a str method before it creates a large value."""
    if name not in ("find", "rfind", "index", "rindex", "startswith", "endswith", "count"):
        _check_numbers(args)
    if name == "expandtabs" and args and isinstance(args[0], int):
        _check(text.count("\t") * args[0])
    if name == "replace" and len(args) >= 2:
        _check_replaced(text, args[0], args[1])
    if name == "join" and args and isinstance(args[0], list | tuple):
        _check(sum(map(_size, args[0])) + len(text) * len(args[0]))


def _check_replaced(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _check(len(text) + text.count(old) * len(new))


def _filter(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: count it, and check its arguments and its result."""

    @wraps(filter)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _spend()
        _check_numbers(() if name in ("abs", "int", "float", "round", "default", "d") else args)
        _check_numbers(kwargs.values())
        _check_of_filter(name, args, kwargs)
        result = filter(*args, **kwargs)
        if isinstance(result, str | list | tuple):
            _check(len(result))
        return result

    return counted


def _check_of_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    texts = [value for value in args if isinstance(value, str)]
    if name == "format" and texts:
        _check_format(texts[0])
    if name == "replace" and len(texts) >= 3:
        _check_replaced(*texts[:3])
    if name in ("string", "pprint", "join", "xmlattr", "urlencode", "escape", "e", "format"):
        for value in args:
            if isinstance(value, dict | list | tuple):
                _measured(value)
    if name == "join":
        separator = next((len(text) for text in texts[-1:]), 0)
        members = next((len(value) for value in args if isinstance(value, list | tuple)), 0)
        _check(separator * members)
    if name == "indent" and texts:
        width = max((len(value) if isinstance(value, str) else value for value in args[1:2]), default=4)
        _check(texts[0].count("\n") * int(width))
    if name == "sum" and any(isinstance(value, list | tuple) for value in (*args[2:], *kwargs.values())):
        raise RunTooLong("it adds up lists, which a template may not")


class _Generation(Extension):
    """Renders the content of `{% generation %}…{% endgeneration %}`, which marks training data."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter: models are trained on plain JSON."""
    _spend()
    _measured(value)
    _check_numbers((indent,))
    if indent is None and separators is None:
        return "".join(dumped_pieces(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
