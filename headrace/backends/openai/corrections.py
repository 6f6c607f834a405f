"""Rewrites what providers of OpenAI's dialect are known to refuse: roles that only OpenAI's own API has,
images in the results of tools, long user names. Applied to bodies that Headrace writes and to those that
it relays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from operator import is_not
from typing import Any
from urllib.parse import urlsplit

from headrace.backends.writing import ROLES, opaque
from headrace.dialects.values import an_object

Body = dict[str, Any]
OWN_HOSTS = ("api.openai.com", ".api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")
MAX_NAME = 64  # characters of NAMES; OpenAI's limit
NAMES = ("user", "safety_identifier", "prompt_cache_key")  # members that only have to be the same each time
INSTRUCTING = ("system", "developer")
GOOGLE = ".googleapis.com"
# Gemini refuses calls of the history without its signature; this one stands for those it never signed
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
SEE_BELOW = "The result is shown in the message after the results of the calls."


def is_own(base_url: str) -> bool:
    """Whether a URL belongs to OpenAI's own API, or to Azure's."""
    host = urlsplit(base_url).hostname or ""
    return any(host == own or (own.startswith(".") and host.endswith(own)) for own in OWN_HOSTS)


def is_google(base_url: str) -> bool:
    """Whether a URL belongs to Gemini's API in OpenAI's dialect."""
    return (urlsplit(base_url).hostname or "").endswith(GOOGLE)


def corrections(
    members: Mapping[str, Any], *, has_all_roles: bool, signs_calls: bool = False
) -> tuple[Body, tuple[str, ...]]:
    """Return the members of a body that must change, with their new values, and the paths of those whose
    meaning changes. `has_all_roles`: the provider accepts `developer`, and `system` at any place;
    `signs_calls`: it refuses calls that it has not signed.
    """
    changed: Body = {}
    ignored: list[str] = []
    messages = members.get("messages")
    if isinstance(messages, list) and (signs_calls or _may_need_rewriting(messages, has_all_roles)):
        new = messages_of(messages, ignored, has_all_roles=has_all_roles, signs_calls=signs_calls)
        if len(new) != len(messages) or any(map(is_not, new, messages)):
            changed["messages"] = new
    return changed | hashed_names(members), tuple(ignored)


def hashed_names(members: Mapping[str, Any]) -> Body:
    """Hashes of those of NAMES that OpenAI would refuse because of their length."""
    values = ((name, members.get(name)) for name in NAMES)
    return {name: opaque(text) for name, text in values if isinstance(text, str) and len(text) > MAX_NAME}


def _may_need_rewriting(messages: Sequence[Any], has_all_roles: bool) -> bool:
    """False for nearly all conversations: those with at most one instruction, which comes first, and without
    results of tools.
    """
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    if "tool" in roles:
        return True
    return not has_all_roles and ("developer" in roles or "system" in roles[1:])


def messages_of(
    messages: Sequence[Any], ignored: list[str], *, has_all_roles: bool, signs_calls: bool = False
) -> list[Any]:
    """Rewrite messages; adds to `ignored`. Malformed entries stay, so that the provider reports them."""
    with_roles = list(messages) if has_all_roles else list(_in_plain_roles(messages, ignored))
    rewritten = list(_with_media_apart(_with_results_first(with_roles)))
    return list(map(_signed, rewritten)) if signs_calls else rewritten


def _signed(message: Any) -> Any:
    """Return the same message, unless it has calls without a signature."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(calls, list) or not any(map(_is_unsigned, calls)):
        return message
    new = [{**call, "extra_content": UNSIGNED} if _is_unsigned(call) else call for call in calls]
    return {**message, "tool_calls": new}


def _is_unsigned(call: Any) -> bool:
    return isinstance(call, dict) and not call.get("extra_content")


def _in_plain_roles(messages: Sequence[Any], ignored: list[str]) -> Iterator[Any]:
    """Join leading instructions into one system message and turn later ones into user messages, because many
    chat templates accept a system message only at the beginning.
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


def _with_results_first(messages: Sequence[Any]) -> Iterator[Any]:
    """Put other messages that are between calls and their results after those: providers refuse them."""
    unanswered, waiting = set[str](), list[Any]()
    for message in messages:
        role = _role(message)
        if role == "assistant":
            yield from waiting
            waiting, calls = [], message.get("tool_calls")
            unanswered = {
                str(an_object(call).get("id")) for call in (calls if isinstance(calls, list) else ())
            }
        elif role == "tool":
            unanswered.discard(str(message.get("tool_call_id")))
        elif unanswered:
            waiting.append(message)
            continue
        yield message
        if not unanswered:
            yield from waiting
            waiting = []
    yield from waiting


def _with_media_apart(messages: Iterable[Any]) -> Iterator[Any]:
    """Move images and files out of tool results, which must be text, into a user message after them."""
    media_of_results: list[Any] = []
    for message in messages:
        if _role(message) == "tool":
            text, media = _split(message)
            media_of_results += media
            yield text
            continue
        if media_of_results:
            if _role(message) == "user":
                message = {**message, "content": [*media_of_results, *_parts(message.get("content"))]}
            else:
                yield {"role": "user", "content": media_of_results}
            media_of_results = []
        yield message
    if media_of_results:
        yield {"role": "user", "content": media_of_results}


def _split(message: Body) -> tuple[Body, list[Any]]:
    """Split a tool result into a result with its text, and parts for a user message with its media."""
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
