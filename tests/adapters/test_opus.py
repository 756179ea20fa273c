"""Opus through soundfile: bytes as sent, sound of the input's length, rows without token figures."""

import io

import numpy as np
import pytest
import soundfile as sf

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.opus import KBITS, OpusCodec, packet_bytes
from llmcodec.data.manifest import read_manifest
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.reconstruction import measure_reconstruction
from llmcodec.evaluation.system import reconstruction_row
from llmcodec.protocol import WaveformCodec


@pytest.fixture(scope="module")
def clips():
    return read_manifest(assets.speech_manifest(), ["test"])[:2]


def test_more_bits_sound_better_and_are_what_was_asked_for(clips):
    wav_S = np.concatenate([clip.load(16_000) for clip in clips])
    errors = []
    for kbits in KBITS:
        again_S, packets = OpusCodec(kbits).code_waveform(wav_S)
        assert again_S.shape == wav_S.shape and again_S.dtype == np.float32
        assert 8 * len(packets) / (len(wav_S) / 16_000) == pytest.approx(1000 * kbits, rel=0.2)
        errors.append(np.square(again_S - wav_S).sum() / np.square(wav_S).sum())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.6


@pytest.mark.parametrize("num_samples", [1, 100, 321])
def test_any_length_is_kept(num_samples):
    again_S, packets = OpusCodec(9).code_waveform(0.1 * np.ones(num_samples, np.float32))
    assert again_S.shape == (num_samples,) and np.isfinite(again_S).all() and packets


def test_packets_are_the_file_without_pages_and_headers():
    file = io.BytesIO()
    sf.write(file, np.zeros(16_000, np.float32), 16_000, format="OGG", subtype="OPUS")
    whole = file.getvalue()
    pages = whole.split(b"OggS")[1:]
    expected = b"".join(page[23 + page[22] :] for page in pages[2:])
    assert packet_bytes(whole) == expected and b"OpusHead" in whole and b"OpusHead" not in expected
    with pytest.raises(ValueError, match="no Ogg file"):
        packet_bytes(b"RIFF" + whole)


def test_a_row_has_the_bits_that_were_sent_and_no_token_figures(clips):
    codec = load_codec("opus:6")
    assert isinstance(codec, WaveformCodec) and not isinstance(load_codec("bundled"), WaveformCodec)
    with EncodedCorpus(codec) as encoded:
        result = measure_reconstruction(encoded, clips, metrics=("mel",), num_workers=0)
        row = reconstruction_row("opus:6", encoded, result)
        seconds = sum(clip.duration for clip in clips)
        sent = sum(len(codec.code_waveform(encoded.wav(clip))[1]) for clip in clips)
    assert row.nominal_bits_per_second == pytest.approx(8 * sent / seconds, rel=1e-3)
    assert row.codes is None and row.predictability is None and not row.more
    assert 0 < row.cells()["mel"].value < 3


@pytest.mark.parametrize("name", ["opus:5", "opus:900"])
def test_bitrates_that_it_does_not_have(name):
    with pytest.raises(ValueError, match=f"codec {name}: Opus here has 6 to 256 kbit/s"):
        load_codec(name)


def test_it_has_one_codebook():
    assert load_codec("opus:6", num_codebooks=1).kbits == 6
    with pytest.raises(ValueError, match="^Opus here has 1 codebooks: 4 cannot be used"):
        load_codec("opus:6", num_codebooks=4)


def test_asked_for_tokens_it_says_in_one_line_what_it_is_for():
    import torch

    for run in (lambda: load_codec("opus:9").encode(torch.zeros(1, 1, 9)), lambda: load_codec("opus:9").decode(None)):
        with pytest.raises(ValueError, match="^codec opus:9: Opus has packets and no tokens; `evaluate recon"):
            run()
