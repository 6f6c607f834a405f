"""A preset: a name for a served model that comes with a system message, first messages, and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.types import Conversation, GenerateRequest, Json, Message, Sampling

UNSET = Sampling()
SYSTEM = ("system", "developer")  # roles


@dataclass(frozen=True, slots=True)
class Preset:
    """`base`: the name of the served model. A request's own parameters and system message come before these.

    `sampling`: members of Sampling; `foreign`: those of other servers.
    """

    name: str
    base: str
    system: str = ""
    messages: tuple[Message, ...] = ()
    sampling: Mapping[str, object] = field(default_factory=dict)
    foreign: Json = field(default_factory=dict)
    created: int = 0  # seconds since 1970

    def applied(self, request: GenerateRequest) -> GenerateRequest:
        """The request with what it leaves to the preset. Texts to be continued get its parameters only."""
        prompt = request.prompt
        return replace(
            request,
            prompt=self.opened(prompt) if isinstance(prompt, Conversation) else prompt,
            sampling=self._sampled(request.sampling),
            foreign={**self.foreign, **request.foreign},
        )

    def opened(self, conversation: Conversation) -> Conversation:
        """The conversation after the preset's messages."""
        messages = conversation.messages
        if not messages or messages[0].role not in SYSTEM:
            system = (Message("system", self.system),) if self.system else ()
            return replace(conversation, messages=(*system, *self.messages, *messages))
        return replace(conversation, messages=(messages[0], *self.messages, *messages[1:]))

    def _sampled(self, sampling: Sampling) -> Sampling:
        missing = {
            name: value
            for name, value in self.sampling.items()
            if getattr(sampling, name) == getattr(UNSET, name)
        }
        return replace(sampling, **missing)  # type: ignore[arg-type]
