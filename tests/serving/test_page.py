"""The live page in a real browser: what it shows, the key it asks for, and that nothing of a client is read as HTML."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.policies import Policy
from tests.policies.test_cameras_and_instructions import make_policy as make_camera_policy
from tests.serving.tools import SECONDS, Robot, running, save

KEY = "0123456789abcdef"
HOSTILE = "<img src=x onerror=document.title='owned'> push & pull"

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no chromium and chromedriver on PATH; on Debian: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--window-size=1200,720",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def text(browser: Any, name: str) -> str:
    found: str = browser.execute_script(f"return document.getElementById('{name}').textContent")
    return found


def until(condition: Callable[[], bool], robot: Callable[[], object] = lambda: None) -> None:
    """Let the robot ask on until the page shows it."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        robot()
        time.sleep(0.05)


def test_the_page_shows_what_the_robot_sees_and_why_it_acts(browser: Any, tmp_path: Path) -> None:
    policy: Policy = make_camera_policy(history=2)
    image = np.zeros((3, 16, 16), np.uint8)
    image[0] = 255
    image[1, 8:] = 128
    with running(save(policy, tmp_path / "policy"), api_key=KEY) as server, Robot(server.port, key=KEY) as robot:
        browser.get(f"http://127.0.0.1:{server.port}/")
        until(lambda: text(browser, "status") == "wrong API key")
        assert browser.execute_script("return document.getElementById('login').hidden") is False
        browser.find_element("id", "key").send_keys(KEY)
        browser.find_element("css selector", "#login button").click()
        until(lambda: text(browser, "status") == "connected")
        assert text(browser, "policy").startswith("q-transformer")
        answers = []

        def ask() -> None:
            answers.append(robot.infer({"image": image, "prompt": HOSTILE}))

        until(lambda: "Q " in text(browser, "values"), ask)
        assert text(browser, "instruction") == HOSTILE
        assert browser.execute_script("return document.images.length") == 0
        assert browser.title == "qseq serve"
        found = browser.execute_script(
            "const c = document.querySelector('#cameras canvas');"
            "return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, 1, 16).data]"
        )
        assert found[:2] == [16, 16]
        assert found[2:6] == [255, 0, 0, 255]
        assert found[-4:] == [255, 128, 0, 255]
        shown = policy.decisions_shown
        assert shown is not None
        shown.only([0])
        policy.act({"image": image}, HOSTILE)
        decision = shown[0]
        assert decision is not None
        chosen = int(decision.tokens_A[0])
        best = f"{float(decision.values_AK[0, chosen]):.4g}"
        assert f"bin {chosen} of {decision.values_AK.shape[1]}, Q {best}" in text(browser, "values")
        assert f"action {round(float(answers[-1]['actions'][0, 0]), 5):g}" in text(browser, "values")
        painted = browser.execute_script(
            "const c = document.querySelector('#values canvas');"
            "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x)"
        )
        assert painted
        assert "ms: " in text(browser, "timing")
        client = browser.execute_script("return [...document.getElementById('client').options].map(o => o.value)")
        assert client == ["", "0"]
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    until(lambda: text(browser, "status") == "disconnected, trying again")
