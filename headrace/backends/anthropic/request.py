"""Writes a neutral request as the body of POST /v1/messages. Sampling members with their default value are
not sent: newer models refuse them whatever their value.
"""

from __future__ import annotations

from typing import Any

from headrace.backends.anthropic.corrections import user_id
from headrace.backends.anthropic.messages import is_unsigned, to_roles, to_system, to_turns
from headrace.backends.anthropic.thinking import PARAM, Abilities, thinking
from headrace.backends.writing import ROLES, Writing, without_none
from headrace.dialects.values import an_object, objects
from headrace.errors import BadRequest, UnsupportedParameter
from headrace.finite import dumps, loads
from headrace.text.structured.keywords import everywhere
from headrace.types import Conversation, Format, GenerateRequest, Json, Sampling, Tool

# Anthropic requires max_tokens. If the request has none, the model's limit from GET /v1/models is sent, or
# else this, which all models since Claude 4 accept.
MAX_TOKENS = 32_000
MAX_NAME = 128  # characters of a tool's name
PARAMETERS = "tools.function.parameters"
LEAST_TOP_P = 0.95  # while thinking is enabled
# Keywords that Anthropic refuses in schemas that it enforces. They become words of the description, as in its
# own clients.
IN_WORDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
UNIONS = ("allOf", "anyOf", "oneOf")  # refused at the top of a tool's schema
MAX_DEPTH = 8  # of unions within them


def to_body(request: GenerateRequest, abilities: Abilities, writing: Writing | None = None) -> dict[str, Any]:
    """Write the body. `writing` records what is left out or changed. Raises BadRequest."""
    writing = writing or Writing(request, most=MAX_NAME)
    prompt = request.prompt
    assert isinstance(prompt, Conversation), "it has no text completions"
    _refuse(request.sampling, prompt)
    max_tokens = _max_tokens(request.sampling.max_tokens, abilities.max_tokens)
    own = dict(request.anthropics)
    display = own.pop("thinking", {})
    thoughts = _thoughts(prompt, max_tokens, abilities, writing)
    if _thinks(thoughts):
        thoughts["thinking"] |= display
    tools = _tools(prompt, writing)
    system, turns = to_system(prompt.messages), to_turns(prompt.messages, writing)
    if not turns and system:  # it refuses a conversation without messages
        system, turns = [], [{"role": "user", "content": system}]
        writing.ignored.append(ROLES)
    elif not turns:
        raise BadRequest.at("messages", "Anthropic needs a message that is not empty")
    output = {**thoughts.pop("output_config", {}), **_format(request.format, writing)}
    optional = {
        "system": system or None,
        "output_config": output or None,
        "metadata": None if request.user is None else {"user_id": user_id(request.user)},
    }
    return {
        "model": request.model,
        "max_tokens": max_tokens,
        "stream": True,
        "messages": turns,
        **tools,
        **_sampling(request.sampling, abilities, writing, thinks=_thinks(thoughts)),
        **thoughts,
        **without_none(optional),
        **own,
    }


def _max_tokens(requested: int | None, limit: int | None) -> int:
    if requested is None:
        return limit or MAX_TOKENS
    return min(requested, limit) if limit else requested


def _refuse(sampling: Sampling, prompt: Conversation) -> None:
    if prompt.continue_final_message and prompt.messages[-1].role != "assistant":
        raise UnsupportedParameter.at(
            "continue_final_message", "Anthropic continues messages of the assistant only"
        )
    if sampling.temperature is not None and sampling.temperature > 1:
        raise BadRequest.at("temperature", "Anthropic takes 0 to 1")
    if not all(map(str.strip, sampling.stop)):
        raise UnsupportedParameter.at("stop", "Anthropic takes no white space alone")


def _thoughts(
    prompt: Conversation, max_tokens: int, abilities: Abilities, writing: Writing
) -> dict[str, Any]:
    """Write the members `thinking` and `output_config`."""
    effort, budget = prompt.reasoning_effort, prompt.thinking_budget
    if effort not in (None, "none") and _rules_out_thinking(prompt, abilities):
        writing.ignored.append(PARAM)
        return {}
    thoughts = thinking(effort, max_tokens, abilities, budget)
    sent_budget = thoughts.get("thinking", {}).get("budget_tokens")
    if budget is not None and effort != "none" and sent_budget != budget:
        writing.ignored.append("thinking_budget")
    return thoughts


def _rules_out_thinking(prompt: Conversation, abilities: Abilities) -> bool:
    """Whether Anthropic refuses thinking for this conversation: a call is required, the last message is the
    assistant's, or, with older models, the calls that are answered now lack their signed thoughts.
    """
    is_last_assistant = to_roles(prompt.messages)[-1:] == ["assistant"]
    is_forced = bool(prompt.tools) and prompt.tool_choice.mode == "required"
    return is_forced or is_last_assistant or (not abilities.is_adaptive and is_unsigned(prompt.messages))


def _thinks(thoughts: dict[str, Any]) -> bool:
    return bool(thoughts.get("thinking", {}).get("type", "disabled") != "disabled")


