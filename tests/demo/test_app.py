"""The demo in a headless Chromium with a fake microphone: recorded, heard, changed, continued, nothing sent away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
import soundfile as sf

from llmcodec.cli import experiments as command
from llmcodec.cli.main import main
from llmcodec.demo.studio import NEAREST, NO_LM, Studio, Version

from ..browser import open_browser, watched_page
from ..lm.small_token_lm import token_lm
from ..speech import speech_like

FAKE_MICROPHONE = "--use-fake-device-for-media-stream"
PATIENCE = 120_000  # ms


class Server:
    """A running demo."""

    def __init__(self, page: Any, address: str, folder: Path, looked_up: list[str]) -> None:
        self.page, self.address, self.folder, self.looked_up = page, address, folder, looked_up


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The bundled codec's nearest codes and a random token LM; host names that the server looks up are kept."""
    pytest.importorskip("gradio")
    from llmcodec.demo.app import private_files, serve

    nearest = Studio.open().versions[NEAREST]
    speaks = token_lm(codec=nearest.runtime.identity)
    studio = Studio({NEAREST: Version(NEAREST, nearest.runtime, nearest.scorer)}, speaks, NEAREST)
    looked_up: list[str] = []
    with pytest.MonkeyPatch.context() as patch, private_files() as folder:
        look_up = socket.getaddrinfo

        def noted(host: Any, *rest: Any, **more: Any) -> Any:
            looked_up.append(str(host))
            return look_up(host, *rest, **more)

        patch.setattr(socket, "getaddrinfo", noted)
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
        patch.setenv("GRADIO_SHARE", "True")
        page, address = serve(studio, wait=False)
        yield Server(page, address, folder, looked_up)
        page.close()
    assert not folder.exists(), "recordings are deleted at the end"


def foreign(addresses: list[str]) -> list[str]:
    """Addresses that are not on this machine."""
    return [one for one in addresses if urlparse(one).hostname not in (None, "127.0.0.1", "localhost")]


def open_demo(browser: Any, server: Server, width: int = 1280, **options: Any) -> tuple[Any, list[str], list[str]]:
    page, requests, complaints = watched_page(browser, width, **options)
    page.set_default_timeout(PATIENCE)
    page.goto(server.address)
    page.get_by_role("button", name="Hear it changed").wait_for()
    return page, requests, complaints


def codes_of(strip: Any) -> list[int]:
    """Codes of the first codebook."""
    return json.loads(strip.get_attribute("data-tokens"))["codes"][0]  # type: ignore[no-any-return]


def test_recorded_heard_changed_and_continued(server: Server) -> None:
    with open_browser(FAKE_MICROPHONE, "--use-fake-ui-for-media-stream") as browser:
        page, requests, complaints = open_demo(browser, server, permissions=["microphone"])
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2500)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.locator("ab-player").first.wait_for()
        choices = page.locator("ab-player .ab-choices").first.locator("button")
        assert choices.all_inner_texts() == ["original", NEAREST]
        choices.nth(1).click()
        strip = page.locator("ab-player").first.locator(".ab-strip:visible")
        told = json.loads(strip.get_attribute("data-tokens"))
        assert told["rate"] == 50 and len(told["codes"][0]) > 50 and min(told["bits"][0]) >= 0
        strip.click(position={"x": 10.5 / len(told["codes"][0]) * strip.bounding_box()["width"], "y": 5})
        page.wait_for_function("document.querySelectorAll('input[type=number]')[0].value == '10'")
        assert page.get_by_label("Code", exact=True).input_value() == str(told["codes"][0][10])
        readout = page.locator(".ab-told").first.inner_text()
        assert re.match(r"Token 10 \(0\.20 s, code \d+\): [\d.]+ bits; the second around it \d+ bit/s", readout)
        page.locator("ab-player .ab-play").first.click()
        page.wait_for_function("document.querySelector('ab-player').buffers?.length === 2")
        page.get_by_label("Code", exact=True).fill("5")
        page.get_by_role("button", name="Hear it changed").click()
        page.locator("ab-player").nth(1).wait_for()
        before, after = told["codes"][0], codes_of(page.locator("ab-player").nth(1).locator(".ab-strip").nth(1))
        assert after == [*before[:10], 5, *before[11:]]
        live = "[...document.querySelectorAll('ab-player')].every((one) => one.matches('.ab-live:has(.ab-bar)'))"
        page.get_by_label("Code", exact=True).fill("6")  # into the player that is there already
        page.get_by_role("button", name="Hear it changed").click()
        changed = "document.querySelectorAll('ab-player')[1]?.querySelectorAll('.ab-strip')[1].dataset.tokens"
        page.wait_for_function(f"JSON.parse({changed}).codes[0][10] === 6")
        page.wait_for_function(live)
        page.get_by_role("button", name="Let the token LM go on").click()
        page.locator("ab-player").nth(2).wait_for()
        longer = codes_of(page.locator("ab-player").nth(2).locator(".ab-strip"))
        assert longer[: len(before)] == before and len(longer) > len(before)
        page.get_by_role("button", name="Let the token LM go on").click()
        page.wait_for_timeout(500)
        page.wait_for_function(live)
        assert list(server.folder.rglob("*.wav")), "what is deleted at the end was there"
        assert foreign(requests) == [] and complaints == []


