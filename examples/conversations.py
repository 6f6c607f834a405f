"""A conversation that the server keeps: each turn is sent alone, and the history is there in the next
program, or on the next device. A running `make serve`, then python examples/conversations.py.
"""

import os

from openai import OpenAI

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "smollm2-135m-instruct"

client = OpenAI(base_url=URL, api_key="none")

conversation = client.conversations.create(metadata={"topic": "names"})
for text in ("My name is Ada.", "What is my name?"):
    answer = client.responses.create(
        model=MODEL, input=text, conversation=conversation.id, temperature=0, max_output_tokens=40
    )
    print(f"> {text}\n{answer.output_text}")

# What another program finds, that knows nothing but the id.
print("\nStored:")
for item in client.conversations.items.list(conversation.id, order="asc"):
    if item.type == "message":
        text = "".join(getattr(part, "text", "") for part in item.content)
        print(f"{item.role}: {text!r}")

# A response may also follow any earlier one: this is a branch, and the conversation stays as it is.
branch = client.responses.create(
    model=MODEL, input="Say it in capital letters.", previous_response_id=answer.id, max_output_tokens=40
)
print(f"\nBranch: {branch.output_text!r}")

print("Deleted:", client.conversations.delete(conversation.id).deleted)
