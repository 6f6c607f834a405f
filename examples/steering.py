"""Steering with the plain OpenAI client: pip install openai, then python examples/steering.py.

Before: `headrace steer train-vector --positive happy.txt --negative sad.txt --layer 15 --name happy`, as
docs/steering.md shows, and a running `make serve`.
"""

import json
import sys
import urllib.error
import urllib.request

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from openai.types.completion_choice import CompletionChoice

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
MODEL = "smollm2-135m-instruct"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How was your day?"}]
DOSES = [-1.0, -0.5, 0.0, 0.5, 1.0]
WORDS = {"happy": " wonderful", "sad": " terrible"}


def post(path: str, body: dict[str, object]) -> None:
    """Send JSON to the server. What exists already is no error."""
    request = urllib.request.Request(
        URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request).close()
    except urllib.error.HTTPError as exc:
        print(path, exc.read().decode(), file=sys.stderr)


def last_logprob(choice: CompletionChoice) -> float:
    """The log-probability of the prompt's last token."""
    assert choice.logprobs
    assert choice.logprobs.token_logprobs
    return choice.logprobs.token_logprobs[-1]


client = OpenAI(base_url=URL + "/v1", api_key="none")
post("/v1/vectors", {"id": "happy", "path": "vectors/happy.gguf"})

# One request, five doses: the prompt is the same, so it is easy to compare what they do.
sweep = client.chat.completions.create(
    model=MODEL,
    messages=QUESTION,
    max_tokens=40,
    temperature=0,
    extra_body={"steering": {"ops": [{"vector": "happy", "value": 1}], "sweep": DOSES, "receipt": True}},
)
for dose, choice in zip(DOSES, sweep.choices, strict=True):
    receipt = (choice.model_extra or {})["steering"]
    print(f"{dose:+.1f}  {receipt['fingerprint']}  {choice.message.content!r}")

# The same in numbers: how probable are two words after the same beginning?
for dose in DOSES:
    scored = client.completions.create(
        model=MODEL,
        prompt=[f"When I think of today, I feel{word}" for word in WORDS.values()],
        max_tokens=0,
        echo=True,
        logprobs=0,
        extra_body={"steering": {"ops": [{"vector": "happy", "value": 1}], "scale": dose}},
    )
    found = [last_logprob(choice) for choice in scored.choices]
    print(
        f"{dose:+.1f}  " + "  ".join(f"{name} {value:.2f}" for name, value in zip(WORDS, found, strict=True))
    )

# A profile is a model of its own for every client.
post(
    "/v1/steering/profiles",
    {"name": "cheerful", "steering": {"ops": [{"vector": "happy", "value": 0.8}], "apply": "generation"}},
)
persona = client.chat.completions.create(model=f"{MODEL}@cheerful", messages=QUESTION, max_tokens=40)
print("cheerful:", persona.choices[0].message.content)
