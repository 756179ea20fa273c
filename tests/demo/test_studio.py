"""What the demo plays is what the codecs give, and a token that is changed is the only one that changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.demo.studio import NEAREST, NO_LM, SEARCHED, Studio
from llmcodec.runtime.opening import open_runtime

from ..lm.small_token_lm import token_lm
from ..speech import speech_like


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open(["dac=random:dac_16khz:2"])


def test_versions_are_those_of_the_codecs(studio: Studio) -> None:
    assert studio.names == [NEAREST, SEARCHED, "dac"]
    wav_S = speech_like(1.0)
    nearest, searched, dac = (studio.take(wav_S, 16_000, name) for name in studio.names)
    codec = load_codec("bundled")
    np.testing.assert_array_equal(nearest.codes_QT, open_runtime("bundled", device="cpu").encode_batch([wav_S])[0])
    assert searched.codes_QT.shape == nearest.codes_QT.shape and (searched.codes_QT != nearest.codes_QT).any()
    assert len(nearest.wav_S) == len(dac.wav_S) == len(wav_S) and dac.codes_QT.shape[0] == 2
    tokens = nearest.track().tokens
    assert tokens is not None and tokens.frame_rate == codec.frame_rate
    assert 100 < tokens.bits_per_second < 2 * 600, "the small LM knows the bundled codec's tokens"
    assert searched.track().tokens is not None and dac.track().tokens is None


def test_one_token_is_changed(studio: Studio) -> None:
    take = studio.take(speech_like(2.0), 16_000, NEAREST)
    other = studio.change(take, 50, 0, (int(take.codes_QT[0, 50]) + 1) % 8192)
    assert np.argwhere(take.codes_QT != other.codes_QT).tolist() == [[0, 50]] and other.name == "edited"
    differs = np.flatnonzero(np.abs(take.wav_S - other.wav_S) > 1e-4)
    assert differs.size and differs[0] > 320 * (50 - 64) and differs[-1] < 320 * (50 + 64)
    assert len(other.wav_S) == 32_000
    for place, message in (
        ((100, 0, 1), "no frame 100: nearest codes has 0 to 99"),
        ((-1, 0, 1), "no frame -1"),
        ((0, 1, 1), "no codebook 1: nearest codes has 0 to 0"),
        ((0, 0, 8192), "no code 8192"),
    ):
        with pytest.raises(ValueError, match=message):
            studio.change(take, *place)


def test_longer_recordings_are_refused_and_a_minute_is_not(studio: Studio, tmp_path: Path) -> None:
    for seconds in (60, 60.1):
        sf.write(tmp_path / f"{seconds}.wav", np.zeros(round(8_000 * seconds), dtype=np.float32), 8_000)
    assert len(studio.read(str(tmp_path / "60.wav"))[0]) == 480_000
    with pytest.raises(ValueError, match="longer than the 60 s"):
        studio.read(str(tmp_path / "60.1.wav"))


def test_the_token_lm_goes_on_from_what_was_said(studio: Studio) -> None:
    take = studio.take(speech_like(1.0), 16_000, NEAREST)
    with pytest.raises(ValueError, match="needs a token LM"):
        studio.go_on(take, 1.0)
    assert "--lm FOLDER" in NO_LM
    speaks = token_lm(codec=take.version.runtime.identity)
    with_lm = Studio(studio.versions, speaks, NEAREST)
    longer = with_lm.go_on(take, 0.5, seed=3)
    assert np.array_equal(longer.codes_QT[:, :50], take.codes_QT) and 50 < longer.codes_QT.shape[1] <= 75
    assert np.array_equal(with_lm.go_on(take, 0.5, seed=3).codes_QT, longer.codes_QT)
    assert len(longer.wav_S) == 320 * longer.codes_QT.shape[1]
    with pytest.raises(ValueError, match="too few for 60 s"):
        Studio(studio.versions, token_lm("gpt2", codec=take.version.runtime.identity), NEAREST).go_on(take, 60.0)
    with pytest.raises(ValueError, match="this LM"):
        with_lm.go_on(studio.take(speech_like(1.0), 16_000, "dac"), 0.5)


def test_surprisal_is_the_lms(studio: Studio) -> None:
    take = studio.take(speech_like(1.0), 16_000, NEAREST)
    scorer, tokens = take.version.scorer, take.track().tokens
    assert scorer is not None and tokens is not None
    (scores,) = scorer.token_log_likelihoods([torch.from_numpy(take.codes_QT[0])])
    np.testing.assert_allclose(tokens.bits_QT[0], -scores.numpy() / math.log(2))


def test_bad_codecs_are_named() -> None:
    with pytest.raises(ValueError, match="--codec search: the demo has a version of this name"):
        Studio.open(["search=bundled"])
    with pytest.raises(ValueError, match="no codec"):
        Studio.open(["no/such/codec/at/all"])
