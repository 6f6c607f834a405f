"""Assembles the tool calls of one choice from the pieces that a provider sends, in any dialect."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.brackets import Nesting
from headrace.dialects.values import MAX_DEPTH, Halves, Object, an_object, dumped, is_deeper, valid, word
from headrace.errors import ProviderError
from headrace.types import ToolCallDelta

ARGUMENTS = ("arguments", "parameters", "input")  # names of the member with a call's arguments


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call; "" and None stand for absent members. `default`: the arguments, unless other
    pieces have some.
    """

    index: int | None
    id: str
    name: str
    arguments: str
    default: str = ""


def call_piece(call: Object, index: int | None, *, is_whole: bool) -> CallPiece:
    """Read a piece of a call: {"id", "function": {"name", "arguments"}}, or with those members in the call
    itself, in `custom`, or under other names. `is_whole`: it is not a piece but the call.
    """
    function = call.get("function") or call.get("custom") or call
    members = {**call, "name": function} if isinstance(function, str) else an_object(function)
    arguments = next((members[name] for name in ARGUMENTS if members.get(name) is not None), None)
    id, name, text = word(call.get("id")), word(members.get("name")), arguments_text(arguments)
    if arguments == {} and not is_whole:  # some send this before the pieces of the arguments
        return CallPiece(index, id, name, "", default=text)
    return CallPiece(index, id, name, text)


def arguments_text(arguments: object) -> str:
    """The text of arguments, which some providers send as a JSON value. Raises ProviderError for one that is
    nested so deep that a part of it may have been left out.
    """
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    if is_deeper(arguments, MAX_DEPTH - 20):
        raise ProviderError("the arguments of a call are nested too deep")
    return dumped(arguments)


@dataclass(slots=True)
class _Call:
    """A tool call under construction. `number`: its index among the choice's calls; None: no name yet.
    `turn`: see CallAssembler.
    """

    id: str
    turn: int
    name: str = ""
    number: int | None = None
    pieces: list[str] = field(default_factory=list)  # of its arguments
    halves: Halves = field(default_factory=Halves)
    nesting: Nesting = field(default_factory=Nesting)
    is_started: bool = False  # its first delta, with its name, was sent
    is_named_again: bool = False  # its name was repeated after its arguments were complete
    default: str = ""  # its arguments, if no piece has any

    def starts_another(self, piece: CallPiece) -> bool:
        """Whether the piece begins a second JSON object after this call's arguments are complete."""
        return self.nesting.is_closed and piece.arguments.lstrip().startswith("{")

    def is_repeated(self, piece: CallPiece) -> bool:
        """Whether the piece repeats the whole call."""
        is_named = bool(piece.id) and (piece.id, piece.name) == (self.id, self.name)
        return is_named and self.nesting.is_closed and piece.arguments == "".join(self.pieces)

    def new_in(self, piece: CallPiece) -> str:
        """A piece's arguments without those so far, which some providers send again with the name. With a
        piece that has no name, `{"a":` may be the beginning of an object within the object.
        """
        if not piece.name or self.nesting.is_closed or not piece.arguments.startswith("{"):
            return piece.arguments
        return piece.arguments.removeprefix("".join(self.pieces))

    def extends_name(self, piece: CallPiece) -> bool:
        """Whether a piece has more of this call's name: some providers send a name in pieces, too, before the
        arguments. Only of a call with an id, at the same index: elsewhere, a new name is a new call.
        """
        is_same = self.id and piece.id in ("", self.id) and piece.index is not None
        return bool(is_same and self.name and piece.name and not self.is_started and piece.name != self.name)

    def continues_with(self, piece: CallPiece) -> bool:
        """Whether a piece with a name belongs to this call: some providers repeat the name in each piece."""
        if piece.id and self.id and piece.id != self.id:
            return False
        if self.name and piece.name != self.name:
            return self.extends_name(piece)
        return not self.name or self.is_repeated(piece) or not self.starts_another(piece)


