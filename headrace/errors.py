"""The tree of errors.

HeadraceError
├── ConfigError             stops the start, exit code 2
├── ModelError              a model cannot be found, fetched, read or converted; exit code 2 at start
│   └── UnsupportedModel    nothing is wrong with the file, but our engine does not read it
└── ServerError             becomes an HTTP status, or an in-stream error after the first byte
    ├── BadRequest          400  the request is invalid; never retried
    │   ├── UnsupportedParameter
    │   ├── ContextTooLong
    │   ├── TextTooLong
    │   ├── SteeringRefused     steering_unsupported, steering_unknown_sae, …
    │   ├── ConversationLocked
    │   └── PreviousResponseNotFound
    ├── Unauthorized        401  invalid_api_key, with WWW-Authenticate
    ├── Forbidden           403  the host name, the web page or the key is not allowed to do this
    ├── NotFound            404
    │   ├── ModelNotFound
    │   ├── EndpointNotFound    the provider has no such endpoint
    │   ├── ProviderNotFound
    │   ├── ConversationNotFound, ItemNotFound, ResponseNotFound, CompletionNotFound, KeyNotFound
    │   └── ProfileNotFound     a steering profile
    ├── MethodNotAllowed    405
    ├── ModelLocked         409  a lock keeps the model in memory
    │   └── ModelLeased          for some time; carries Retry-After
    ├── RateLimited         429  a limit of the caller's key; carries Retry-After and x-ratelimit-…
    ├── PayloadTooLarge     413
    ├── UnsupportedMedia    415
    ├── ClientGone          499  the client has disconnected
    ├── EngineFailed        500  a step of the engine failed under this request
    ├── TimedOut            504  the request's own timeout or the server's
    ├── ProviderError       502  a provider failed, in one of these ways
    │   ├── ProviderRefused      400  it refuses the request; or the provider's own 4xx
    │   ├── ProviderKeyRefused   502  it refuses our key; not the caller's fault
    │   ├── ProviderLimited      429  carries its Retry-After
    │   ├── ProviderUnreachable  503
    │   └── ProviderTimedOut     504
    └── Overloaded          503  carries Retry-After: queue full, draining, not ready
        ├── StoreUnavailable     the database cannot be reached
        └── ModelUnavailable     it cannot be fetched or loaded now
"""

from __future__ import annotations

from typing import Literal, Self

SteeringCode = Literal[
    "steering_unsupported",  # this backend cannot steer
    "steering_unknown_sae",
    "steering_unknown_vector",
    "steering_unknown_profile",
    "steering_feature_out_of_range",
    "steering_mode_unsupported",
    "steering_layer_mismatch",  # there is no such layer, or it is not attached
    "steering_shape_mismatch",  # an SAE, vector or direction is of another width than the model
    "steering_dose_exceeded",
    "steering_statistics_missing",  # a unit needs a measurement that was not made
    "steering_file_refused",  # a file is outside the root, or not of a format that is read
]

MAX_MESSAGE, MAX_PARAM = 2000, 300  # characters: an error must not repeat a large request


def bounded(text: str, limit: int) -> str:
    """Cut the text to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class HeadraceError(Exception):
    """The root of the tree. `message` is for people and contains no secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(HeadraceError):
    """A setting is unknown, unparsable or contradicts another."""


class ModelError(HeadraceError):
    """A model reference cannot be turned into files that an engine loads."""


class UnsupportedModel(ModelError):
    """A GGUF file that our engine does not read. llama.cpp may."""


class ServerError(HeadraceError):
    """An error that becomes a response in OpenAI's shape. `code`: None is that of the class."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(bounded(message, MAX_MESSAGE))
        self.code = code or self.code
        self.param = None if param is None else bounded(param, MAX_PARAM)
        self.headers = headers or {}


class BadRequest(ServerError):
    status, type, code = 400, "invalid_request_error", "invalid_value"

    @classmethod
    def at(cls, param: str, problem: str, *, code: str | None = None) -> Self:
        """The error of one member, whose path begins the message."""
        return cls(f"{param}: {problem}", param=param, code=code)


class UnsupportedParameter(BadRequest):
    code = "unsupported_parameter"


class ContextTooLong(BadRequest):
    """The prompt does not fit the model's context. `limit`, `requested`: in tokens, where known. Each dialect
    words them in its own way; clients recognise the words and shorten the conversation.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        limit: int | None = None,
        requested: int | None = None,
    ) -> None:
        super().__init__(message, param=param, headers=headers)
        self.limit, self.requested = limit, requested

    @classmethod
    def of_tokens(
        cls, limit: int, prompt: int, answer: int, *, param: str, is_estimate: bool = False
    ) -> ContextTooLong:
        """The error in OpenAI's words. `prompt`, `answer`: in tokens; `is_estimate`: the prompt was not
        tokenized, so its count is rough.
        """
        place = param.partition(".")[0]
        about = "about " if is_estimate else ""
        return cls(
            f"This model's maximum context length is {limit} tokens. However, you requested {about}"
            f"{prompt + answer} tokens ({prompt} in the {place}, {answer} in the completion). Please reduce "
            f"the length of the {place} or completion.",
            param=param,
            limit=limit,
            requested=prompt + answer,
        )


