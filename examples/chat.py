"""The official OpenAI client against a running `make serve`: pip install openai, then python
examples/chat.py.
"""

import os
import sys

from openai import OpenAI

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
client = OpenAI(base_url=URL, api_key="none")
question = " ".join(sys.argv[1:]) or "What color is the sky?"

stream = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": question}],
    max_tokens=200,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
