"""Text to token ids and back to bytes, exactly as the model was trained. Wraps the `tokenizers` library.

Text is never trusted to hold special tokens: `<|im_end|>` in a user's message is ten ordinary characters.
Only a chat
template may write special tokens, so messages are escaped before they are rendered and unescaped piece by
piece after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from headrace.errors import ModelError

MARK = "\ufdd0"  # a Unicode noncharacter: begins an escaped literal
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
        self._pattern = _any_of(self._literals)
        self._special_pattern = _any_of(list(self.special)) if self.special else None

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

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, special ones by name."""
        return b"".join(map(self.token_raw, tokens)).decode(errors="replace")

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; special tokens in it are text. No BOS."""
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text to go on with, with BOS if the model wants one."""
        return self._with_bos(self.encode(text))

    def escape(self, text: str) -> str:
        """Text whose special-token literals survive a chat template without becoming special tokens."""
        return self._pattern.sub(lambda found: MARK + chr(FIRST_CODE + self._literals.index(found[0])), text)

    def unescape(self, text: str) -> str:
        return re.sub(MARK + "(.)", lambda found: self._literals[ord(found[1]) - FIRST_CODE], text)

    def encode_rendered(self, rendered: str) -> list[int]:
        """The ids of a rendered template: special tokens are special, escaped literals are text. One BOS at
        most.
        """
        ids: list[int] = []
        position = 0
        for found in self._special_pattern.finditer(rendered) if self._special_pattern else ():
            ids += self._encode_piece(rendered[position : found.start()])
            ids.append(self.special[found[0]])
            position = found.end()
        return self._with_bos(ids + self._encode_piece(rendered[position:]))

    def _encode_piece(self, piece: str) -> list[int]:
        return self.encode(self.unescape(piece)) if piece else []

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids]


def _any_of(literals: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(literal) for literal in sorted(literals, key=len, reverse=True)))


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


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019, `bytes_to_unicode`): character → byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_ALPHABET = _byte_alphabet()


def _from_byte_level(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_byte_fallback(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
