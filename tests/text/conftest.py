from __future__ import annotations

import pytest

from headrace.models.catalog import Model
from headrace.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(default_model: Model) -> Tokenizer:
    return Tokenizer(default_model.folder, bos=default_model.bos_token_id, add_bos=default_model.add_bos)
