"""Bodies in OpenAI's dialect without what providers are known to refuse: roles that only OpenAI's own API
has, images in the results of tools, users' names that are too long. A body that is passed on is mended, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from headrace.backends.writing import opaque

Body = dict[str, Any]
OWN_HOSTS = ("api.openai.com", ".api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")
MAX_USER = 64  # characters of `user` and its like
ROLES = "messages.role"
INSTRUCTING = ("system", "developer")
SEE_BELOW = "The result is shown in the message after the results of the calls."


def is_own(base_url: str) -> bool:
    """Whether an address is that of OpenAI's own API, or of Azure's copy of it."""
    host = urlsplit(base_url).hostname or ""
    return any(host == own or (own.startswith(".") and host.endswith(own)) for own in OWN_HOSTS)


def changes(members: Mapping[str, Any], *, has_all_roles: bool) -> tuple[Body, list[str]]:
    """The members of a body that have to be others than they are, and those of them whose meaning changes, by
    path. `has_all_roles`: whether the provider takes `developer`, and `system` anywhere.
    """
    found: Body = {}
    ignored: list[str] = []
    messages = members.get("messages")
    if isinstance(messages, list):
        new = messages_of(messages, ignored, has_all_roles=has_all_roles)
        if len(new) != len(messages) or any(
            one is not other for one, other in zip(new, messages, strict=True)
        ):
            found["messages"] = new
    user = members.get("user")
    if isinstance(user, str) and len(user) > MAX_USER:
        found["user"] = opaque(user)
    return found, ignored


def messages_of(messages: Sequence[Any], ignored: list[str], *, has_all_roles: bool) -> list[Any]:
    """What is no message stays as it is: the provider says what is wrong with it."""
    with_roles = list(messages) if has_all_roles else list(_in_plain_roles(messages, ignored))
    return list(_with_media_apart(with_roles))


def _in_plain_roles(messages: Sequence[Any], ignored: list[str]) -> Iterator[Any]:
    """One system message at the beginning; later instructions are the user's: there is no other place that
    every template has for them.
    """
    first = list(takewhile(lambda message: _role(message) in INSTRUCTING, messages))
    if first:
        yield _joined(first)
    for message in messages[len(first) :]:
        if _role(message) in INSTRUCTING:
            if ROLES not in ignored:
                ignored.append(ROLES)
            message = {**message, "role": "user"}
        yield message


def _joined(messages: Sequence[Body]) -> Body:
    only = messages[0]
    if len(messages) == 1:
        return only if only["role"] == "system" else {**only, "role": "system"}
    contents = [message.get("content") for message in messages]
    if all(isinstance(content, str) for content in contents):
        return {**only, "role": "system", "content": "\n\n".join(map(str, contents))}
    return {**only, "role": "system", "content": [part for each in contents for part in _parts(each)]}


def _with_media_apart(messages: Sequence[Any]) -> Iterator[Any]:
    """Results of tools are text; what else they hold is the user's to show, after the last of them."""
    held: list[Any] = []
    for message in messages:
        if _role(message) == "tool":
            text, media = _split(message)
            held += media
            yield text
            continue
        if held:
            if _role(message) == "user":
                message = {**message, "content": [*held, *_parts(message.get("content"))]}
            else:
                yield {"role": "user", "content": held}
            held = []
        yield message
    if held:
        yield {"role": "user", "content": held}


def _split(message: Body) -> tuple[Body, list[Any]]:
    """A result with its text alone, and the rest as parts of a user's message."""
    content = message.get("content")
    media = [part for part in content if _is_media(part)] if isinstance(content, list) else []
    if not media or not isinstance(content, list):
        return message, []
    text = "\n".join(str(part.get("text", "")) for part in content if not _is_media(part))
    whose = {"type": "text", "text": f"Shown by the result of {message.get('tool_call_id', 'the call')}:"}
    return {**message, "content": text or SEE_BELOW}, [whose, *media]


def _is_media(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") not in ("text", "refusal", None)


def _role(message: Any) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if isinstance(content, str) and content else []
