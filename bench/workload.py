"""The prompts: ordinary English words, drawn by a seed, exactly as many tokens as asked for, no two alike."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from bench.tasks import CHATML, END, TASKS

NUM_WORDS = 3000  # the most frequent ones: a vocabulary is ordered by frequency


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    ids: tuple[int, ...]
    ends: tuple[int, ...] = ()  # tokens that end the answer early; none: it gets its full length


class Prompts:
    """Makes prompts for the tokenizer of one model. A seed gives the same prompts in the same order."""

    def __init__(self, folder: Path, seed: int) -> None:
        path = folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path))
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        words = [token for token in vocabulary if re.fullmatch(r"[Ġ▁][a-z]{4,}", token)]
        self._words = [word[1:] for word in sorted(words, key=vocabulary.__getitem__)[:NUM_WORDS]]
        self._random = random.Random(seed)

    def tasks(self, kind: str) -> list[Prompt]:
        """The chats of one kind: see bench/tasks.py."""
        end = self._tokenizer.token_to_id(END)
        assert end is not None, "the tasks are written for the default model"
        texts = [CHATML.format(task) for task in TASKS[kind]]
        return [
            Prompt(text, tuple(self._tokenizer.encode(text, add_special_tokens=False).ids), (end,))
            for text in texts
        ]

    def make(self, num_tokens: int) -> Prompt:
        words = [self._random.choice(self._words) for _ in range(num_tokens)]
        while True:
            text = " ".join(words)
            ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
            if len(ids) <= num_tokens:
                break
            words.pop()  # a word without its blank, at the beginning, may be two tokens
        return Prompt(text, ids)
