"""The player: what is embedded, and in a browser: in step, switched, blind, and without a request."""

from __future__ import annotations

import json
import re
import socket
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.player import Example, Tokens, Track, player_html

from ..browser import open_browser, watched_page
from ..speech import speech_like
from .made_up import made_up_row


def made_up_example(num_codebooks: int = 1) -> Example:
    wav_S = speech_like(4.0)
    codes_QT = np.arange(200 * num_codebooks).reshape(num_codebooks, 200) % 64
    tokens = Tokens(codes_QT, codes_QT / 8.0, 50.0)
    return Example("clip <1>", [Track("original", wav_S, 16_000), Track("<ours>", 0.5 * wav_S, 16_000, tokens)])


def test_tokens_and_their_rate():
    page = player_html(made_up_example(2))
    told = json.loads(unescape(re.search(r'data-tokens="([^"]*)"', page)[1]))  # type: ignore[index]
    tokens = made_up_example(2).tracks[1].tokens
    assert tokens is not None and told["codes"] == tokens.codes_QT.tolist() and told["rate"] == 50
    np.testing.assert_allclose(told["bits"], tokens.bits_QT, atol=0.051)
    assert tokens.bits_per_second == pytest.approx(tokens.bits_QT.sum() / 4.0)  # four seconds
    assert f"{tokens.bits_per_second:,.0f} bit/s" in page and "<ours>" not in page and "&lt;ours&gt;" in page
    assert page.count("ab-strip") == 1 and "width:100.000%" in page
    with pytest.raises(ValueError, match=r"codes \(1, 3\) and surprisals \(1, 4\)"):
        Tokens(np.zeros((1, 3), dtype=np.int64), np.zeros((1, 4)), 50.0)


def state(page: Any, code: str) -> Any:
    return page.evaluate(f"(() => {{ const player = document.querySelector('ab-player'); return {code}; }})()")


def wait_until(page: Any, code: str, seconds: float = 20.0) -> None:
    """playwright's own way evaluates strings inside the page, which its policy forbids."""
    for _ in range(round(seconds / 0.05)):
        if state(page, code):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s: {code}")


def test_versions_play_in_step_and_one_is_heard(tmp_path: Path):
    rows = [made_up_row("original"), made_up_row("<ours>", bits=270)]
    report = write_report(tmp_path / "r.html", rows, [made_up_example()], [], ReportMeta("t"))
    with open_browser() as browser:
        page, requests, complaints = watched_page(browser)
        page.goto(report.as_uri())
        assert page.locator("ab-player").bounding_box()["y"] < 600, "the first player is on the first screen"
        choices = page.locator(".ab-choices button")
        assert choices.all_inner_texts() == ["original", "<ours>"]
        assert not page.locator("audio").first.is_visible() and page.locator(".ab-spectrogram:visible").count() == 1
        page.get_by_role("button", name="Play").click()
        wait_until(page, "player.now() > 0.2")
        assert state(page, "player.buffers.map((buffer) => buffer.duration)") == [4.0, 4.0]
        choices.nth(1).click()
        before = state(page, "player.now()")
        wait_until(page, "player.gains[1].gain.value > 0.99")
        assert state(page, "player.gains[0].gain.value") < 0.01 and state(page, "player.now()") > before > 0.2
        assert re.match(r"Token \d+ \(.* bits; the second around it \d+ bit/s", page.locator(".ab-told").inner_text())
        page.get_by_role("button", name="Pause").click()
        box = page.locator(".ab-strip").bounding_box()
        page.mouse.click(box["x"] + 0.5 * box["width"] + 1, box["y"] + 3)
        assert "Token 100 (2.00 s, code 36): 4.5 bits" in page.locator(".ab-told").inner_text()
        assert state(page, "player.now()") == pytest.approx(2.0, abs=0.01)
        page.keyboard.press("1")
        assert choices.nth(1).get_attribute("aria-pressed") == "true", "number keys are for a player with the focus"
        choices.nth(1).press("1")
        assert choices.nth(0).get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Blind").click()
        assert choices.all_inner_texts() == ["A", "B"] and page.locator(".ab-spectrogram:visible").count() == 0
        page.get_by_role("button", name="Reveal").click()
        assert re.fullmatch(
            r"A is (original, B is <ours>|<ours>, B is original)\.", page.locator(".ab-told").inner_text()
        )
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == [] and complaints == []


def test_the_policy_stops_requests_and_foreign_scripts(tmp_path: Path):
    report = write_report(tmp_path / "r.html", [made_up_row("a")], [made_up_example()], [], ReportMeta("t"))
    with socket.create_server(("127.0.0.1", 0)) as server, open_browser() as browser:
        image = f"<img src='http://127.0.0.1:{server.getsockname()[1]}/x.png'>"
        planted = f"</main>{image}<script>document.title = 'changed'</script>"
        report.write_text(report.read_text("utf-8").replace("</main>", planted), "utf-8")
        page, _, complaints = watched_page(browser)
        page.goto(report.as_uri())
        page.wait_for_timeout(200)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
        assert page.title() == "t"
        assert any("Content Security Policy" in complaint for complaint in complaints)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(tmp_path: Path, width: int):
    rows = [made_up_row(f"a codec with a long name {number}", bits=300 + number) for number in range(5)]
    report = write_report(tmp_path / "r.html", rows, [made_up_example()], [], ReportMeta("t"))
    with open_browser() as browser:
        page, _, _ = watched_page(browser, width)
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_scripts_every_version_has_its_own_player(tmp_path: Path):
    report = write_report(tmp_path / "r.html", [made_up_row("a")], [made_up_example()], [], ReportMeta("t"))
    with open_browser() as browser:
        page, _, _ = watched_page(browser, java_script_enabled=False)
        page.goto(report.as_uri())
        assert all(player.is_visible() for player in page.locator("audio").all()) and page.locator("audio").count() == 2
