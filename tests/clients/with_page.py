"""The page at /, in a real chromium: what a person does there."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from browser import LOOKS, chromium, opened, shoot, watched
from cable import cable
from playwright.sync_api import Page, expect
from turns import URL, run, turn

STACK = ExitStack()
BROWSER = STACK.enter_context(chromium())
DONE_MS = int(os.environ.get("PAGE_MS", "120000"))
LONG = "Write a very long story about a river, with many chapters."


def post(path: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Question", exact=True).and_(page.locator("textarea")).fill(text)
    page.keyboard.press("Enter")


def answers(page: Page) -> Any:
    return page.locator("[data-role=assistant]")


def wait_until_done(page: Page) -> None:
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=DONE_MS)
    expect(page.get_by_role("button", name="Regenerate").last).to_be_visible(timeout=DONE_MS)


def wait_for_length(page: Page, characters: int) -> None:
    script = "length => (document.querySelector('[data-role=assistant]')?.innerText ?? '').length > length"
    page.wait_for_function(script, arg=characters, timeout=DONE_MS)


def limit(page: Page, tokens: int) -> None:
    """Let answers be short."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest answer, tokens").fill(str(tokens))
    page.get_by_role("button", name="Close the settings").click()


def be_slow(page: Page) -> None:
    """At a high temperature a text does not repeat itself, so its next tokens cannot be guessed."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_role("button", name="Close the settings").click()


def instruct(page: Page, text: str) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill(text)
    page.get_by_role("button", name="Close the settings").click()


@turn("a first chat: page, question, answer, its speed")
def first_chat() -> None:
    started = time.perf_counter()
    with opened(BROWSER) as page:
        ask(page, "What color is the sky?")
        expect(answers(page).first).to_contain_text("sky", timeout=DONE_MS)
        print(f"  the answer began within {time.perf_counter() - started:.1f} s of opening the page")
        wait_until_done(page)
        expect(page.locator("[data-stat=speed]")).to_contain_text("a second")
        expect(page.get_by_role("link", name="What color is the sky?")).to_be_visible()


@turn("edit, branch, switch; regenerate")
def branches() -> None:
    with opened(BROWSER) as page:
        limit(page, 12)
        ask(page, "Name a color.")
        wait_until_done(page)
        ask(page, "Name another.")
        expect(answers(page)).to_have_count(2, timeout=DONE_MS)
        wait_until_done(page)
        page.get_by_role("button", name="Edit").first.click()
        page.get_by_label("Edit the question").fill("Name an animal.")
        page.get_by_role("button", name="Send as a branch").click()
        expect(page.locator("[data-role=user]").first).to_contain_text("Name an animal.")
        wait_until_done(page)
        expect(answers(page)).to_have_count(1)
        expect(page.locator(".siblings").first).to_contain_text("2 / 2")
        page.get_by_role("button", name="Earlier version").first.click()
        expect(page.locator("[data-role=user]").first).to_contain_text("Name a color.")
        expect(answers(page)).to_have_count(2)
        page.get_by_role("button", name="Regenerate").last.click()
        wait_until_done(page)
        expect(page.locator(".siblings").last).to_contain_text("2 / 2")
        page.reload()
        expect(page.locator("[data-role=user]").first).to_contain_text("Name a color.")
        expect(page.locator(".siblings")).to_have_count(2)


@turn("a reload in the middle of an answer, which goes on; stop keeps what was written")
def reload() -> None:
    with opened(BROWSER) as page:
        be_slow(page)
        ask(page, LONG)
        wait_for_length(page, 40)
        before = answers(page).first.inner_text()
        page.reload()
        wait_for_length(page, len(before) + 40)
        assert answers(page).first.inner_text().startswith(before[:20])
        expect(page.locator("[data-role=user]")).to_have_text(LONG)
        page.get_by_role("button", name="Stop").click()
        wait_until_done(page)
        expect(answers(page)).to_have_count(1)
        assert answers(page).first.inner_text().startswith(before[:20])


@turn("the network is away in the middle of an answer, as on a phone that sleeps: it is read on")
def away() -> None:
    with cable(URL) as line:
        context = BROWSER.new_context(**LOOKS["phone"])
        context.set_default_timeout(DONE_MS)
        page = context.new_page()
        faults = watched(page, expected=(line.url, "net::ERR_"))  # the browser's own line for each try
        page.goto(line.url)
        be_slow(page)
        limit(page, 600)
        ask(page, LONG)
        wait_for_length(page, 40)
        line.cut()
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
        shoot(page, "away-phone")
        before = answers(page).first.inner_text()
        line.mend()
        wait_for_length(page, len(before) + 20)
        expect(page.get_by_text("The connection is lost.")).to_have_count(0)
        line.cut()  # what is stored after the answer waits, too
        page.wait_for_timeout(3000)
        line.mend()
        wait_until_done(page)
        shown = page.locator("[data-role=assistant] .markdown").inner_text()
        assert shown.startswith(before[:20])
        page.reload()
        expect(page.locator("[data-role=assistant] .markdown")).to_have_text(shown, use_inner_text=True)
        assert faults == [], faults


@turn("stop keeps what was written, and the chat goes on")
def stop() -> None:
    with opened(BROWSER) as page:
        be_slow(page)
        ask(page, LONG)
        expect(answers(page).first).not_to_have_text("", timeout=DONE_MS)
        page.keyboard.press("Escape")
        wait_until_done(page)
        expect(page.get_by_text("This answer was cut")).to_be_visible()
        text = answers(page).first.inner_text()
        page.reload()
        expect(answers(page).first).to_have_text(text, use_inner_text=True)
        limit(page, 5)
        ask(page, "Thank you.")
        expect(answers(page)).to_have_count(2, timeout=DONE_MS)
        wait_until_done(page)


@turn("two tabs answer at once, and see each other's chats")
def tabs() -> None:
    with opened(BROWSER) as page:
        limit(page, 20)
        other = page.context.new_page()
        faults = watched(other)
        other.goto(URL)
        limit(other, 20)
        ask(page, "Say one.")
        ask(other, "Say two.")
        wait_until_done(page)
        wait_until_done(other)
        page.reload()
        expect(page.get_by_role("link", name="Say two.").first).to_be_visible()
        assert faults == [], faults


@turn("search what was said, rename, export, delete")
def sidebar() -> None:
    items = [{"role": "user", "content": "Who built the aqueduct?"}]
    post("/v1/conversations", {"items": items, "metadata": {"title": "History"}})
    with opened(BROWSER) as page:
        page.get_by_label("Search chats").fill("AQUEDUCT built")
        expect(page.locator(".sidebar li")).to_have_count(1, timeout=DONE_MS)
        expect(page.get_by_role("link", name="History")).to_be_visible()
        page.get_by_label("Search chats").fill("")
        limit(page, 5)
        ask(page, "A chat to rename")
        wait_until_done(page)
        page.get_by_label("Actions for A chat to rename").click()
        page.get_by_role("button", name="Rename").click()
        page.get_by_label("New title").fill("Renamed by a test")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Renamed by a test")).to_be_visible()
        page.keyboard.press("Control+k")
        page.keyboard.type("by a TEST")
        expect(page.locator(".sidebar li")).to_have_count(1)
        page.get_by_label("Actions for Renamed by a test").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        exported = json.loads(download.value.path().read_text())
        assert [item["role"] for item in exported["branches"][0]["items"]] == ["user", "assistant"]
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_label("Actions for Renamed by a test").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.locator(".sidebar li")).to_have_count(0)
        expect(page.get_by_text("What do you want to know?")).to_be_visible()


@turn("a chat is listed, and renamed, while it answers; settings that become shorter are kept")
def changes() -> None:
    with opened(BROWSER) as page:
        be_slow(page)
        instruct(page, "Be brief. " * 120)
        ask(page, "A chat to rename early")
        wait_for_length(page, 10)
        menu = page.get_by_label("Actions for A chat to rename early")
        menu.click()
        page.get_by_role("button", name="Rename").click()
        page.get_by_label("New title").fill("A new name")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="A new name")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        wait_until_done(page)
        instruct(page, "Be brief.")
        limit(page, 5)
        ask(page, "Go on.")
        expect(answers(page)).to_have_count(2)
        wait_until_done(page)
        page.reload()
        expect(page.get_by_role("link", name="A new name")).to_be_visible()
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_label("System prompt")).to_have_value("Be brief.")


@turn("Escape leaves a question that is edited; on a phone, a token's alternatives are in view")
def in_view() -> None:
    with opened(BROWSER, look="phone") as page:
        limit(page, 40)
        ask(page, "Name ten animals, one in each line.")
        wait_until_done(page)
        page.get_by_role("button", name="Edit").click()
        page.keyboard.press("Escape")
        expect(page.get_by_label("Edit the question")).to_have_count(0)
        page.get_by_role("button", name="Tokens").click()
        page.locator(".token").first.click()
        expect(page.locator(".alternatives")).to_be_in_viewport(ratio=0.9)


@turn("tokens: a probability and alternatives; the raw request")
def tokens() -> None:
    with opened(BROWSER) as page:
        limit(page, 12)
        ask(page, "Name three colors.")
        wait_until_done(page)
        page.get_by_role("button", name="Tokens").click()
        page.locator(".token").nth(1).click()
        expect(page.locator(".alternatives tr")).to_have_count(5)
        page.get_by_role("button", name="Raw").click()
        expect(page.locator(".raw pre").first).to_contain_text('"background": true')
        page.get_by_role("button", name="Copy as curl").click()
        line = page.evaluate("navigator.clipboard.readText()")
        printed = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=DONE_MS / 1000)
        assert "event: response.output_text.done" in printed.stdout, "the copied line gives an answer, too"
        page.reload()
        page.get_by_role("button", name="Tokens").first.click()
        assert page.locator(".token").count() >= 2, "probabilities are stored with the answer"


@turn("one question to two settings, side by side")
def compare() -> None:
    with opened(BROWSER, "/#/compare") as page:
        page.get_by_label("Longest answer 2").fill("2")
        ask(page, "What is water? Answer briefly.")
        for side in (1, 2):
            answer = page.get_by_label(f"Answer {side}").locator(".meter")
            expect(answer).to_contain_text("the first after", timeout=DONE_MS)
        expect(page.get_by_label("Answer 2").get_by_text("This answer was cut")).to_be_visible()


@turn("an answer's HTML does nothing")
def injected() -> None:
    bad = (
        '<img src="x" onerror="document.title=\'owned\'"> <script>document.title="owned"</script> **bold** '
        "<iframe src='https://example.org'></iframe> [link](javascript:document.title='owned') "
        "![picture](https://example.org/a.png) <form><input></form><style>*{display:none}</style>"
        "\n\n```python\nprint(1)\n```"
    )
    items = [
        {"role": "user", "content": "Bad?"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": bad}]},
    ]
    conversation = post("/v1/conversations", {"items": items, "metadata": {"title": "Injected"}})
    with opened(BROWSER, f"/#/chat/{conversation['id']}") as page:
        expect(answers(page).locator("strong")).to_have_text("bold")
        page.get_by_role("button", name="Copy code").click()
        assert page.evaluate("navigator.clipboard.readText()") == "print(1)\n"
        assert answers(page).locator("img, script, iframe, form, input, style").count() == 0
        link = answers(page).locator("a", has_text="link")
        assert link.count() == 0 or not (link.get_attribute("href") or "").startswith("javascript:")
        page.wait_for_timeout(300)
        assert page.title() == "Headrace"


@turn("tools: the model calls, a person answers; a schema shapes the answer")
def tools() -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
    with opened(BROWSER) as page:
        limit(page, 40)
        page.get_by_role("button", name="Settings").click()
        page.get_by_text("Advanced").click()
        page.get_by_label("JSON schema of the answer").fill(json.dumps(schema))
        ask(page, "Red or blue?")
        wait_until_done(page)
        assert json.loads(answers(page).first.inner_text().split("\n")[0])["color"] in ("red", "blue")
        page.get_by_label("JSON schema of the answer").fill("{")
        ask(page, "Again")
        expect(page.get_by_role("alert")).to_contain_text("is not JSON")
        page.get_by_label("JSON schema of the answer").fill("")
        page.get_by_label("Tools, as JSON").fill(json.dumps([tool]))
        ask(page, "How is the weather?")
        wait_until_done(page)


@turn("the server's view: a running request is listed, and stopped")
def server_view() -> None:
    with opened(BROWSER) as page:
        other = page.context.new_page()
        other.goto(URL + "/#/server")
        expect(other.get_by_text("Nothing runs.")).to_be_visible()
        expect(other.get_by_text("Tokens a second")).to_be_visible()
        be_slow(page)
        ask(page, LONG)
        expect(answers(page).first).not_to_have_text("", timeout=DONE_MS)
        other.get_by_role("button", name="Stop").click(timeout=DONE_MS)
        expect(page.get_by_role("alert")).to_contain_text("stopped", timeout=DONE_MS)
        expect(other.get_by_text("Nothing runs.")).to_be_visible(timeout=DONE_MS)


@turn("the server's view: a model is unloaded, and loaded again")
def models() -> None:
    with opened(BROWSER, "/#/server") as page:
        row = page.get_by_role("row", name="smollm2-135m-instruct").first
        expect(row).to_contain_text("loaded")
        row.get_by_role("button", name="Unload").click()
        expect(row.get_by_role("button", name="Load", exact=True)).to_be_enabled(timeout=DONE_MS)
        expect(row).to_contain_text("ready")
        row.get_by_role("button", name="Load", exact=True).click()
        expect(row.get_by_role("button", name="Unload")).to_be_enabled(timeout=DONE_MS)
        page.get_by_label("Model to pull").fill("smollm2-135m-instruct")  # it is here: nothing is fetched
        page.get_by_role("button", name="Pull", exact=True).click()
        expect(page.get_by_label("Model to pull")).to_have_value("")
        expect(row).to_contain_text("loaded")
        expect(page.get_by_role("heading", name="Keys")).to_have_count(0)
        page.get_by_text("Log", exact=True).click()
        expect(
            page.get_by_text("No lines yet").or_(page.get_by_role("log", name="Log lines"))
        ).to_be_visible()


@turn("the server's view, all looks, no serious fault of accessibility")
def looks() -> None:
    for look in LOOKS:
        with opened(BROWSER, "/", look) as page:
            expect(page.get_by_text("What do you want to know?")).to_be_visible()
            shoot(page, f"welcome-{look}")
            check_accessible(page, f"welcome, {look}")
            check_reachable(page)
            if look == "phone":
                page.get_by_role("button", name="Chats").click()
                shoot(page, "chats-phone")
                page.keyboard.press("Escape")
                expect(page.get_by_label("Search chats")).not_to_be_visible()
                page.get_by_role("button", name="Chats").click()
            page.get_by_role("link", name="Name three colors.").first.click()
            expect(answers(page).first).to_be_visible()
            page.get_by_role("button", name="Tokens").first.click()
            page.locator(".token").first.click()
            shoot(page, f"tokens-{look}")
            check_accessible(page, f"tokens, {look}")
            check_reachable(page)
            page.get_by_role("button", name="Settings").click()
            shoot(page, f"settings-{look}")
            check_accessible(page, f"settings, {look}")
            check_reachable(page)
            page.goto(URL + "/#/compare")
            expect(page.get_by_label("Model 2")).to_be_visible()
            shoot(page, f"compare-{look}")
            check_accessible(page, f"compare, {look}")
            check_reachable(page)
            page.goto(URL + "/#/server")
            expect(page.get_by_role("heading", name="Models")).to_be_visible()
            page.wait_for_timeout(2500)
            shoot(page, f"server-{look}")
            check_accessible(page, f"server, {look}")
            check_reachable(page)


def check_accessible(page: Page, where: str) -> None:
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    violations = [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in serious]
    assert serious == [], f"{where}: {violations}"


REACHABLE = """() => {
  const all = [...document.querySelectorAll('a[href], button, input, select, textarea, summary')];
  const seen = all.filter(one => !one.disabled && one.checkVisibility({ contentVisibilityAuto: true }));
  seen.forEach((one, index) => { one.dataset.reach = index; });
  document.activeElement.blur();
  return seen.map(one => one.outerHTML.slice(0, 120));
}"""
FOCUSED = """() => {
  const one = document.activeElement;
  const frames = [one, one.closest(".attach, .composer")].filter(Boolean).map(each => getComputedStyle(each));
  const isSeen = frames.some(style => style.outlineStyle !== 'none' || style.boxShadow !== 'none');
  return [one.dataset.reach, isSeen];
}"""


def check_reachable(page: Page) -> None:
    """The Tab key leads to everything that can be used, and one sees where it is."""
    names = page.evaluate(REACHABLE)
    found: dict[str, bool] = {}
    for _ in range(len(names) + 20):
        page.keyboard.press("Tab")
        index, is_seen = page.evaluate(FOCUSED)
        found[index] = is_seen
    missing = [name for index, name in enumerate(names) if not found.get(str(index))]
    assert missing == [], missing


with STACK:
    run()
