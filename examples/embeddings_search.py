"""Finds the texts that are nearest in meaning to a question, and orders them once more. A running
`make serve`, then python examples/embeddings_search.py "how is bread made?"
"""

import os
import sys
from typing import Any

from openai import OpenAI

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "minilm-l6-v2"  # fetched at its first use
TEXTS = [
    "A miller grinds grain between two stones.",
    "Plants turn light into sugar.",
    "Bread is dough that was left to rise and then baked.",
    "A headrace carries water to the mill wheel.",
    "Cats sleep for most of the day.",
]
question = " ".join(sys.argv[1:]) or "How do leaves make food?"

client = OpenAI(base_url=URL, api_key="none")


def embed(texts: list[str]) -> list[list[float]]:
    """Vectors of length 1."""
    return [row.embedding for row in client.embeddings.create(model=MODEL, input=texts).data]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


index = list(zip(TEXTS, embed(TEXTS), strict=True))
(wanted,) = embed([question])
found = sorted(index, key=lambda entry: cosine(wanted, entry[1]), reverse=True)
print(f"Nearest to {question!r}:")
for text, vector in found[:3]:
    print(f"{cosine(wanted, vector):.2f}  {text}")

# The same in one request, which OpenAI's API does not have: the server compares.
ranked: Any = client.post(
    "/rerank",
    cast_to=object,
    body={"model": MODEL, "query": question, "documents": TEXTS, "top_n": 1},
)
print("Reranked:", TEXTS[ranked["results"][0]["index"]])
