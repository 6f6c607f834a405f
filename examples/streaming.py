"""Streams: with usage, left early, and as events of the Responses API. A running `make serve`, then
python examples/streaming.py.
"""

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "smollm2-135m-instruct"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colors."}]

client = OpenAI(base_url=URL, api_key="none")

# The last chunk has no choice, but the usage of the whole answer.
print("Answer: ", end="")
for chunk in client.chat.completions.create(
    model=MODEL, messages=QUESTION, max_tokens=60, stream=True, stream_options={"include_usage": True}
):
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
        if choice.finish_reason:
            print(f"\nIt ended with {choice.finish_reason!r}.")
    if chunk.usage:
        print(f"{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out.")

# Leaving the block closes the connection, and the server stops computing.
with client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2000, stream=True) as stream:
    for count, _ in enumerate(stream, start=1):
        if count == 5:
            break
print(f"Left after {count} chunks.")

# The Responses API has a kind of event for everything that happens.
kinds: dict[str, int] = {}
with client.responses.stream(model=MODEL, input="Hi", temperature=0, max_output_tokens=200) as events:
    for event in events:
        kinds[event.type] = kinds.get(event.type, 0) + 1
    answer = events.get_final_response()
print(f"Response {answer.status}: {answer.output_text!r}")
print("Events:", ", ".join(f"{kind} {number}" for kind, number in kinds.items()))
