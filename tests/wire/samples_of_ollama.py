"""A sample of every parameter of Ollama's endpoints, as in samples.py."""

from __future__ import annotations

from typing import Any

from headrace.wire.ollama.tables import LOADING, OLDER
from tests.wire.samples import FOREIGN, FUNCTION, PNG, SAID, SCHEMA, TOOLS, USER, Sample, plainly, spoken


def _option(name: str, value: Any) -> Sample:
    return {"options": {}}, {"options": {name: value}}


OPTIONS: dict[str, Sample] = {
    "options": ({}, {"options": {"temperature": 0.5}}),
    **{f"options.{name}": ({"options": {}}, {"options": FOREIGN[name][1]}) for name in OLDER},
    **{f"options.{name}": _option(name, 1) for name in (*LOADING, "num_ctx", "num_keep")},
    **{
        f"options.{name}": _option(name, value)
        for name, value in {
            "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.5,
            "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 3, "num_predict": 7, "stop": ["END"],
        }.items()
    },
}  # fmt: skip
ANSWER: dict[str, Sample] = {
    **OPTIONS,
    **plainly(
        model="other", keep_alive="5m", stream=False, format=SCHEMA, think="high", truncate=True, shift=True,
        logprobs=True,
    ),
    "top_logprobs": ({"logprobs": True}, {"top_logprobs": 2}),
}  # fmt: skip
EMBED = plainly(
    model="other", keep_alive=0, input=["a", "b"], dimensions=4, truncate=True, options={"num_ctx": 99}
)
OLLAMA: dict[str, dict[str, Sample]] = {
    "/api/chat": {
        **ANSWER,
        **plainly(messages=[USER, SAID, USER], tools=TOOLS),
        "messages.thinking": spoken(SAID, thinking="hm"),
        "tools.function.strict": (
            {"tools": TOOLS},
            {"tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}]},
        ),
    },
    "/api/generate": {
        **ANSWER,
        **plainly(
            prompt="other", system="Be brief.", images=[PNG], raw=True, suffix="end", context=[1],
            template="x", width=1, height=1, steps=1,
        ),
    },
    "/api/embed": EMBED,
    "/api/embeddings": {
        **{name: EMBED[name] for name in ("model", "keep_alive", "options")}, **plainly(prompt="other"),
    },
}  # fmt: skip
