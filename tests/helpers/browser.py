"""A page in headless Chromium: what it says, what it asks the network for, how it looks."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@dataclasses.dataclass
class Seen:
    """messages  errors and warnings of the console, and uncaught exceptions
    requests  addresses that were asked for, the page itself left out
    drawn     figures that have been drawn;  expected  those that should
    overflow  pixels by which the page is wider than the window
    """

    messages: list[str]
    requests: list[str]
    drawn: int
    expected: int
    overflow: int


@contextmanager
def opened(page: Path, *, width: int = 1280, dark: bool = False) -> Iterator[tuple[Any, Seen]]:
    """(Playwright's page, what was seen) of a file, in a window of that width."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        seen = Seen([], [], 0, 0, 0)
        tab.on("console", lambda m: m.type in ("error", "warning") and seen.messages.append(m.text))
        tab.on("pageerror", lambda error: seen.messages.append(str(error)))
        tab.on("request", lambda request: seen.requests.append(request.url))
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("html[data-drawn]")
        seen.requests = [url for url in seen.requests if not url.startswith(("data:", "blob:"))][1:]
        seen.expected = tab.locator(".plot").count()
        seen.drawn = tab.evaluate(
            "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.plot-container"
            " .main-svg') && p.querySelector('.trace, .hm, .point, .lines, .points')).length"
        )
        root = "document.documentElement"
        seen.overflow = tab.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
        yield tab, seen
        browser.close()
