"""Answers that fit a type of this program, a choice, and a pattern. A running `make serve`, then
python examples/structured_output.py.
"""

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, Field

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "smollm2-135m-instruct"


class Ingredient(BaseModel):
    name: str = Field(max_length=30)
    grams: int = Field(ge=1, le=2000)


class Recipe(BaseModel):
    title: str = Field(max_length=60)
    difficulty: Literal["easy", "hard"]
    ingredients: list[Ingredient] = Field(min_length=2, max_length=4)


client = OpenAI(base_url=URL, api_key="none")

# The client sends the type's JSON schema, and makes an object of the answer.
parsed = client.chat.completions.parse(
    model=MODEL,
    messages=[{"role": "user", "content": "Write a recipe for pancakes as JSON."}],
    response_format=Recipe,
    temperature=0,
    max_tokens=400,
)
recipe = parsed.choices[0].message.parsed
assert recipe is not None
print(f"{recipe.title} ({recipe.difficulty})")
for ingredient in recipe.ingredients:
    print(f"- {ingredient.grams} g of {ingredient.name}")

# Beyond OpenAI's API: one of some words, or what a regular expression matches.
chosen = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "I love this soup! Is that good or bad?"}],
    max_tokens=10,
    extra_body={"structured_outputs": {"choice": ["good", "bad"]}},
)
print("Choice:", chosen.choices[0].message.content)
matched = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "On which day was the moon landing? Write YYYY-MM-DD."}],
    max_tokens=20,
    extra_body={"structured_outputs": {"regex": r"[12]\d{3}-[01]\d-[0-3]\d"}},
)
print("Date:", matched.choices[0].message.content)
