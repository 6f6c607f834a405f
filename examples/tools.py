"""A model that calls functions of this program. A running `make serve`, then python examples/tools.py.

The default model is small: it has to call a function ("required"), so that the arguments fit their schema,
and it answers in words when it has the results.
"""

import json
import os
from typing import cast

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "smollm2-135m-instruct"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo", "Cairo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def get_weather(city: str) -> dict[str, object]:
    """What a real program would look up."""
    degrees = {"Paris": 18, "Oslo": 4, "Cairo": 31}
    return {"city": city, "degrees": degrees[city], "sky": "sunny"}


client = OpenAI(base_url=URL, api_key="none")
messages: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "How is the weather in Oslo today?"},
]

answer = client.chat.completions.create(
    model=MODEL, messages=messages, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=100
)
message = answer.choices[0].message
messages.append(cast(ChatCompletionMessageParam, message.to_dict()))

for call in message.tool_calls or []:
    assert call.type == "function"
    result = get_weather(**json.loads(call.function.arguments))
    print(f"{call.function.name}({call.function.arguments}) is {result}")
    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

answered = client.chat.completions.create(
    model=MODEL, messages=messages, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=100
)
print("Answer:", answered.choices[0].message.content)
