"""transcode/freshness.py: which results are stale, which are damaged, and which are kept."""

from __future__ import annotations

import os

import pytest

from llmcodec.transcode.freshness import why_stale, why_stale_audio


def test_a_result_is_that_of_its_source_until_the_source_changes(clip):
    source = clip("a.wav", 8000, 16000)
    now = source.stat().st_mtime_ns
    assert why_stale(source, now, 16000, 8000) == ""
    assert why_stale(source, now - 1, 16000, 8000) == f"{source} is newer"
    assert why_stale(source, now, 8000, 8000) == f"{source} has 16000 Hz, it was made of 8000 Hz"
    assert why_stale(source, now, 16000, 7999) == f"{source} has 8000 samples, it was made of 7999"
    assert why_stale(source, now, 0, 0) == "", "nothing is known of it"
    source.write_bytes(b"no audio")
    assert "not an audio file" in why_stale(source, source.stat().st_mtime_ns, 16000, 8000)
    source.unlink()
    assert why_stale(source, 0, 16000, 8000) == "", "audio that is gone makes no tokens stale"


@pytest.mark.filterwarnings("ignore:.*truncated")
def test_a_header_that_claims_too_much_does_not_make_a_result_stale(clip):
    source = clip("a.wav", 8000, 16000)
    source.write_bytes(source.read_bytes()[: 44 + 2 * 5000])
    made = source.stat().st_mtime_ns
    assert why_stale(source, made, 16000, 5000) == ""
    assert why_stale(source, made, 16000, 8000) != ""


@pytest.mark.filterwarnings("ignore:.*truncated")
@pytest.mark.parametrize(("name", "slack"), [("b.wav", 0), ("b.flac", 0), ("b.mp3", 1000)])
def test_decoded_audio_has_the_length_that_it_must_have(clip, name, slack):
    source, target = clip("a.wav"), clip(name, 8000, 16000)
    assert why_stale_audio(source, target, 16000, 8000) == ""
    assert (why_stale_audio(source, target, 16000, 8001) == "") == (slack > 0), "an mp3 may be padded"
    assert "instead of 16000 samples" in why_stale_audio(source, target, 16000, 16000)
    assert "at 16000 Hz instead of" in why_stale_audio(source, target, 8000, 8000)
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    assert why_stale_audio(source, target, 16000, 8000) != ""
    os.utime(source, (2e9, 2e9))
    assert why_stale_audio(source, target, 16000, 8000) == f"{source} is newer"
