"""A recording as tokens, and what a notebook shows of it: players and a strip, in one piece of HTML without requests.

Colours are readable on light and dark pages; text has the page's own. Shapes: Q codebooks, T frames, S samples.
Test: tests/codec/test_listening.py.
"""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass
from html import escape

import numpy as np

from llmcodec.io.audio_writer import write

SHOWN_SECONDS = 60.0  # of sound and tokens: a notebook keeps all of it in its file
LISTED_TOKENS = 200
ROW = 18  # height of a codebook's row
GOLDEN_ANGLE = 137.508  # neighbouring codes get hues that are far apart


@dataclass(frozen=True, repr=False, eq=False)
class CodedAudio:
    """A recording as tokens.

    codes: int64 (Q, T). `codec.decode(coded.codes[None])` takes them.
    original: float32 (S,), what was coded, mono at `sample_rate`.
    sample_rate: of the codec, in Hz.
    codebook_size: codes in each codebook.
    audio: float32 (S,) decoded from the codes, or None.
    name: of the recording, for display.
    codebook: digest of the code vectors of the codec of llmcodec that gave the codes; empty for other codecs.
    """

    codes: np.ndarray
    original: np.ndarray
    sample_rate: int
    codebook_size: int
    audio: np.ndarray | None = None
    name: str = "audio"
    codebook: str = ""

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.original) / self.sample_rate

    @property
    def bits_per_second(self) -> float:
        """Nominal bits of all tokens per second of audio."""
        return self.codes.size * math.log2(self.codebook_size) / self.seconds

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the decoded samples; the ending says the format (wav, flac, ogg, opus, mp3).

        Raises:
            ValueError: nothing was decoded, or an ending that cannot be written.
        """
        if self.audio is None:
            raise ValueError(
                f"{path}: nothing was decoded; `codec.reconstruct` does, and `llmcodec encode` saves tokens"
            )
        write(path, self.audio, self.sample_rate)

    def __repr__(self) -> str:
        codebooks, frames = self.codes.shape
        by = f" in {codebooks} codebooks" if codebooks > 1 else ""
        decoded = "" if self.audio is None else ", decoded"
        return f"CodedAudio({self.name}: {self.seconds:.2f} s, {codebooks * frames:,} tokens{by}{decoded})"

    def _repr_html_(self) -> str:
        return coded_audio_html(self)


def coded_audio_html(coded: CodedAudio) -> str:
    """Players of original and decoded sound, the strip, and the first tokens as numbers."""
    shown = min(coded.seconds, SHOWN_SECONDS)
    samples = round(shown * coded.sample_rate)
    frames = max(1, round(coded.codes.shape[1] * shown / coded.seconds))
    cut = f"; the first {shown:g} s are shown" if shown < coded.seconds else ""
    facts = (
        f"{coded.seconds:.2f} s, {coded.codes.size:,} tokens of {coded.codebook_size:,}, "
        f"{coded.bits_per_second:.0f} bit/s{cut}"
    )
    sounds = [("original", coded.original)] + ([] if coded.audio is None else [("decoded", coded.audio)])
    players = "".join(_player(label, wav_S[:samples], coded.sample_rate) for label, wav_S in sounds)
    listed = " ".join(map(str, coded.codes[:, :LISTED_TOKENS].T.reshape(-1)[:LISTED_TOKENS].tolist()))
    more = " ..." if coded.codes.size > LISTED_TOKENS else ""
    return (
        '<div style="max-width:60em;font-family:sans-serif;font-size:14px">'
        f'<div style="margin:4px 0"><b>{escape(coded.name)}</b> <span style="opacity:.75">{facts}</span></div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:4px 16px">{players}</div>'
        f"{token_strip(coded.codes[:, :frames])}"
        '<details style="margin:4px 0"><summary>tokens</summary>'
        f'<code style="overflow-wrap:anywhere">{listed}{more}</code></details></div>'
    )


def token_strip(codes_QT: np.ndarray) -> str:
    """An SVG with a row for each codebook: a colour for each code, its number on hovering; repeats are one block."""
    codebooks, frames = codes_QT.shape
    blocks = []
    for row, codes_T in enumerate(codes_QT.tolist()):
        start = 0
        for end in range(1, frames + 1):
            if end == frames or codes_T[end] != codes_T[start]:
                code = codes_T[start]
                place = f"{start}" if end == start + 1 else f"{start} to {end - 1}"
                hue = code * GOLDEN_ANGLE % 360
                blocks.append(
                    f'<rect x="{start}" y="{row * ROW}" width="{end - start}" height="{ROW - 2}" '
                    f'fill="hsl({hue:.0f},60%,{(45, 55, 65)[code % 3]}%)"><title>frame {place}: {code}</title></rect>'
                )
                start = end
    label = f"{codes_QT.size} tokens, a colour for each code"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {frames} {codebooks * ROW}" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges" style="display:block;width:100%;height:{codebooks * ROW}px;margin:6px 0">'
        f"{''.join(blocks)}</svg>"
    )


def _player(label: str, wav_S: np.ndarray, sample_rate: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(wav_S, -1, 1), sample_rate, format="WAV", subtype="PCM_16")
    sound = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<label style="display:flex;align-items:center;gap:6px">{label} '
        f'<audio controls preload="metadata" aria-label="{label}" style="height:32px" '
        f'src="data:audio/wav;base64,{sound}"></audio></label>'
    )
