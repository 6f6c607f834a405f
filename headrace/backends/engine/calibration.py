"""An ordinary text on which the norms of hidden states are measured: Python's own documentation, which every
installation has.
"""

from __future__ import annotations

from headrace.text.tokenizer import Tokenizer

CHARACTERS = 8000
SHORTEST = 1000  # of a page, in characters: shorter ones are tables and headings


def ordinary_text(tokenizer: Tokenizer) -> list[int]:
    """Its tokens, with BOS if the model uses one."""
    from pydoc_data.topics import topics

    pages = [page for _, page in sorted(topics.items()) if len(page) >= SHORTEST]
    return tokenizer.encode_prompt("\n".join(pages)[:CHARACTERS])
