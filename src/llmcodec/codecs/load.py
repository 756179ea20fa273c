"""Codecs by name or path, as everything that measures or codes takes them.

    codec = load_codec("bundled")            # the codec in the package
    codec = load_codec("runs/rate/codec")    # a folder that `save_pretrained` wrote
    codec = load_codec("facebook/encodec_24khz")   # a hub id

Test: tests/unit/codecs/test_load.py.
"""

from __future__ import annotations

from ..assets import codec_folder
from ..codec import LLMCodec
from .protocol import Codec

BUNDLED = "bundled"


def load_codec(name: str, device: str = "cpu") -> Codec:
    """The codec called `name`: `bundled`, a folder, or a Hugging Face hub id; in evaluation mode, in float32.

    Raises:
        ValueError: there is no such codec, or it is of a kind that llmcodec cannot drive.
    """
    place = str(codec_folder()) if name == BUNDLED else name
    codec = LLMCodec.from_pretrained(place).eval()
    codec.to(device=device)
    return codec
