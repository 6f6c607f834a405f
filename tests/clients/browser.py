"""A real chromium, and what every page must hold: no console error, no request to another host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright
from turns import URL

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SHOTS = Path(os.environ.get("PAGE_SCREENSHOTS", "screenshots"))  # in the folder of the clients
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 780}},
}
SLOWEST_MS = 120_000  # a machine with much else to do
expect.set_options(timeout=SLOWEST_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("this needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: str = "/", look: str = "light") -> Iterator[Page]:
    """A page of our server in a fresh browser context. Fails if the page has had an error by the time it is
    closed.
    """
    context = browser.new_context(**LOOKS[look], permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(SLOWEST_MS)
    page = context.new_page()
    faults = watched(page)
    page.goto(URL + path)
    yield page
    assert faults == [], faults
    context.close()


def watched(page: Page, expected: tuple[str, ...] = ()) -> list[str]:
    """Errors of the console and requests to other hosts, as they come; `expected`: parts of known ones."""
    faults: list[str] = []

    def note(text: str) -> None:
        if not any(part in text for part in expected):
            faults.append(text)

    page.on("console", lambda message: note(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: note(str(error)))
    page.on("request", lambda request: note(request.url) if _is_foreign(request.url) else None)
    return faults


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(URL).netloc


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
