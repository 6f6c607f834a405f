"""The page at /, before a provider whose model thinks, and writes as slowly as a turn wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from browser import LOOKS, chromium, opened, shoot
from playwright.sync_api import Page, expect
from turns import run, turn

STACK = ExitStack()
BROWSER = STACK.enter_context(chromium())
GO_ON = threading.Event()  # the provider writes its first words, and the rest once this is set
THOUGHTS, ANSWER = "The sky is blue because blue light scatters most.", "It is blue, by day."


class Provider(BaseHTTPRequestHandler):
    """Chat completions in DeepSeek's form, one word a chunk."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for at, chunk in enumerate(_chunks()):
            if at == 4:
                GO_ON.wait(60)
            self.wfile.write(f"data: {chunk}\n\n".encode())
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def _chunks() -> Iterator[str]:
    parts = [("reasoning_content", THOUGHTS), ("content", ANSWER)]
    deltas = [{name: word} for name, text in parts for word in text.replace(" ", " \0").split("\0")]
    for delta, reason in [*((delta, None) for delta in deltas), ({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "sage", "choices": [choice]})
    yield "[DONE]"


def ask(page: Page, text: str) -> None:
    page.locator("textarea").fill(text)
    page.keyboard.press("Enter")


@turn("thoughts are folded while they come, and when they are read again; the keyboard opens them")
def folded() -> None:
    for look in LOOKS:
        GO_ON.clear()
        with opened(BROWSER, "/", look) as page:
            ask(page, f"Why is the sky blue? ({look})")
            thoughts, words = page.locator("details.thought"), page.locator("details.thought p")
            expect(thoughts).to_be_visible()
            expect(words).to_be_hidden()
            thoughts.locator("summary").focus()
            page.keyboard.press("Enter")
            expect(words).to_contain_text("The sky is")
            GO_ON.set()
            expect(page.locator("[data-role=assistant]")).to_contain_text(ANSWER)
            expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
            expect(words).to_have_text(THOUGHTS)
            expect(words).to_be_visible()  # what was opened stays open
            shoot(page, f"thoughts-{look}")
            page.reload()
            expect(page.locator("[data-role=assistant]")).to_contain_text(ANSWER)
            expect(words).to_be_hidden()
            expect(words).to_have_text(THOUGHTS)


@turn("the page is frozen in the middle of an answer, as by a phone, and wakes when it is complete")
def frozen() -> None:
    GO_ON.clear()
    with opened(BROWSER, "/", "phone") as page:
        ask(page, "Why is the sky blue? (asleep)")
        expect(page.locator("details.thought")).to_be_visible()
        devtools = page.context.new_cdp_session(page)
        devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
        GO_ON.set()
        threading.Event().wait(3)
        devtools.send("Page.setWebLifecycleState", {"state": "active"})
        expect(page.locator("[data-role=assistant]")).to_contain_text(ANSWER)
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)


with STACK, ThreadingHTTPServer(("127.0.0.1", 18431), Provider) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run()
