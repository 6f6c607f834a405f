"""GGUF files with SentencePiece's byte pairs: our tokenizer.json yields llama.cpp's tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer as Library

from headrace.errors import ModelError
from headrace.models import tokenizer
from headrace.models.catalog import Cache, prepare
from headrace.models.gguf import GGUFFile
from headrace.models.tokenizer import BYTES
from headrace.text.tokenizer import Tokenizer
from tests.conftest import serving_model
from tests.models.llamacpp import LlamaCpp
from tests.models.strings import random_strings
from tests.models.tiny import TinyShape, TinyVocabulary, write_tiny

SMALL = TinyShape(num_layers=1, hidden=32, feed_forward=32, num_heads=1, num_kv_heads=1)
SPECIAL = ["<unk>", "<s>", "</s>"]
ODD = [
    "",
    " ",
    "  a",
    "<s>x</s>",
    "<0x41>",
    "\u2581x \u2581",
    "a" * 13,
    " " * 9 + "x",
    "a<tool>b <tool>",
    "\U0001f999\n",
]


@dataclass(frozen=True, slots=True)
class Pieces(TinyVocabulary):
    """Characters, and words of them with falling scores."""

    words: tuple[str, ...] = ()
    characters: str = ""
    adds_space: bool | None = None
    scores: tuple[float, ...] = ()  # of the words, if they do not fall by one each

    @property
    def tokens(self) -> list[str]:
        return [*SPECIAL, *BYTES, *self.words, *self.characters, "<tool>"]

    def write(self, writer: GGUFWriter) -> None:
        plain = len(self.words) + len(self.characters)
        falling = [-float(place) for place in range(plain)]
        falling[: len(self.scores)] = self.scores
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.tokens)
        writer.add_token_types(
            [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
            + [TokenType.BYTE] * 256
            + [TokenType.NORMAL] * plain
            + [TokenType.USER_DEFINED]
        )
        writer.add_token_scores([0.0] * 259 + falling + [-1000.0])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if self.adds_space is not None:
            writer.add_add_space_prefix(self.adds_space)


def grown(text: str, count: int) -> tuple[str, ...]:
    """Words that a text has, each made of two shorter ones."""
    generator, known = np.random.default_rng(0), list(dict.fromkeys(text))
    words: dict[str, None] = {}
    while len(words) < count:
        start = int(generator.integers(len(text)))
        left = max((one for one in known if text.startswith(one, start)), key=len)
        right = max((one for one in known if text.startswith(one, start + len(left))), key=len, default="")
        if right and left + right not in words and len(left + right) < 17:
            words[left + right] = None
            known.append(left + right)
    order = generator.permutation(count)  # so that a word may have a higher score than its parts
    return tuple(list(words)[place] for place in order)


@pytest.fixture(params=[None, False])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = (inspect.getsource(inspect)[:20_000] + "aaaa  bbbb    naïve 日本語 " * 20).replace(" ", "\u2581")
    pieces = Pieces(words=grown(text, 800), characters="".join(dict.fromkeys(text)), adds_space=request.param)
    return write_tiny(tmp_path / "pieces.gguf", vocabulary=pieces, shape=SMALL)


def test_text_is_tokenized_as_by_llama_cpp(path: Path) -> None:
    found: Library = tokenizer.build(GGUFFile(path))
    found.encode_special_tokens = True  # literals of special tokens are text, as in everything a user writes
    oracle = LlamaCpp(path)
    texts = [*random_strings(2_000, seed=1), inspect.getsource(inspect)[:10_000], *ODD]
    different = [
        text for text in texts if found.encode(text, add_special_tokens=False).ids != oracle.tokenize(text)
    ]
    oracle.close()
    assert different == []


def test_a_model_is_converted(path: Path, tmp_path: Path) -> None:
    model = prepare(str(path), Cache(tmp_path / "cache"))
    assert (model.add_bos, model.bos_token_id) == (True, 1)
    read = Tokenizer(model.folder, bos=1, add_bos=True)
    prompt = read.encode_prompt("naïve 日本語 \U0001f999 def")
    assert prompt[0] == 1
    assert read.decode(prompt[1:]).removeprefix(" ") == "naïve 日本語 \U0001f999 def"


def test_its_numbers_are_those_of_llama_cpp(path: Path, tmp_path: Path) -> None:
    """Over HTTP, from the text on: how likely each next token is. llama.cpp caches in 16 bits."""
    prompts = ["def naïve(a):\n    return 日本語", "  aaaa bbbb \U0001f999", "import inspect"]
    oracle = LlamaCpp(path)
    expected = [oracle.likely(prompt, 12) for prompt in prompts]
    oracle.close()
    model = prepare(str(path), Cache(tmp_path / "cache"))
    with serving_model(model, precision="f32", generation_config="none") as server:
        for prompt, (count, likely) in zip(prompts, expected, strict=True):
            body = {"model": model.name, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 12}
            answer = server.post("/v1/completions", body).json()
            assert answer["usage"]["prompt_tokens"] == count
            found = answer["choices"][0]["logprobs"]["top_logprobs"][0]  # by text, which two may share
            assert len(found) > 4
            assert max(found.values()) == pytest.approx(max(likely), abs=1e-3)
            assert all(min(abs(value - other) for other in likely) < 0.01 for value in found.values())
            assert np.ptp(likely) > 0.1


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (Pieces(words=("ab",), characters="a"), "a character that is no token"),
        (Pieces(words=("ab", "ba"), characters="ab", scores=(-1.0, -1.0)), "two tokens of one score"),
    ],
)
def test_what_the_merges_cannot_say_is_refused(pieces: Pieces, reason: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "pieces.gguf", vocabulary=pieces, shape=SMALL)
    with pytest.raises(ModelError, match=reason):
        tokenizer.build(GGUFFile(path))
