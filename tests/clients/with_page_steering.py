"""The page at / of a server whose model can be steered, in a real chromium."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from typing import Any

from browser import chromium, opened, shoot
from playwright.sync_api import expect
from turns import URL, run, turn

STACK = ExitStack()
BROWSER = STACK.enter_context(chromium())
DONE_MS = 120_000


def post(path: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


@turn("a token's features, one of which steers an answer beside one that is not steered")
def features() -> None:
    post("/v1/vectors", {"id": "happy", "path": "happy.gguf"})
    post("/v1/saes", {"id": "docs", "path": "docs"})
    with opened(BROWSER) as page:
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest answer, tokens").fill("8")
        page.get_by_role("button", name="Close the settings").click()
        page.locator("textarea").fill("What is a list in Python?")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Tokens").click(timeout=DONE_MS)
        page.locator(".token").nth(2).click()
        page.get_by_role("button", name="Steer with it").first.click(timeout=DONE_MS)
        expect(page.get_by_label("Steering 2: with")).to_have_value("sae:docs")
        assert page.get_by_label("Steering 2: feature").input_value().isdecimal()
        page.get_by_label("Steering 1: with").select_option("vector:happy")
        page.get_by_label("Steering 1: dose").fill("-1")
        sent: list[dict[str, Any]] = []
        page.on("request", lambda one: sent.append(one.post_data_json) if "completions" in one.url else None)
        for side in (1, 2):
            page.get_by_label(f"Longest answer {side}").fill("8")
        page.locator("textarea").fill("How are you?")
        page.keyboard.press("Enter")
        for side in (1, 2):
            expect(page.get_by_label(f"Answer {side}").locator(".meter")).to_be_visible(timeout=DONE_MS)
        ops = sorted((body["steering"]["ops"][0] for body in sent), key=str)
        assert (ops[0].get("sae"), ops[0].get("mode")) == ("docs", "clamp")
        assert ops[1] == {"vector": "happy", "value": -1}
        shoot(page, "steering-light")
        page.get_by_label("Steering 1: dose").fill("1.5")
        page.get_by_label("Steering 1: dose").dispatch_event("change")
        expect(page.get_by_label("Answer 1").locator(".meter")).to_be_visible(timeout=DONE_MS)
        assert len(sent) >= 3, "the side whose dose changed is asked again"


@turn("the server's view: routes and their targets")
def routes() -> None:
    with opened(BROWSER, "/#/server") as page:
        row = page.get_by_role("region", name="Routes").get_by_role("row", name="best")
        expect(row).to_contain_text("smollm2-135m-instruct")
        expect(row).to_contain_text("closed")
        shoot(page, "routes-light")


with STACK:
    run()