def test_a_bundled_recording_is_played_wherever_the_package_lies(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Gradio serves files below the working directory anyway
    with open_browser() as browser:
        page, _, complaints = open_demo(browser, server)
        page.get_by_role("button", name="Take a bundled recording").click()
        page.locator("ab-player .ab-bar").first.wait_for()
        assert complaints == []


def test_a_denied_microphone_is_one_line_and_files_still_work(server: Server, tmp_path: Path) -> None:
    sf.write(path := tmp_path / "mine.wav", speech_like(1.0), 16_000)
    with open_browser(FAKE_MICROPHONE, "--deny-permission-prompts") as browser:
        page, requests, _ = open_demo(browser, server)
        page.get_by_text("No microphone found").first.wait_for(state="attached")  # Gradio's own line, cut short
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_text("The browser gives this page no microphone.").wait_for()
        page.get_by_label("Upload file").click()
        page.locator("input[type=file]").first.set_input_files(path)
        page.locator("ab-player").first.wait_for()
        assert foreign(requests) == []


def test_a_file_that_is_dropped_beside_the_upload_area_is_heard(server: Server, tmp_path: Path) -> None:
    sf.write(path := tmp_path / "mine.wav", speech_like(1.0), 16_000)
    drop = """(bytes) => {
      const held = new DataTransfer();
      held.items.add(new File([new Uint8Array(bytes)], "mine.wav", { type: "audio/wav" }));
      document.querySelector("h1").dispatchEvent(
        new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
    }"""
    with open_browser(FAKE_MICROPHONE, "--use-fake-ui-for-media-stream") as browser:
        page, requests, complaints = open_demo(browser, server, permissions=["microphone"])
        page.evaluate(drop, list(path.read_bytes()))
        page.locator("ab-player").first.wait_for()
        assert page.url.startswith(server.address) and foreign(requests) == [] and complaints == []


def test_a_long_clip_is_refused_in_one_line_without_the_servers_path(server: Server, tmp_path: Path) -> None:
    sf.write(path := tmp_path / "long.wav", np.zeros(8_000 * 61, dtype=np.float32), 8_000)
    (broken := tmp_path / "broken.wav").write_bytes(b"RIFF no audio")
    with open_browser() as browser:
        too_long = "The recording is longer than the 60 s that the demo takes: cut it with the scissors."
        for file, message in ((path, too_long), (broken, "broken.wav")):
            page, _, _ = open_demo(browser, server)
            page.get_by_role("button", name="Hear it changed").click()
            page.get_by_text("Record or drop a file first, with the version 'nearest codes'.").wait_for()
            page.get_by_label("Upload file").click()
            page.locator("input[type=file]").first.set_input_files(file)
            line = page.locator(".prose.said", has_text=message)
            line.wait_for()
            assert str(server.folder) not in line.inner_text() and page.locator("ab-player").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(server: Server, width: int) -> None:
    with open_browser() as browser:
        page, _, _ = open_demo(browser, server, width)
        page.get_by_role("button", name="Take a bundled recording").click()
        page.locator("ab-player").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_it_listens_to_this_machine_alone_and_asks_for_nothing_outside(server: Server) -> None:
    assert server.address.startswith("http://127.0.0.1:") and server.page.share_url is None
    port = server.page.server_port
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in (one for one in addresses if not one.startswith("127.")):
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
            pass
    assert set(server.looked_up) <= {"127.0.0.1", "localhost", "None", socket.gethostname()}


def test_without_an_lm_the_page_says_in_one_line_what_is_missing() -> None:
    pytest.importorskip("gradio")
    from llmcodec.demo.app import build_page

    studio = Studio({NEAREST: Version(NEAREST, None, None)})  # type: ignore[arg-type]  # only named here
    values = [str(block.get("props", {}).get("value", "")) for block in build_page(studio).config["components"]]
    (line,) = [value.splitlines()[-1] for value in values if "Continue" in value]
    assert line == f"Not here: {NO_LM}." and "start with --lm FOLDER (`llmcodec lm train` makes one)" in NO_LM


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "llmcodec demo: the demo needs the package gradio: pip install 'llmcodec[demo]'\n"


@pytest.mark.slow
def test_a_signal_deletes_the_recordings(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    started = subprocess.Popen(
        [sys.executable, "-m", "llmcodec", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert started.stdout is not None and "http://127.0.0.1:" in started.stdout.readline()
    (folder,) = tmp_path.glob("llmcodec-demo-*")
    (folder / "recording.wav").write_bytes(b"private")
    started.send_signal(signal.SIGTERM)
    _, told = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGTERM and "recordings are deleted" in told
    assert not folder.exists()