class TextTooLong(BadRequest):
    """A text exceeds its limit in bytes."""

    code = "string_above_max_length"  # OpenAI's


class SteeringRefused(BadRequest):
    """A model cannot be steered or probed as the request has it; it is never answered unsteered instead."""

    def __init__(self, message: str, *, code: SteeringCode, param: str | None = None) -> None:
        super().__init__(message, param=param, code=code)


class ConversationLocked(BadRequest):
    code = "conversation_locked"


class PreviousResponseNotFound(BadRequest):
    code = "previous_response_not_found"


class Unauthorized(ServerError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ServerError):
    """The request's Host or Origin is not allowed, or its key may not do this."""

    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(ServerError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class EndpointNotFound(NotFound):
    """A provider has no endpoint of this kind, whatever the model."""

    code = "endpoint_not_found"


class ProviderNotFound(NotFound):
    code = "provider_not_found"


class ConversationNotFound(NotFound):
    code = "conversation_not_found"


class ItemNotFound(NotFound):
    code = "item_not_found"


class ResponseNotFound(NotFound):
    code = "response_not_found"


class CompletionNotFound(NotFound):
    code = "completion_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class ProfileNotFound(NotFound):
    code = "profile_not_found"


class MethodNotAllowed(ServerError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class ModelLocked(ServerError):
    """The model is neither unloaded nor deleted until its holder releases it."""

    status, type, code = 409, "invalid_request_error", "model_locked"


class ModelLeased(ModelLocked):
    """Somebody else has leased the model, which they give back at a known time at the latest."""

    code = "model_leased"


class PayloadTooLarge(ServerError):
    status, type, code = 413, "invalid_request_error", "payload_too_large"


class UnsupportedMedia(ServerError):
    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class ClientGone(ServerError):
    status, type, code = 499, "client_closed_request", "client_gone"


class RateLimited(ServerError):
    """A limit of the caller's key is reached. `code`: rate_limit_exceeded; for a budget, which no waiting
    renews, insufficient_quota.
    """

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class EngineFailed(ServerError):
    status, type, code = 500, "server_error", "engine_failed"


class Stopped(ServerError):
    """An administrator has ended the request. `x-should-retry: false`: it is not wanted."""

    status, type, code = 503, "server_error", "request_stopped"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class TimedOut(ServerError):
    """The time limit has passed. `x-should-retry: false`: a retry would take as long again."""

    status, type, code = 504, "server_error", "request_timeout"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, headers={"x-should-retry": "false"})


class Overloaded(ServerError):
    """There is no capacity now. `retry_after_s` becomes the Retry-After header."""

    status, type, code = 503, "server_error", "server_is_overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after_s)})


class StoreUnavailable(Overloaded):
    code = "store_unavailable"


class ModelUnavailable(Overloaded):
    code = "model_unavailable"


class ProviderError(ServerError):
    """A provider failed. `message` contains the provider's own words, without secrets."""

    status, type, code = 502, "server_error", "provider_error"
    has_started = False  # part of the answer had arrived: a retry would be paid twice
    is_pause_guessed = False  # Retry-After is our guess for the caller: the provider named no time


class ProviderRefused(ProviderError):
    """The provider refused the request with a 4xx, which is passed on. No fallback: another provider would
    refuse it too.
    """

    status, type, code = 400, "invalid_request_error", "provider_refused"


class ProviderKeyRefused(ProviderError):
    """The provider refused our key. Not a 401: the caller's own key is valid."""

    code = "provider_authentication_error"


class ProviderLimited(ProviderError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ProviderUnreachable(ProviderError):
    status, code = 503, "provider_unreachable"


class ProviderTimedOut(ProviderError):
    status, code = 504, "provider_timeout"
