"""Text to token ids and back to bytes, exactly as the model was trained. Wraps the `tokenizers` library.

Text is never trusted to hold special tokens: `<|im_end|>` in a user's message is ten ordinary characters.
Only a chat
template may write special tokens, so messages are escaped before they are rendered and unescaped piece by
piece after.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from headrace import offload
from headrace.errors import ModelError
from headrace.text import cuts
from headrace.text.alphabet import ALPHABET
from headrace.text.bounds import Bound

# The library would hand each text to threads of its own, which ours could not give a lower priority.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WINDOW = 2**16  # characters that are searched in one call, which holds the interpreter lock
MARK = "\ufdd0"  # a Unicode noncharacter: begins an escaped literal
USUAL = 6  # characters a token: so much of a text's end is read first
LOOKS_BACK = 32  # so many windows are searched for a place to cut
NOTHING = "(?!)"  # an expression that matches nowhere
FIRST_CODE = (
    0xE000  # the private use area: MARK and the chr of this plus the literal's index stand for the literal
)
# prefix, suffix, middle, as families of models name them: Bavarian et al. 2022, "Efficient Training of
# Language Models to Fill in the Middle"
FILL_IN_THE_MIDDLE = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)


class Tokenizer:
    """Loads `folder/tokenizer.json`. Raises ModelError when it is missing or of a kind that cannot be
    streamed.
    """

    def __init__(self, folder: Path, *, bos: int | None = None, add_bos: bool = False) -> None:
        path = folder / "tokenizer.json"
        try:
            description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self._library = Library.from_str(json.dumps(description))
        except Exception as exc:  # the library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {exc}") from exc
        self._library.encode_special_tokens = True  # in text, they are text
        self._bos = bos if add_bos else None
        added = self._library.get_added_tokens_decoder()
        self.special: dict[str, int] = {token.content: id for id, token in added.items() if token.special}
        self._names = {id: text for text, id in self.special.items()}
        self._bytes = _token_bytes(self._library, description, set(self.special.values()))
        self._literals = [MARK, *self.special]
        self._pattern = Literals(self._literals)
        self._special_pattern = Literals(list(self.special))
        self._is_cuttable = cuts.is_cuttable(description)
        self.bound = Bound(description, [self.token_raw(id) for id in range(len(self._bytes))])

    @property
    def vocabulary(self) -> int:
        return len(self._bytes)

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text; nothing for special tokens and ids beyond the vocabulary."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def token_text(self, token: int) -> str:
        """A token by itself, as people read it: special ones by name, parts of a character as U+FFFD."""
        return self.token_raw(token).decode(errors="replace")

    def token_raw(self, token: int) -> bytes:
        """The bytes of a token, special ones by name."""
        name = self._names.get(token)
        return self.token_bytes(token) if name is None else name.encode()

    @property
    def bytes_of_tokens(self) -> list[bytes]:
        """token_bytes of the whole vocabulary."""
        return self._bytes

    @property
    def fill_in_the_middle(self) -> tuple[int, int, int] | None:
        """The tokens ahead of what comes before, ahead of what comes after, and ahead of what lies between;
        None for a model that was not trained with any.
        """
        for names in FILL_IN_THE_MIDDLE:
            if all(name in self.special for name in names):
                before, after, between = (self.special[name] for name in names)
                return before, after, between
        return None

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones by name."""
        return self.raw(tokens).decode(errors="replace")

    def raw(self, tokens: Sequence[int]) -> bytes:
        """The bytes of tokens, special ones by name."""
        return b"".join(map(self.token_raw, tokens))

    def encode(self, text: str, at_most: int | None = None) -> list[int]:
        """The ids of plain text; special tokens in it are text. No BOS. When there are more than `at_most`,
        only some more than that many are computed. Other threads run meanwhile: the library's plain `encode`
        would hold the interpreter lock.
        """
        ids: list[int] = []
        for piece in cuts.pieces(text) if self._is_cuttable else (text,):
            ids += self._encode_batch([piece])[0]
            if at_most is not None and len(ids) > at_most:
                break
        return ids

    def encode_end(self, text: str, count: int) -> list[int]:
        """The last `count` ids of a text, or all. Only the end of a long text is read. The ids are the same
        as if the whole had been, except where the text has no place at which it could be cut exactly: then
        the first few of them may differ.
        """
        size = count * USUAL if self._is_cuttable else self.bound.size(count)
        start = len(text) - size
        while start > 0:
            cut = self._cut_before(text, start)
            ids = self.encode(text[cut:])
            if len(ids) >= count:
                return ids[-count:]
            size *= 4
            start = min(start, cut) - size
        return self.encode(text)[-count:]

    def _cut_before(self, text: str, position: int) -> int:
        """The last place before `position` that is easily found where the text can be cut; else itself."""
        for back in range(LOOKS_BACK if self._is_cuttable else 0):
            at = max(1, position - (back + 1) * cuts.SIZE)
            if (found := cuts.next_cut(text, at)) <= position:
                return found
        return position

    def encode_prompt(self, text: str, at_most: int | None = None) -> list[int]:
        """The ids of a text to go on with, with BOS if the model wants one. `at_most`: see encode."""
        return self._with_bos(self.encode(text, at_most))

    def encode_prompt_end(self, text: str, count: int) -> list[int]:
        """The last `count` ids of `encode_prompt`, or all. See encode_end."""
        ids = self.encode_end(text, count)
        return self._with_bos(ids)[-count:] if len(ids) < count else ids

    def escape(self, text: str) -> str:
        """Text whose special-token literals survive a chat template without becoming special tokens."""
        pieces, position = [], 0
        for start, end in self._pattern.find(text):
            code = chr(FIRST_CODE + self._literals.index(text[start:end]))
            pieces += [text[position:start], MARK, code]
            position = end
        return "".join([*pieces, text[position:]]) if pieces else text

    def with_special(self, text: str) -> str:
        """A text as `encode_rendered` takes it: the literals of special tokens in it are special tokens."""
        return text.replace(MARK, MARK + chr(FIRST_CODE))

    def unescape(self, text: str) -> str:
        if MARK not in text:
            return text
        return re.sub(MARK + "(.)", lambda found: self._literals[ord(found[1]) - FIRST_CODE], text)

    def encode_rendered(self, rendered: str, at_most: int | None = None) -> list[int]:
        """The ids of a rendered template: special tokens are special, escaped literals are text. One BOS at
        most. `at_most`: see encode.
        """
        pieces, marks = self._at_marks(rendered)
        ids: list[int] = []
        for number, encoded in enumerate(self._encode_each(pieces, at_most)):
            ids += encoded
            ids += marks[number : number + 1]
            if at_most is not None and len(ids) > at_most:
                break
        return self._with_bos(ids)

    def encode_rendered_end(self, rendered: str, count: int) -> list[int]:
        """The last `count` ids of a rendered template, or all. See encode_end."""
        pieces, marks = self._at_marks(rendered)
        ends: list[list[int]] = []
        missing = count
        for number in reversed(range(len(pieces))):
            end = [*self.encode_end(pieces[number], missing), *marks[number : number + 1]]
            ends.append(end)
            missing -= len(end)
            if missing <= 0:
                break
        ids = [id for end in reversed(ends) for id in end]
        return self._with_bos(ids)[-count:] if missing > 0 else ids[-count:]

    def _at_marks(self, rendered: str) -> tuple[list[str], list[int]]:
        """The texts between special tokens, unescaped, and the special token after each but the last."""
        pieces: list[str] = []
        marks: list[int] = []
        position = 0
        for start, end in self._special_pattern.find(rendered):
            pieces.append(self.unescape(rendered[position:start]))
            marks.append(self.special[rendered[start:end]])
            position = end
        pieces.append(self.unescape(rendered[position:]))
        return pieces, marks

    def _encode_each(self, texts: list[str], at_most: int | None) -> Iterator[list[int]]:
        """Short ones together, so that the interpreter lock is not taken for each."""
        batch: list[str] = []
        size = 0
        for text in texts:
            if size + len(text) > cuts.SIZE:
                yield from self._encode_batch(batch)
                batch, size = [], 0
            if len(text) > cuts.SIZE:
                yield self.encode(text, at_most)
            else:
                batch.append(text)
                size += len(text)
        yield from self._encode_batch(batch)

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:
        offload.check_wanted()
        return [found.ids for found in self._library.encode_batch_fast(texts, add_special_tokens=False)]

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids]


