"""The page is complete, self-contained, small, and says nothing unescaped."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from llmcodec.evaluation.results import SystemRow
from llmcodec.report.figures import Curve
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.player import Example, Track
from llmcodec.report.verdict import verdict
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult

from ..speech import speech_like
from .made_up import made_up_row


class Page(HTMLParser):
    """Collects tags, links and unclosed elements."""

    void = {"meta", "img", "br", "link", "path", "use", "rect", "circle", "line"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def make(path: Path, num_examples: int = 2, **options: int) -> str:
    control, ours = made_up_row("Control"), made_up_row("<Ours & co>", bits=270, fail=True)
    wav = speech_like(1.0)
    tracks = [Track("Original", wav, 16_000), Track("<Ours & co>", 0.5 * wav, 16_000)]
    examples = [Example(f"clip {i}", tracks, "What is <said> here?") for i in range(num_examples)]
    curves = [Curve("Learning", "minutes", "bits", {"a": ([0, 1], [9, 8]), "b": ([0, 1], [9, 7])})] * 2
    meta = ReportMeta(
        "A <title>", "Summary", verdict(control, ours), ["llmcodec x > y"], {"torch": "2"}, {"seeds": "0"}, ["n"]
    )
    return write_report(path / "deep" / "report.html", [control, ours], examples, curves, meta, **options).read_text(
        "utf-8"
    )


def test_the_page_is_well_formed_and_makes_no_requests(tmp_path: Path) -> None:
    text = make(tmp_path)
    page = Page(text)
    assert page.open == []
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attrs.get(name) or ""
            assert not value or value.startswith(("data:", "#")), value
    assert "url(http" not in text and "@import" not in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(page.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attrs["content"] or "" for attrs in page.all("meta") if "http-equiv" in attrs)
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'; img-src data:;")
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert not list(tmp_path.rglob(".*"))


def test_words_tables_failures_and_commands_are_there(tmp_path: Path) -> None:
    text = make(tmp_path)
    assert "A &lt;title&gt;" in text and "<title>A &lt;" in text and "<said>" not in text and "<Ours" not in text
    assert "LM bits per second" in text and "real, better" in text
    assert "No utterances detected" in text and "2 × " in text
    assert "llmcodec x &gt; y" in text
    assert "prefers-color-scheme:dark" in text


def test_pictures_have_alternative_texts_and_players_have_names(tmp_path: Path) -> None:
    page = Page(make(tmp_path))
    assert len(page.all("img")) == 4 and len(page.all("audio")) == 4 and len(page.all("svg")) == 3
    assert all("Spectrogram of clip" in (attrs["alt"] or "") for attrs in page.all("img"))
    assert all(attrs["aria-label"] for attrs in [*page.all("audio"), *page.all("svg")])


def test_audio_is_the_audio(tmp_path: Path) -> None:
    source = Page(make(tmp_path)).all("audio")[1]["src"] or ""
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert rate == 16_000
    np.testing.assert_allclose(wav, 0.5 * speech_like(1.0), atol=1 / 32_000)


def test_a_large_page_leaves_examples_out_and_says_so(tmp_path: Path) -> None:
    whole = make(tmp_path, num_examples=5)
    limit = len(whole) // 2
    small = make(tmp_path, num_examples=5, max_bytes=limit)
    assert len(small.encode()) <= limit
    left = re.search(r"(\d) more left out", small)
    assert left is not None and Page(small).all("audio").__len__() == 2 * (5 - int(left[1]))


def test_bad_systems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names"):
        write_report(tmp_path / "r.html", [made_up_row("a"), made_up_row("a")], [], [], ReportMeta("t"))
    with pytest.raises(ValueError, match="none of"):
        write_report(tmp_path / "r.html", [made_up_row("a")], [], [], ReportMeta("t", reference="b"))


def write(path: Path, rows: list[SystemRow], **meta: Any) -> str:
    return write_report(path / "r.html", rows, [], [], ReportMeta("t", **meta)).read_text("utf-8")


def test_the_frontier_needs_two_systems(tmp_path: Path) -> None:
    assert "<svg" not in write(tmp_path, [made_up_row("a")])
    page = write(tmp_path, [made_up_row("a"), made_up_row("<b>", mel=0.8)])
    assert "Lower left is better" in page and "&lt;b&gt;" in page and "<b>" not in page and "<svg role=" in page


def test_salmon_by_task(tmp_path: Path) -> None:
    result = SalmonResult({"rir_consistency": PartScore([PairScore(i, float(i % 4), 0.5, 1, 1) for i in range(100)])})
    rows = [replace(made_up_row("a"), salmon=result), SystemRow("b", 500.0)]
    section = write(tmp_path, rows).partition('<section id="salmon">')[2].partition("</section>")[0]
    assert "rir consistency" in section and "<td>75.0<small>65.7 … 82.5</small></td>" in section
    assert ">a<" in section and ">b<" not in section
    assert "SALMon)" not in write(tmp_path, rows[1:])


def test_runs(tmp_path: Path) -> None:
    page = write(tmp_path, [made_up_row("a")], runs={"a<": {"steps": "160", "commit": "abc"}})
    assert "<h3>a&lt;</h3>" in page and "<dt>steps</dt><dd>160</dd>" in page
    assert "Training runs" not in write(tmp_path, [made_up_row("a")])