class CallAssembler:
    """The indexes and ids of calls are not trusted: a new name begins a new call; a piece without a name
    continues the call at its index, or else the last one. Methods raise ProviderError for a piece that
    belongs nowhere.
    """

    def __init__(self, provider: str, choice: int) -> None:
        self._provider, self._choice = provider, choice
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the provider's index → call
        self._ids: set[str] = set()
        self._last: _Call | None = None  # the call of the last piece; None: text or reasoning came after it
        self._unstarted: _Call | None = None  # the call whose first delta waits for more of its name
        self._turn = 0  # the number of changes so far between text, reasoning and single calls
        self.num_named = 0  # calls whose name is known

    def interrupt(self) -> None:
        """Record that text or reasoning has arrived, after which a complete call cannot go on."""
        self._turn += 1
        self._last = None

    def add(self, piece: CallPiece) -> Iterator[ToolCallDelta]:
        """Add a piece, and yield the call's events: none until its name is known."""
        call = self._call_of(piece)
        if call.is_repeated(piece):
            return
        if call is not self._last:
            self._turn += 1
            self._last = call
        if piece.index is not None:
            self._at[piece.index] = call
        if call.extends_name(piece):
            call.name = piece.name if piece.name.startswith(call.name) else call.name + piece.name
        call.id, call.name = call.id or piece.id, call.name or piece.name
        call.default = call.default or piece.default
        call.is_named_again = bool(piece.name) and call.nesting.is_closed and not piece.arguments.strip()
        yield from self._write(call, piece)

    def end(self, missing: str = "") -> Iterator[ToolCallDelta]:
        """Yield the rest of the arguments, `missing` for a call without any. Raises ProviderError for a call
        with arguments but no name.
        """
        for call in self._calls:
            yield from self._start(call)
            rest = call.halves.end()
            if call.number is None and any(piece.strip() for piece in call.pieces):
                raise ProviderError(f"{self._provider} sent arguments of a call without its name")
            if not any(call.pieces):
                rest = call.default or missing
            if rest and call.number is not None:
                yield ToolCallDelta(self._choice, call.number, rest)

    def _call_of(self, piece: CallPiece) -> _Call:
        """The call that a piece belongs to, a new one if need be."""
        last = self._calls[-1] if self._calls else None
        here = self._at.get(piece.index) if piece.index is not None else last
        if piece.name:
            return here if here is not None and here.continues_with(piece) else self._begin(piece.id)
        if here is None and last is not None and last.name and not last.starts_another(piece):
            here = last  # at a new index: it may be a call whose name has not arrived yet
        if here is None:
            return self._begin(piece.id)
        is_other_id = piece.id and here.id and piece.id != here.id
        if is_other_id and (not piece.arguments or here.nesting.is_closed):
            return self._begin(piece.id)
        if here.starts_another(piece):
            again = self._begin("")
            again.name = here.name if here.is_named_again else ""
            return again
        return here

    def _begin(self, id: str) -> _Call:
        self._calls.append(_Call(id, self._turn + 1))
        return self._calls[-1]

    def _start(self, call: _Call) -> Iterator[ToolCallDelta]:
        """Yield the call's first delta, if it has a name and was not started."""
        if call.number is not None and not call.is_started:
            self._unstarted, call.is_started, call.id = None, True, self._unique_id(call.id)
            arguments = call.halves.push("".join(call.pieces))
            yield ToolCallDelta(self._choice, call.number, arguments, call.id, call.name)

    def _write(self, call: _Call, piece: CallPiece) -> Iterator[ToolCallDelta]:
        arguments = call.new_in(piece)
        is_over = call.nesting.is_closed and call.turn != self._turn
        if (
            is_over and arguments.strip()
        ):  # before a delta is yielded: callers skip a piece that raises, whole
            raise ProviderError(f"{self._provider} went on with a call after its end")
        if self._unstarted is not None and call is not self._unstarted:
            yield from self._start(self._unstarted)
        if is_over:
            return
        call.pieces.append(arguments)
        call.nesting.push(arguments)
        if call.is_started and call.number is not None:
            if valid_piece := call.halves.push(arguments):
                yield ToolCallDelta(self._choice, call.number, valid_piece)
        elif call.name:
            if call.number is None:
                call.number, self.num_named = self.num_named, self.num_named + 1
            self._unstarted = call
            if arguments or piece.index is None or not call.id:  # else there may be more of its name
                yield from self._start(call)

    def _unique_id(self, provider_id: str) -> str:
        """The provider's id if no other call has it, else a new one: callers refer to calls by their ids."""
        is_unique = provider_id and provider_id not in self._ids
        id = valid(provider_id) if is_unique else f"call_{secrets.token_hex(12)}"
        self._ids.add(id)
        return id
