"""Opens a model for reading its hidden states: for training, and for the logit lens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TypeVar

from headrace.backends.engine.thread import EngineThread
from headrace.engine.capture import HiddenStates
from headrace.engine.engine import Engine
from headrace.engine.torch.options import TorchOptions
from headrace.errors import EngineFailed
from headrace.models.model import Model
from headrace.steering.types import Capture
from headrace.text.tokenizer import Tokenizer

T = TypeVar("T")


def open_capture(
    model: Model, *, exact: bool = False, num_threads: int = 0, torch: TorchOptions | None = None
) -> Capture:
    """The hidden states of a model, without a server. `exact`: in float32, not in the processor's fastest
    type. `torch`: for folders of safetensors. Raises ModelError for a model whose layers are not found.
    """
    encode = _encoder(model)
    if not model.is_checkpoint:
        return HiddenStates(model.folder, encode, exact=exact, num_threads=num_threads)
    from headrace.engine.torch.capture import load_states

    return load_states(model.folder, encode, torch or TorchOptions(), exact=exact)


def capture_of(model: Model, engine: Engine, thread: EngineThread) -> Capture:
    """The hidden states of a model that an engine serves. PyTorch's weights are used between two steps of the
    engine; those of OpenVINO's graph are mapped once more. Raises ModelError.
    """
    if not model.is_checkpoint:
        return open_capture(model)
    from headrace.engine.torch.capture import states_of

    def between_steps(function: Callable[[], T]) -> T:
        try:
            return thread.call(function).result()
        except CancelledError as exc:
            raise EngineFailed("the engine has stopped") from exc

    return states_of(engine.runner, _encoder(model), between_steps)


def _encoder(model: Model) -> Callable[[str], list[int]]:
    return Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos).encode_prompt
