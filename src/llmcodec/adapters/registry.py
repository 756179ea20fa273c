"""The families of codecs that llmcodec can drive. A new one is a new file and one line here; see `llmcodec.adapters`.

Test: tests/adapters/test_load.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmcodec.adapters import (
    auv,
    bigcodec,
    dac,
    encodec,
    mimi,
    s3tokenizer,
    snac,
    soundstream,
    speechtokenizer,
    wavtokenizer,
    xcodec,
    xcodec2,
)
from llmcodec.adapters.adaptable import AdaptableAdapter
from llmcodec.adapters.family import CodecFamily
from llmcodec.adapters.features import units

FAMILIES: Mapping[str, CodecFamily] = {
    "encodec": encodec.FAMILY,
    "dac": dac.FAMILY,
    "mimi": mimi.FAMILY,
    "snac": snac.FAMILY,
    "xcodec": xcodec.FAMILY,
    "xcodec2": xcodec2.FAMILY,
    "neucodec": xcodec2.NEUCODEC,
    "bigcodec": bigcodec.FAMILY,
    "auv": auv.FAMILY,
    "wavtokenizer": wavtokenizer.FAMILY,
    "unicodec": wavtokenizer.UNICODEC,
    "speechtokenizer": speechtokenizer.FAMILY,
    "soundstream": soundstream.FAMILY,
    "s3tokenizer": s3tokenizer.FAMILY,
    units.MODEL_TYPE: units.FAMILY,
}
"""By the `model_type` of config.json, or a name of ours where there is none."""
WEIGHTLESS = {name: family for name, family in FAMILIES.items() if family.load is None}
"""Codecs without weights: `--codec NAME` is enough."""


def family_of(config: Mapping[str, Any]) -> str | None:
    """The key in `FAMILIES` that a config.json describes, or None."""
    model_type = config.get("model_type")
    if model_type is not None:
        return model_type if model_type in FAMILIES else None
    marked = (name for name, family in FAMILIES.items() if family.marks and config.keys() >= {*family.marks})
    return next(marked, None)


def adaptable() -> str:
    """What besides our own codecs can be trained, for messages."""
    names = [
        family.title
        for family in FAMILIES.values()
        if isinstance(family.adapter, type) and issubclass(family.adapter, AdaptableAdapter)
    ]
    return ", ".join(names)


def supported() -> str:
    """What can be loaded, for messages."""
    ours = ["LLMCodec", *(family.title for family in FAMILIES.values() if not family.install)]
    others = [f"{family.title}: {family.install}" for family in FAMILIES.values() if family.install]
    return "; ".join([f"{', '.join(ours)} (these come with llmcodec)", *others])
