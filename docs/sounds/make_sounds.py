"""The sounds of docs/listen.md: held-out recordings of the package, and what codecs make of them.

python docs/sounds/make_sounds.py       # writes NAME_CODEC.mp3 beside this file; a minute
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import llmcodec
from llmcodec import assets
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

FOLDER = Path(__file__).parent
CLIPS = {
    "english": "ast_en/vm-mismatch",
    "french": "ast_fr/followme_sorry",
    "spanish": "ast_es/transfer",
}
CODECS = {
    "bundled": "bundled",
    "search": "search:bundled?effort=fast,lm",
    "causal": "causal_base",
    "opus": "opus:6",
}
RATE = 16_000
QUIET_DB = -40.0


def main() -> None:
    clips = {clip.id: clip for clip in read_manifest(assets.speech_manifest("test"))}
    sounds = {name: audio.load(clips[place].path, RATE) for name, place in CLIPS.items()}
    first, pause = sounds["english"], np.zeros(RATE, np.float32)
    half = len(first) // 2
    sounds["quiet"] = first * np.float32(10 ** (QUIET_DB / 20))
    sounds["pause"] = np.concatenate([first[:half], pause, first[half:]])
    codecs: dict[str, Any] = {name: llmcodec.load(codec) for name, codec in CODECS.items()}
    for name, sound_S in sounds.items():
        louder = 10 ** (-QUIET_DB / 20) if name == "quiet" else 1.0  # else nobody would hear it
        audio.write(FOLDER / f"{name}_recording.mp3", sound_S * np.float32(louder), RATE)
        for title, codec in codecs.items():
            if name in ("quiet", "pause") and title != "bundled":
                continue
            heard_S = codec.code_waveform(sound_S)[0] if title == "opus" else codec.reconstruct(sound_S, RATE).audio
            audio.write(FOLDER / f"{name}_{title}.mp3", heard_S * np.float32(louder), RATE)


if __name__ == "__main__":
    main()
