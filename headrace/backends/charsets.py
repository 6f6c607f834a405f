"""Converts answers to UTF-8 that are in another charset. Labels are often wrong, so the label of a charset
counts only once the bytes are no UTF-8.
"""

from __future__ import annotations

import codecs
import re

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
WIDE = ("utf-16", "utf-32")  # charsets whose text may be valid UTF-8 that means something else
MARKS = (b"\xff", b"\xfe")  # how a byte order mark begins
BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Recoder:
    """Converts the pieces of one body."""

    def __init__(self, charset: str) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._other = codecs.getincrementaldecoder(charset)("replace")
        self._is_other = charset.startswith(WIDE)

    def feed(self, piece: bytes) -> bytes:
        if not self._is_other:
            held, _ = self._utf8.getstate()
            try:
                return self._utf8.decode(piece).encode()
            except UnicodeDecodeError:
                self._is_other, piece = True, held + piece
        return self._other.decode(piece).encode(errors="replace")

    def end(self) -> bytes:
        """Return what is left of a character that broke off."""
        decoder = self._other if self._is_other else self._utf8
        return "\ufffd".encode() if decoder.getstate()[0] else b""


def recoder_for(content_type: str, beginning: bytes) -> Recoder | None:
    """A Recoder for a body that begins with these bytes; None: it is in UTF-8, or in no known charset."""
    found = next((charset for bom, charset in BOMS if beginning.startswith(bom)), None)
    match = None if found else CHARSET.search(content_type)
    name = found or (match[1] if match else "utf-8")
    try:
        known = codecs.lookup(name)
    except LookupError:
        return None
    is_text = known._is_text_encoding and known.name not in ("utf-8", "ascii", "utf-8-sig", "utf-7")
    return Recoder(known.name) if is_text else None
