"""The bundled codec and a random one give the codes they gave; make_losses.py records them."""

from __future__ import annotations

import json

from .tokens import TOKENS, token_summaries


def test_bundled_clips_have_the_codes_they_had():
    recorded = json.loads(TOKENS.read_text(encoding="utf-8"))
    found = token_summaries()
    for codec, clips in recorded.items():
        for clip, facts in clips.items():
            assert found[codec][clip] == facts, f"{codec}: {clip}"
    assert set(found) == set(recorded)
