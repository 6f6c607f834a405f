"""Converts text to token ids and ids to bytes. Wraps the `tokenizers` library.

A caller's text contains no special tokens: `<|im_end|>` in a user's message is ten ordinary characters. Only
the chat template writes special tokens, so messages are escaped before rendering and unescaped piece by piece
afterwards.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from headrace import offload
from headrace.errors import ModelError
from headrace.text import cuts
from headrace.text.bounds import ALPHABET, Bound

# Else the library starts threads of its own for each text, outside of our limits.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WINDOW = 2**16  # characters searched per call: each holds the interpreter lock
MARK = "\ufdd0"  # a Unicode noncharacter that begins an escaped literal
USUAL = 6  # characters per token: the first estimate of how much of a text's end to tokenize
LOOKS_BACK = 32  # how many windows before a position are searched for a cut
# character code → the byte that it stands for; no byte: a code that latin-1 lacks
BYTES = {**dict.fromkeys(range(256), 0xFFFF), **{ord(one): byte for one, byte in ALPHABET.items()}}
NOTHING = "(?!)"  # an expression that matches nowhere
# In the private use area. An escaped literal is MARK and the character FIRST_CODE + the literal's index.
FIRST_CODE = 0xE000
# The tokens for prefix, suffix and middle in families of models: Bavarian et al. 2022, "Efficient Training of
# Language Models to Fill in the Middle"
FILL_IN_THE_MIDDLE = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)


class Tokenizer:
    """The tokenizer in `folder/tokenizer.json`. Raises ModelError if it is missing or cannot be streamed."""

    def __init__(self, folder: Path, *, bos: int | None = None, add_bos: bool = False) -> None:
        path = folder / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            description: dict[str, Any] = json.loads(text)
            self._library = Library.from_str(text)
        except Exception as exc:  # the library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {exc}") from exc
        self._library.encode_special_tokens = True  # literals of special tokens are text
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
        """The bytes of a token; none for special tokens and ids beyond the vocabulary."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def token_text(self, token: int) -> str:
        """The text of one token: special ones by name, incomplete characters as U+FFFD."""
        return self.token_raw(token).decode(errors="replace")

    def shown(self, tokens: Sequence[int]) -> str:
        """The text of the tokens for people: bytes of incomplete characters as `\\xe2`."""
        return self.raw(tokens).decode(errors="backslashreplace")

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
        """The tokens that precede prefix, suffix and middle; None if the model was not trained to fill in."""
        for names in FILL_IN_THE_MIDDLE:
            if all(name in self.special for name in names):
                before, after, between = (self.special[name] for name in names)
                return before, after, between
        return None

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, special ones by name."""
        return self.raw(tokens).decode(errors="replace")

    def raw(self, tokens: Sequence[int]) -> bytes:
        """The bytes of the tokens, special ones by name."""
        return b"".join(map(self.token_raw, tokens))

    def encode(self, text: str, at_most: int | None = None) -> list[int]:
        """The ids of a text, without BOS; literals of special tokens are text. If there are more than
        `at_most`, only a few more are computed. The interpreter lock is released meanwhile, unlike in the
        library's plain `encode`.
        """
        ids: list[int] = []
        for piece in cuts.pieces(text) if self._is_cuttable else (text,):
            ids += self._encode_batch([piece])[0]
            if at_most is not None and len(ids) > at_most:
                break
        return ids

    def encode_end(self, text: str, count: int) -> list[int]:
        """The last `count` ids of a text, or all. Only the end of a long text is tokenized; where the text
        has no place for an exact cut, the first few ids may differ from those of the whole.
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
        """A place before `position` where the text can be cut, if one is near; else `position`."""
        for back in range(LOOKS_BACK if self._is_cuttable else 0):
            at = max(1, position - (back + 1) * cuts.SIZE)
            if (cut := cuts.next_cut(text, at)) <= position:
                return cut
        return position

    def encode_prompt(self, text: str, at_most: int | None = None) -> list[int]:
        """The ids of a text to continue, with BOS if the model uses one. `at_most`: see encode."""
        return self._with_bos(self.encode(text, at_most))

    def encode_prompt_end(self, text: str, count: int) -> list[int]:
        """The last `count` ids of `encode_prompt`, or all. See encode_end."""
        ids = self.encode_end(text, count)
        return self._with_bos(ids)[-count:] if len(ids) < count else ids

    def escape(self, text: str) -> str:
        """Replace literals of special tokens, so that they pass a chat template as text."""
        pieces, position = [], 0
        for start, end in self._pattern.find(text):
            code = chr(FIRST_CODE + self._literals.index(text[start:end]))
            pieces += [text[position:start], MARK, code]
            position = end
        return "".join([*pieces, text[position:]]) if pieces else text

    def with_special(self, text: str) -> str:
        """Prepare a text for `encode_rendered`: literals of special tokens in it will be special tokens."""
        return text.replace(MARK, MARK + chr(FIRST_CODE))

    def unescape(self, text: str) -> str:
        if MARK not in text:
            return text
        return re.sub(MARK + "(.)", lambda match: self._literals[ord(match[1]) - FIRST_CODE], text)

    def encode_rendered(self, rendered: str, at_most: int | None = None) -> list[int]:
        """The ids of a rendered template: literals are special tokens, escaped ones are text. At most one
        BOS. `at_most`: see encode.
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
        """The unescaped texts between special tokens, and the special token after each text but the last."""
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
        """Encode texts, short ones in batches to take the interpreter lock less often."""
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
        return [encoding.ids for encoding in self._library.encode_batch_fast(texts, add_special_tokens=False)]

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids]


class Literals:
    """Finds literals in a text; of those that begin at one place the longest."""

    def __init__(self, literals: Sequence[str]) -> None:
        self._overlap = max(map(len, literals), default=1) - 1
        longest_first = sorted(filter(None, literals), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or NOTHING)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """The (start, end) of each, without overlaps. The text is searched in windows, so that other threads
        can run in between.
        """
        position = 0
        while position < len(text):
            match = self._pattern.search(text, position, position + WINDOW + self._overlap)
            if match is None:
                position += WINDOW  # a literal that begins earlier was inside the searched part
                continue
            # Match again without a limit: the window's end may have cut off a longer literal.
            whole = self._pattern.match(text, match.start())
            assert whole is not None
            yield whole.span()
            position = whole.end()


def _token_bytes(library: Library, description: dict[str, Any], special: set[int]) -> list[bytes]:
    """The bytes of each id, so that a stream can be decoded token by token. Raises ModelError."""
    decoders = _kinds(description.get("decoder") or {})
    if "ByteLevel" in decoders:
        convert = _from_byte_level
    elif "ByteFallback" in decoders:
        convert = _from_byte_fallback
    else:
        raise ModelError(f"a tokenizer whose decoder is {sorted(decoders) or 'missing'} cannot be streamed")
    names = {id: token for token, id in library.get_vocab(with_added_tokens=False).items()}
    table = [b""] * (max(library.get_vocab(with_added_tokens=True).values()) + 1)
    for id, token in names.items():
        table[id] = convert(token)
    for id, added in library.get_added_tokens_decoder().items():
        table[id] = b"" if id in special else added.content.encode()
    return table


def _kinds(decoder: dict[str, Any]) -> set[str]:
    return {decoder.get("type", "")} | {kind for part in decoder.get("decoders", ()) for kind in _kinds(part)}


def _from_byte_level(token: str) -> bytes:
    try:
        return token.translate(BYTES).encode("latin-1")
    except UnicodeEncodeError:  # a character that stands for no byte
        return token.encode()


def _from_byte_fallback(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


class Detokenizer:
    """Decodes the tokens of one answer. The pieces joined equal all bytes decoded at once, with invalid bytes
    replaced by U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Container[int] = ()) -> None:
        """`shown`: the special tokens whose names are part of the text; others are left out."""
        self._tokenizer, self._shown = tokenizer, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        shown = token in self._shown
        raw = self._tokenizer.token_raw(token) if shown else self._tokenizer.token_bytes(token)
        return self._decoder.decode(raw)

    def flush(self) -> str:
        """End the stream. An incomplete character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
