"""Seeded random strings out of the corners of Unicode."""

from __future__ import annotations

import random
from collections.abc import Iterator

WORDS = [
    "the",
    "The",
    " don't",
    "I'LL",
    "'s",
    "we've",
    "naïve",
    "ſ'ſ",
    "straße",
    "Ελληνικά",
    "русский",
    "हिन्दी",
    "عربى",
]
WORDS += [
    "日本語",
    "한국어",
    "中文",
    "ไทย",
    "1234567",
    "3.14",
    "٣٤٥",
    "½²①Ⅷ",
    "𝟘𝟙",
    "snake_case",
    "==>",
    "...",
    "—",
    "#include",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\v",
    "\f",
    "\u0085",
    "\u00a0",
    "\u1680",
    "\u2003",
    "\u2028",
]
SPACES += ["\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\ufeff", "\u180e", " \n ", "\t \u00a0"]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇨🇭", "1️⃣", "❤️", "🧑🏿‍🚀", "☎", "🫨"]
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<repo_name>",
    "<|im_start",
    "|im_end|>",
    "<file_sep>x",
]
RANGES = [
    (0x00, 0x20), (0x20, 0x7F), (0x7F, 0xA0), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x1000),
    (0x1000, 0x2000), (0x2000, 0x2C00), (0x2C00, 0x3400), (0x3400, 0xA000), (0xA000, 0xD800),
    (0xE000, 0xF900), (0xF900, 0x10000), (0x10000, 0x11000), (0x11000, 0x1F000), (0x1F000, 0x20000),
    (0x20000, 0x32000),
    (0x32000, 0xE0000), (0xE0000, 0xE0200), (0xF0000, 0x110000),
]  # fmt: skip


def random_strings(count: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(_piece(rng) for _ in range(rng.randint(1, 24)))


def _piece(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(rng.choice([WORDS, SPACES, SPACES, EMOJI]))
    if kind < 0.5:
        return rng.choice(SPECIAL)
    low, high = rng.choice(RANGES)
    character = chr(rng.randrange(low, high))
    return character * rng.choice([1, 1, 1, 2, 3])
