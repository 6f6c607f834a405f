"""Numbers in options, as argparse reads them."""

from __future__ import annotations

import argparse
import re

MOST = 1e9


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,14}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number, of a billion at most")
    return value
