"""A real browser for tests: headless Chromium, driven by selenium, one per test session.

It reaches loopback only (everything else is mapped to nowhere), has a profile of its own that is removed, and tells
what its console said.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which what the page does not show it never will, on a machine however busy."""
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


class Browser:
    """One window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Goes somewhere, with a console that has nothing in it yet."""
        self.driver.get("about:blank")
        self.console()
        self.driver.get(address)

    def window(self, width: int, height: int = 900, *, phone: bool = False, dark: bool = False) -> None:
        """How large the window is, and what the reader prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *about: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *about)

    def text(self, selector: str) -> str:
        """The text of the first element; empty if there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
        )
        return found

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def shows(self, selector: str) -> bool:
        """Whether there is such an element and it can be seen."""
        return bool(self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", selector))

    def wait(self, condition: Callable[[], T], what: str = "") -> T:
        """Waits until a condition holds, and gives what it gave."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        try:
            found: T = WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition())
        except TimeoutException:
            shown = self.run("return document.body.innerText")[:1500]
            pytest.fail(f"waited in vain for {what or 'a condition'}; the page shows:\n{shown}\n{self.console()}")
        return found

    def click(self, selector: str) -> None:
        """Clicks the first element, or the one that takes its place meanwhile."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.common.by import By

        def clicked() -> bool:
            try:
                self.driver.find_element(By.CSS_SELECTOR, selector).click()
            except StaleElementReferenceException:
                return False
            return True

        self.wait(clicked, f"{selector} to stay")

    def keys(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def console(self) -> list[str]:
        """What the console said since the last look: refusals of the policy, errors, warnings."""
        return [f"{each['level']} {each['message']}" for each in self.driver.get_log("browser")]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser; skips the test if there is none."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp(prefix="streamfold-browser-")
    options = Options()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = None
    try:
        started = webdriver.Chrome(options=options, service=Service(driver))
        started.set_script_timeout(PATIENCE)
        yield Browser(started)
    finally:
        if started is not None:
            started.quit()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="session")
def session_browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(session_browser: Browser) -> Browser:
    """The browser, with a wide window in light colours."""
    session_browser.window(1280)
    return session_browser
