"""Pages of lists: their query parameters, and the JSON of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.store import Page

Entry = TypeVar("Entry", bound=Mapping[str, Any])
T = TypeVar("T")
Order = Literal["asc", "desc"]
Query = Sequence[tuple[str, str]]  # decoded pairs of name and value, in order

USUAL_LIMIT, MAX_LIMIT = 20, 100
INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
LISTED = ("limit", "order", "after", "include")
INDEX = re.compile(r"\[\d*\]$")  # clients write include[]=, include[0]=, include=


class ListObject(TypedDict, Generic[Entry]):
    """A page of a list. The ids of an empty page are empty strings, because clients require strings."""

    object: Literal["list"]
    data: list[Entry]
    first_id: str
    last_id: str
    has_more: bool


class Listing(TypedDict):
    """The page of a list that a query selects: arguments of the store's methods that read a page."""

    limit: int
    order: Order
    after: str | None


def listing(query: Query, order: Order, *, is_cut: bool = False) -> Listing:
    """The page that a query selects. `order`: the default order; `is_cut`: a limit that is too large is
    reduced, as OpenAI does for some lists, and not refused. Raises BadRequest.
    """
    members = dict(query)
    page: Listing = {
        "limit": _limit(members.get("limit"), is_cut),
        "order": _order(members.get("order"), order),
        "after": members.get("after"),
    }
    include(query)
    return page


def limit_of(query: Query) -> int:
    """The member `limit` of a query. Raises BadRequest."""
    return _limit(dict(query).get("limit"), False)


def include(query: Query) -> tuple[str, ...]:
    """The values of the query parameter `include`. Raises BadRequest for unknown ones."""
    wanted = tuple(value for name, value in query if INDEX.sub("", name) == "include")
    return check_include(wanted)


def check_include(wanted: Iterable[str]) -> tuple[str, ...]:
    """Check values of `include`, and return them. Raises BadRequest for unknown ones."""
    names = tuple(wanted)
    unknown = next((value for value in names if value not in INCLUDABLE), None)
    if unknown is not None:
        raise BadRequest(
            f"Invalid 'include': {unknown[:100]!r}. Supported: {', '.join(INCLUDABLE)}.", param="include"
        )
    return names


def unknown(query: Query, known: Collection[str]) -> list[str]:
    """The query parameters that the route does not read."""
    names = dict.fromkeys(name for name, _ in query)
    return [name for name in names if (name.partition("[")[0] if name[-1:] == "]" else name) not in known]


def check(query: Query) -> Query:
    """Check a query, and return it. Raises BadRequest for null characters, which databases refuse, and for
    two values of a parameter that has one.
    """
    bad = next((name for name, value in query if "\0" in name + value), None)
    if bad is not None:
        name = bad.replace("\0", "")[:100]
        raise BadRequest.at(name, "there is a null character in it")
    single = [(name, value) for name, value in query if name.removesuffix("[]") != "include"]
    values = dict(single)
    twice = next((name for name, value in single if values[name] != value), None)
    if twice is not None:
        raise BadRequest.at(twice[:100], "it has two values")
    return query


def list_object(data: list[Entry], *, has_more: bool) -> ListObject[Entry]:
    ids = [entry["id"] for entry in data] or [""]
    return {"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


def page_object(page: Page[T], write: Callable[[T], Entry]) -> ListObject[Entry]:
    return list_object([write(entry) for entry in page.data], has_more=page.has_more)


def _limit(text: str | None, is_cut: bool) -> int:
    if text is None:
        return USUAL_LIMIT
    digits = text.lstrip("0") if re.fullmatch("[0-9]+", text) else ""
    wanted = int(digits[:9] or 0)  # its first digits say that it is too large
    if 1 <= wanted <= MAX_LIMIT or (is_cut and wanted):
        return min(wanted, MAX_LIMIT)
    bounds = "of at least 1" if is_cut else f"from 1 to {MAX_LIMIT}"
    raise BadRequest(f"Invalid 'limit': {text[:100]!r}. Expected a whole number {bounds}.", param="limit")


def _order(text: str | None, default: Order) -> Order:
    if text is None:
        return default
    if text == "asc":
        return "asc"
    if text == "desc":
        return "desc"
    raise BadRequest(f"Invalid 'order': {text[:100]!r}. Expected 'asc' or 'desc'.", param="order")
