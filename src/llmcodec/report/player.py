"""One recording in several versions: played in step with A/B switching, with spectrograms and tokens under them.

`player.html.jinja` is the markup, `player.css` and `player.js` its looks and behaviour; the report and the demo share
them. Without JavaScript the versions stand side by side with the browser's own players. Sounds and pictures are
embedded. Shapes: S samples, Q codebooks, T frames. Test: tests/report/test_player.py.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmcodec.io.digests import digest
from llmcodec.report.figures import spectrogram_png, strip_png

MOST_BITS = 14
"""Surprisal at the bright end of the strips' scale, the same for all, so that strips can be compared."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of one recording, and how much each surprised a language model."""

    codes_QT: np.ndarray
    bits_QT: np.ndarray
    """Surprisal, -log2 of the model's probability."""
    frame_rate: float

    def __post_init__(self) -> None:
        if self.codes_QT.shape != self.bits_QT.shape or self.codes_QT.ndim != 2:
            raise ValueError(f"codes {self.codes_QT.shape} and surprisals {self.bits_QT.shape}: both must be (Q, T)")

    @property
    def bits_per_second(self) -> float:
        """Mean bitrate of the recording under the model."""
        return float(self.bits_QT.sum() * self.frame_rate / self.bits_QT.shape[1])


@dataclass(frozen=True)
class Track:
    """One version of a recording."""

    name: str
    wav_S: np.ndarray
    """Mono float samples in [-1, 1]."""
    sample_rate: int
    tokens: Tokens | None = None
    """What the version was decoded from; None for an original, or where no language model was at hand."""


@dataclass(frozen=True)
class Example:
    """One recording in several versions, heard and seen in the same place."""

    title: str
    tracks: Sequence[Track]
    text: str = ""


@cache
def environment() -> Environment:
    """The templates of this package; values are escaped."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.tests["finite"] = math.isfinite
    return found


@cache
def part(name: str) -> Markup:
    """Text of a file of this package (`player.css`, `player.js`), which goes into a page as it is."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def player_html(example: Example) -> Markup:
    """The player of one recording; the page around it needs `player.css` and, after the player, `player.js`."""
    macro = environment().get_template("player.html.jinja").module.player  # type: ignore[attr-defined]
    return Markup(macro(embed(example)))


def embed(example: Example) -> dict[str, Any]:
    """What the template needs of an example: sounds and pictures as data URIs."""
    # One axis for all, up to what the versions have: an original of 44.1 kHz would be black but for the lowest part.
    top_hz = max(track.sample_rate for track in example.tracks[1:] or example.tracks) / 2
    tracks = [_embed(track, top_hz) for track in example.tracks]
    heights = [track["strip"]["height"] for track in tracks if track["strip"] is not None]
    made = digest("".join(f"{track['name']}{track['sound']}" for track in tracks))
    shown = {"title": example.title, "text": example.text, "tracks": tracks, "made": made}
    return shown | {"strip_height": max(heights, default=0)}


def _embed(track: Track, top_hz: float) -> dict[str, Any]:
    import soundfile

    flac = io.BytesIO()
    soundfile.write(flac, np.clip(track.wav_S, -1, 1), track.sample_rate, format="FLAC", subtype="PCM_16")
    return {
        "name": track.name,
        "seconds": f"{track.wav_S.size / track.sample_rate:.1f}",
        "khz": f"{top_hz / 1000:g}",
        "picture": _uri("image/png", spectrogram_png(track.wav_S, track.sample_rate, top_hz=top_hz)),
        "sound": _uri("audio/flac", flac.getvalue()),
        "strip": None if track.tokens is None else _strip(track.tokens, track.wav_S.size / track.sample_rate),
    }


def _strip(tokens: Tokens, seconds: float) -> dict[str, Any]:
    """The strip as a picture of one pixel a token, and what is told of the token under the pointer."""
    num_codebooks, num_frames = tokens.codes_QT.shape
    told = {
        "rate": tokens.frame_rate,
        "codes": tokens.codes_QT.tolist(),
        "bits": [[round(float(bits), 1) for bits in row] for row in tokens.bits_QT],
    }
    return {
        "picture": _uri("image/png", strip_png(tokens.bits_QT, MOST_BITS)),
        "width": f"{100 * num_frames / tokens.frame_rate / seconds:.3f}",
        "bits_per_second": f"{tokens.bits_per_second:,.0f}",
        "mean": f"{float(tokens.bits_QT.mean()):.1f}",
        "height": max(1.1, round(0.35 * num_codebooks, 2)),
        "told": json.dumps(told, separators=(",", ":")),
    }


def _uri(kind: str, data: bytes) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode()}")
