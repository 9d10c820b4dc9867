"""The documentation's search, from the folder that it was built into, as somebody without a network has it."""

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.peers import require_program

SITE = Path(".cache/site")

pytestmark = pytest.mark.docs


def test_the_search_finds_pages_from_the_folder_and_asks_nobody() -> None:
    chromium = require_program("chromium", "nobody has searched the documentation")
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((SITE / "index.html").resolve().as_uri())
        page.keyboard.press("f")
        page.keyboard.type("clocks change in autumn")
        page.get_by_text("Schedules, and the process that runs them").last.wait_for()
        browser.close()
    assert asked
    assert all(url.startswith(("file:", "data:", "about:")) for url in asked)
