"""Corpus layouts, one reader a file: where speaker, text and split of each recording stand.

A reader is a function `read(folder, report) -> Iterator[Utterance]` with a function `recognises(folder)` beside it; the
first of `LAYOUTS` that recognises a folder reads all that is below it (`llmcodec.data.corpus` walks down and asks). To
add a layout, write such a module and put it into `LAYOUTS`. docs/how-to/data.md says what each one expects.
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

LAYOUTS = (kaldi, lhotse, nemo, common_voice, vctk, ljspeech, audiofolder, timit, librispeech)
"""In the order in which they are asked; what none recognises is read by `plain`."""

__all__ = ["LAYOUTS", "plain"]