def _sampling(sampling: Sampling, abilities: Abilities, writing: Writing, *, thinks: bool) -> dict[str, Any]:
    """Write sampling members, without those that Anthropic refuses in combination with others."""
    optional = {
        "temperature": None if sampling.temperature == 1 else sampling.temperature,
        "top_p": None if sampling.top_p == 1 else sampling.top_p,
        "top_k": sampling.top_k or None,
        "stop_sequences": list(sampling.stop) or None,
    }
    members = without_none(optional)
    refused: list[str] = []
    if thinks:
        refused = [name for name in ("temperature", "top_k") if name in members]
        refused += ["top_p"] if members.get("top_p", 1) < LEAST_TOP_P else []
    elif abilities.takes_one and "temperature" in members and "top_p" in members:
        refused = ["top_p"]
    writing.ignored += refused
    return {name: value for name, value in members.items() if name not in refused}


def _tools(prompt: Conversation, writing: Writing) -> dict[str, Any]:
    choice = prompt.tool_choice
    if not prompt.tools:
        return {}
    is_named = choice.mode == "required" and choice.names is not None and len(choice.names) == 1
    # If one tool is named, all tools are sent nevertheless: an unchanged list keeps the prompt cache valid.
    offered = [tool for tool in prompt.tools if is_named or choice.names is None or tool.name in choice.names]
    members: dict[str, Any] = {"tools": [_tool(tool, writing) for tool in offered]}
    one = {} if prompt.parallel_tool_calls else {"disable_parallel_tool_use": True}
    if choice.mode == "none":
        members["tool_choice"] = {"type": "none"}
    elif is_named and choice.names:
        members["tool_choice"] = {"type": "tool", "name": writing.tool(choice.names[0]), **one}
    elif choice.mode == "required":
        members["tool_choice"] = {"type": "any", **one}
    elif one:
        members["tool_choice"] = {"type": "auto", **one}
    return members


def _tool(tool: Tool, writing: Writing) -> dict[str, Any]:
    schema = with_plain_top(tool.parameters or {"properties": {}})
    if schema.get("type", "object") != "object":  # such as ["object", "null"]
        schema = {**schema, "type": "object"}
    if schema is not tool.parameters and tool.parameters:
        writing.ignored.append(PARAMETERS)
    if tool.strict:
        schema = enforced(schema, PARAMETERS, writing.ignored)
    return {
        "name": writing.tool(tool.name),
        **({"description": tool.description} if tool.description else {}),
        "input_schema": {"type": "object", **writing.schema(tool.name, schema)},
        **({"strict": True} if tool.strict else {}),
        **tool.anthropics,
    }


def _format(format: Format | None, writing: Writing) -> dict[str, Any]:
    if format is None:
        return {}
    if format.kind != "json_schema" or not isinstance(format.value, dict):
        raise UnsupportedParameter.at(
            format.param, "Anthropic takes a JSON schema with type object, and no other form"
        )
    schema = enforced(format.value, "response_format", writing.ignored)
    return {"format": {"type": "json_schema", "schema": schema}}


def enforced(schema: Json, param: str, ignored: list[str]) -> Any:
    """Copy a schema, forbid undeclared members in its objects, and put what Anthropic cannot enforce into
    descriptions; `param` is then among `ignored`. Where an object has no members of its own, an
    `additionalProperties` that is there stays.
    """
    copy = loads(dumps(schema))  # a deepcopy would keep equal parts one object
    for _, node in everywhere(copy, ""):
        is_object = node.get("type") == "object" or isinstance(node.get("properties"), dict)
        if is_object and (node.get("properties") or "additionalProperties" not in node):
            node["additionalProperties"] = False
        if "oneOf" in node and "anyOf" not in node:
            node["anyOf"] = node.pop("oneOf")
        names = [name for name in IN_WORDS if name in node]
        names += ["minItems"] if node.get("minItems", 0) not in (0, 1) else []
        if names:
            words = ", ".join(f"{name}: {dumps(node.pop(name))}" for name in names)
            node["description"] = f"{node.get('description', '')}\n({words})".lstrip()
            ignored.append(param)
    return copy


def with_plain_top(schema: Json) -> Json:
    """Return the schema of a tool without UNIONS at its top: an object with all members of their objects, of
    which those are required that all alternatives require. The same schema if it has none.
    """
    return _plain(schema, schema, MAX_DEPTH, {})


def _plain(schema: Json, root: Json, depth: int, known: dict[int, Json]) -> Json:
    """`known`: what was made of each part, by its id: a part that many references name is read once."""
    if schema.keys().isdisjoint(UNIONS) or not depth:
        return schema
    if id(schema) in known:
        return known[id(schema)]
    plain = known[id(schema)] = {
        name: value for name, value in schema.items() if name not in (*UNIONS, "required")
    }
    properties, required = dict(an_object(schema.get("properties"))), _required(schema)
    for union in UNIONS:
        alternatives = [_target(part, root) for part in objects(schema.get(union))]
        targets = {id(target): target for target in alternatives}
        parts = [_plain(target, root, depth - 1, known) for target in targets.values()]
        for part in parts:
            for name, value in an_object(part.get("properties")).items():
                properties.setdefault(name, value)
        needed = [set(_required(part)) for part in parts] or [set()]
        common = set.union(*needed) if union == "allOf" else set.intersection(*needed)
        required += sorted(common - set(required))
    plain |= {"properties": properties, **({"required": required} if required else {})}
    return plain


def _required(schema: Json) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _target(part: Json, root: Json) -> Json:
    """What a reference within the schema names; the part itself if it is none."""
    value: object = root
    for step in str(part.get("$ref", "?")).removeprefix("#/").split("/"):
        value = an_object(value).get(step)
    return an_object(value) or part
