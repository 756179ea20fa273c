"""Codes of three bundled clips under the bundled codec and under a random one.

The clips are those whose frames all lie clearly nearer to one code than to the next: in float64 the two best
similarities of any frame differ by more than 4e-4, so that rounding on another machine does not change a code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llmcodec import assets
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.opening import open_runtime
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..miniature import miniature_codec

TOKENS = Path(__file__).parent / "tokens.json"
CLIPS = ("ast_en/from-unknown-caller", "ast_en/vm-reachoper", "ast_it/phonetic_i_p")


def summary(runtime: Runtime) -> dict[str, Any]:
    """Clip -> number of codes, hash of all of them, the first fifty in the clear."""
    clips = {clip.id: clip for clip in read_manifest(assets.speech_manifest())}
    wavs = [audio.load(clips[name].path, runtime.identity.sample_rate) for name in CLIPS]
    found: dict[str, Any] = {}
    for name, codes_QT in zip(CLIPS, runtime.encode_batch(wavs), strict=True):
        codes = codes_QT[0].tolist()
        digest = hashlib.sha256(" ".join(map(str, codes)).encode()).hexdigest()
        found[name] = {"count": len(codes), "sha256": digest, "first": codes[:50]}
    return found


def token_summaries() -> dict[str, Any]:
    """Of the bundled codec in float32 and of tests/miniature.py's."""
    return {
        "bundled": summary(open_runtime("bundled", device="cpu", precision="fp32")),
        "miniature": summary(TorchRuntime(miniature_codec().eval(), "miniature")),
    }
