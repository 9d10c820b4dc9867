"""What the UI shows of the service that the tests share, and Chromium to look at it."""

import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import BrowserContext, Page, ViewportSize, sync_playwright
from prefect.settings import PREFECT_API_URL, temporary_settings
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from hyperexport.blocks import VSphereCredentials
from hyperexport.blocks.export_profile import save_profile
from hyperexport.options.precedence import ExportOptions
from tests.flows.service import Service
from tests.peers import require_program

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-rasterization",  # which Debian's start script switches on
    "--disable-software-rasterizer",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_VIEWPORT: Final[ViewportSize] = {"width": 1100, "height": 1000}


def busy(error: BaseException) -> bool:
    """Whether the server's SQLite was locked for the moment: Prefect answers 503, and its own client asks again."""
    return isinstance(error, HTTPError) and error.code == 503


@dataclass(frozen=True)
class Lab:
    """The service, a saved block ``lab`` with its login, and a saved profile ``nightly`` that takes snapshots."""

    service: Service
    store: Path

    @property
    def root(self) -> str:
        """Where the UI is."""
        return self.service.prefect_api.removesuffix("/api")

    @retry(retry=retry_if_exception(busy), wait=wait_fixed(1), stop=stop_after_attempt(30), reraise=True)
    def ask(self, path: str, body: Any = None) -> Any:
        """Ask the Prefect API, without Prefect: its client does not work beside Playwright's loop."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.service.prefect_api + path, data=data, headers={"content-type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    @property
    def form(self) -> str:
        """The path of the form that runs export-vm."""
        return f"/deployments/deployment/{self.ask('/deployments/name/export-vm/export-vm')['id']}/run"

    def state_of(self, run: str) -> str:
        """The type of a run's state."""
        return self.ask(f"/flow_runs/{run}")["state"]["type"]

    def artifacts_of(self, run: str, kind: str) -> list[dict[str, Any]]:
        """A run's artifacts of one type."""
        found = self.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return [artifact for artifact in found if artifact["type"] == kind]


@pytest.fixture(scope="module")
def chromium() -> Path:
    """Debian's browser."""
    return require_program("chromium", "nobody has looked at the Prefect UI")


@pytest.fixture(scope="module")
def lab(chromium: Path, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The service with what the tests choose in its forms."""
    store = tmp_path_factory.mktemp("ui") / "exports"
    simulator = service.simulator
    with temporary_settings({PREFECT_API_URL: service.prefect_api}):
        VSphereCredentials(
            url=simulator.url,
            username=simulator.username,
            password=simulator.password,
            thumbprint=simulator.thumbprint,
        ).save("lab")
        save_profile("nightly", ExportOptions.from_keys({"snapshot": True, "output": store}))
    return Lab(service, store)


@pytest.fixture(scope="module")
def browser(chromium: Path, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Generator[BrowserContext]:
    """Chromium; begun after everything that asks Prefect.

    It has a profile on disk, where it keeps the code of the UI, as received and as compiled: a third of a page's costs.
    """
    profile = tmp_path_factory.mktemp("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=_FLAGS, viewport=_VIEWPORT, reduced_motion="reduce"
        )
        browser.set_default_timeout(90_000)  # however busy the machine is
        yield browser
        browser.close()


@pytest.fixture
def page(browser: BrowserContext) -> Generator[Page]:
    """A window of its own."""
    page = browser.new_page()
    yield page
    page.close()
    browser.clear_cookies()  # Prefect keeps there which of its UIs was looked at last


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Takes a picture for the documentation, where ``UI_PICTURES`` names a folder (``make pictures``)."""

    def take(name: str) -> None:
        if folder := os.environ.get("UI_PICTURES"):
            page.wait_for_timeout(1500)  # what moves into place has arrived; nothing is asserted of a picture
            page.screenshot(path=Path(folder) / f"{name}.png")

    return take
