"""The page at / of a server with keys, in a real chromium."""

from __future__ import annotations

from contextlib import ExitStack

from browser import chromium, shoot, watched
from playwright.sync_api import expect
from turns import URL, run, turn

STACK = ExitStack()
BROWSER = STACK.enter_context(chromium())


@turn("nothing without a key, an error for a wrong one, and the right one lasts as long as the tab")
def keys() -> None:
    context = BROWSER.new_context()
    page = context.new_page()
    faults = watched(page, expected=("401 (Unauthorized)",))  # the browser's own line for each refusal
    page.goto(URL)
    expect(page.get_by_text("This server answers only with a key.")).to_be_visible()
    shoot(page, "key-light")
    page.get_by_label("Key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("key")
    page.get_by_label("Key").fill("the-key-of-the-page")
    page.keyboard.press("Enter")
    expect(page.get_by_text("What do you want to know?")).to_be_visible()
    page.reload()
    expect(page.get_by_text("What do you want to know?")).to_be_visible()
    assert context.cookies() == []
    assert page.evaluate("Object.values(localStorage).join('')").find("the-key") == -1
    page.locator("textarea").fill("Say hi.")
    page.keyboard.press("Enter")
    expect(page.locator("[data-role=assistant]").first).not_to_have_text("", timeout=60_000)
    other = context.new_page()
    other.goto(URL)
    expect(other.get_by_text("This server answers only with a key.")).to_be_visible()
    assert faults == [], faults


@turn("an administrator makes a key, and sees what was used")
def administration() -> None:
    context = BROWSER.new_context()
    page = context.new_page()
    faults = watched(page, expected=("401 (Unauthorized)",))
    page.goto(URL + "/#/server")
    page.get_by_label("Key").fill("the-admin")
    page.keyboard.press("Enter")
    page.get_by_label("Name of the new key").fill("a laptop")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_text("which is not shown again")).to_be_visible()
    row = page.get_by_role("row", name="a laptop").first
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    expect(page.get_by_role("heading", name="Usage, 30 days")).to_be_visible()
    expect(page.get_by_role("region", name="Usage")).to_contain_text("smollm2")
    expect(page.get_by_role("region", name="Usage")).to_contain_text("API key 1")
    shoot(page, "keys-light")
    assert faults == [], faults


with STACK:
    run()
