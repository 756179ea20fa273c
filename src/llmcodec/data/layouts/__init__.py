"""Corpus layouts, one reader a file: where speaker, text and split of each recording stand.

To add one, write a module that defines what `base.Layout` lists and put it into `LAYOUTS`. The first that recognises a
folder reads it, so a layout goes before those that would take its folders too: before `nemo` if its rows have
`audio_filepath`. `llmcodec.data.corpus` walks down the folders and asks. docs/data.md says what each layout expects.
Test: `pytest tests/data/test_layouts.py`.
"""

from llmcodec.data.layouts import (
    audiofolder,
    common_voice,
    kaldi,
    lhotse,
    librispeech,
    ljspeech,
    nemo,
    plain,
    timit,
    vctk,
)
from llmcodec.data.layouts.base import Layout

LAYOUTS: tuple[Layout, ...] = (kaldi, lhotse, nemo, common_voice, vctk, ljspeech, audiofolder, timit, librispeech)
"""In the order in which they are asked; what none recognises is read by `plain`."""

__all__ = ["LAYOUTS", "plain"]
