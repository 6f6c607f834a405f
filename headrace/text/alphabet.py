"""GPT-2's printable stand-ins for bytes (Radford et al. 2019, `bytes_to_unicode`)."""

from __future__ import annotations


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


ALPHABET = _byte_alphabet()  # character → byte
