"""The official OpenAI client against a running `make serve`: pip install openai, then python
examples/chat.py.
"""

import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="x")
question = " ".join(sys.argv[1:]) or "What color is the sky?"

stream = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": question}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