class Literals:
    """Finds any of some literals in a text, the longest of those that begin at one place."""

    def __init__(self, literals: Sequence[str]) -> None:
        self._overlap = max(map(len, literals), default=1) - 1
        longest_first = sorted(filter(None, literals), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or NOTHING)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each, none inside another. A text is searched a window at a time, so that other
        threads get their turn.
        """
        position = 0
        while position < len(text):
            found = self._pattern.search(text, position, position + WINDOW + self._overlap)
            if found is None:
                position += WINDOW  # a literal that began before this would have been seen whole
                continue
            # again, without the window's end: it may have cut a longer literal
            whole = self._pattern.match(text, found.start())
            assert whole is not None
            yield whole.span()
            position = whole.end()


def _token_bytes(library: Library, description: dict[str, Any], special: set[int]) -> list[bytes]:
    """For each id the bytes it stands for, so that a stream can be decoded byte by byte."""
    decoders = _kinds(description.get("decoder") or {})
    if "ByteLevel" in decoders:
        convert = _from_byte_level
    elif "ByteFallback" in decoders:
        convert = _from_byte_fallback
    else:
        raise ModelError(f"a tokenizer whose decoder is {sorted(decoders) or 'missing'} cannot be streamed")
    added = {id: token.content for id, token in library.get_added_tokens_decoder().items()}
    size = max(library.get_vocab(with_added_tokens=True).values()) + 1
    table = []
    for id in range(size):
        token = library.id_to_token(id)
        if token is None or id in special:
            table.append(b"")
        else:
            table.append(added[id].encode() if id in added else convert(token))
    return table


def _kinds(decoder: dict[str, Any]) -> set[str]:
    return {decoder.get("type", "")} | {kind for part in decoder.get("decoders", ()) for kind in _kinds(part)}


def _from_byte_level(token: str) -> bytes:
    if all(character in ALPHABET for character in token):
        return bytes(ALPHABET[character] for character in token)
    return token.encode()


def _from_byte_fallback(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
