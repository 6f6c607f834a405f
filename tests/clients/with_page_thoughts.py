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
WORDS = len(f"{THOUGHTS} {ANSWER}".split())


class Provider(BaseHTTPRequestHandler):
    """Chat completions in DeepSeek's form, one word a chunk; a question with REFUSE is refused, and one with
    BREAK is answered in part.
    """

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][-1]["content"]
        if "REFUSE" in question:
            return self.send_error(400, "The model is tired.")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for at, chunk in enumerate(_chunks()):
            if at == 4:
                GO_ON.wait(60)
            if at == WORDS - 1 and "BREAK" in question:
                return None
            self.wfile.write(f"data: {chunk}\n\n".encode())
            self.wfile.flush()
        return None

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


@turn("a question that is refused is there to be sent again; an edited one too, and its branch is gone")
def refused() -> None:
    GO_ON.set()
    with opened(BROWSER) as page:
        question, answer = page.locator("#question"), page.locator("[data-role=assistant]")
        ask(page, "Please REFUSE.")
        expect(page.get_by_role("alert")).to_contain_text("thinker")
        expect(question).to_have_value("Please REFUSE.")
        question.fill("Please answer.")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Regenerate")).to_be_enabled()
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Edit the question").fill("Now REFUSE.")
        page.get_by_role("button", name="Send as a branch").click()
        expect(page.get_by_label("Edit the question")).to_have_value("Now REFUSE.")
        expect(answer).to_contain_text(ANSWER)
        page.reload()
        expect(answer).to_contain_text(ANSWER)
        expect(page.locator(".siblings")).to_have_count(0)


@turn("an answer that breaks off stays, and is said to be cut")
def broken() -> None:
    GO_ON.set()
    with opened(BROWSER) as page:
        ask(page, "Please BREAK.")
        expect(page.get_by_role("alert")).to_be_visible()
        for _ in range(2):
            expect(page.locator("[data-role=assistant]")).to_contain_text("It is blue")
            expect(page.get_by_text("This answer was cut")).to_be_visible()
            expect(page.locator("[data-role=user]")).to_have_count(1)
            page.reload()


@turn("two models side by side show what they thought, folded")
def compared() -> None:
    GO_ON.set()
    with opened(BROWSER, "/#/compare") as page:
        ask(page, "Why is the sky blue?")
        for side in (page.locator(".side").first, page.locator(".side").last):
            expect(side).to_contain_text(ANSWER)
            expect(side.locator("details.thought p")).to_be_hidden()
            expect(side.locator("details.thought p")).to_have_text(THOUGHTS)
        shoot(page, "compare-thoughts-light")


with STACK, ThreadingHTTPServer(("127.0.0.1", 18431), Provider) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run()
