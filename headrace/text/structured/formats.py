"""The values of `format` that are enforced: by llguidance, or by expressions of ours where it has none or
accepts invalid values (29 February 2023). Other formats are annotations, which answers report as ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.text.structured.keywords import Node, everywhere
from headrace.types import Conversation, GenerateRequest

_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" + _LEAP + ")"
)
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"  # dates begin with year 1
_CLOCK = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
# A label of a host name, without "--" at its third place: such encoded labels are often invalid.
_LABEL = (
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9]|[A-Za-z0-9-][A-Za-z0-9]"
    r"|[A-Za-z0-9-](?:[A-Za-z0-9][A-Za-z0-9-]|-[A-Za-z0-9])[A-Za-z0-9-]{0,58}[A-Za-z0-9]"
    r"|[A-Za-z0-9-](?:[A-Za-z0-9]|-)[A-Za-z0-9])?)"
)
_HOST = (rf"^{_LABEL}(?:\.{_LABEL})*$", "^.{1,253}$", "[A-Za-z][^.]*$")
_URI_TEXT = r"[A-Za-z0-9._~!$&'()*+,;=@-]"
_REFERENCE = (
    rf"^(?:[a-z]{{2,12}}://[a-z0-9-]+(?:\.[a-z0-9-]+)*(?:/{_URI_TEXT}*)*|/?(?:{_URI_TEXT}+/?)*)"
    rf"(?:\?{_URI_TEXT}*)?(?:#{_URI_TEXT}*)?$"
)
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
# A piece of a regular expression that is valid in all dialects.
_ATOM = r"(?:[A-Za-z0-9 _,:;=@!<>%&~/-]|\\[dwsDWS.*+?()|^$\\/]|\.|\[[a-z0-9_]+\]|\[a-z\]|\[0-9\])[*+?]?"
# format → expressions that must all be found in the text
FORMATS: dict[str, tuple[str, ...]] = {
    "date": (f"^{_DAY}$", f"^{_YEAR}-"),
    "time": (f"^{_CLOCK}$",),
    "date-time": (f"^{_DAY}T{_CLOCK}$", f"^{_YEAR}-"),
    "hostname": _HOST,
    "idn-hostname": _HOST,
    "uri-reference": (_REFERENCE,),
    "iri-reference": (_REFERENCE,),
    "json-pointer": (f"^{_POINTER}$",),
    "relative-json-pointer": (f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",),
    "regex": (rf"^\^?(?:{_ATOM}|\((?:{_ATOM})+(?:\|(?:{_ATOM})+)*\))*\$?$",),
    "uri-template": (r"^(?:[A-Za-z0-9._~/:?=&-]|\{[A-Za-z0-9_]+\})*$",),
}
# JSON Schema's name → llguidance's
LIBRARY_FORMATS = {
    **{name: name for name in ("duration", "email", "ipv4", "ipv6", "uuid", "uri")},
    "idn-email": "email",
    "iri": "uri",
}
KNOWN_FORMATS = sorted((*FORMATS, *LIBRARY_FORMATS))
MAX_NAMED = 20


def unenforced(request: GenerateRequest) -> list[str]:
    """Return the paths of up to MAX_NAMED of them, for X-Headrace-Ignored. The schemas must be valid."""
    schemas: list[tuple[str, Node]] = []
    if request.format is not None and request.format.kind == "json_schema":
        schemas.append((request.format.param, request.format.value))
    if isinstance(request.prompt, Conversation):
        tools = enumerate(request.prompt.tools)
        schemas += [(f"tools.{index}.function.parameters", tool.parameters) for index, tool in tools]
    paths = (path for param, schema in schemas for path in _formats(schema, param))
    return [path for _, path in zip(range(MAX_NAMED), paths, strict=False)]


def _formats(schema: Node, param: str) -> Iterator[str]:
    for path, node in everywhere(schema, param):
        kinds = node.get("type", "string")
        if "format" in node and node["format"] not in KNOWN_FORMATS and "string" in kinds:
            yield f"{path}.format"


def literal(text: str) -> str:
    r"""An expression that matches only this text. All but ASCII letters and digits is written as `\x{…}`."""
    return "".join(one if one.isascii() and one.isalnum() else f"\\x{{{ord(one):x}}}" for one in text)
