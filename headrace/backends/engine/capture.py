"""Opens a model for reading its hidden states, without a server: for training."""

from __future__ import annotations

from headrace.engine.capture import HiddenStates
from headrace.errors import ModelError
from headrace.models.model import Model
from headrace.text.tokenizer import Tokenizer


def open_capture(model: Model, *, exact: bool = False, num_threads: int = 0) -> HiddenStates:
    """The hidden states of a model; see steering.types.Capture. `exact`: in float32, not in the processor's
    fastest type. Raises ModelError for a graph whose layers are not found, and for models of PyTorch.
    """
    if not (model.folder / "openvino_model.xml").is_file():
        raise ModelError(f"{model.name} is not run by OpenVINO, which reads hidden states for this")
    tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
    return HiddenStates(model.folder, tokenizer.encode_prompt, exact=exact, num_threads=num_threads)
