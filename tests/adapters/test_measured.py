"""Every measurement works on peers: other sample rates, several codebooks, several token rates in one frame."""

import math

import numpy as np
import pytest
import soundfile

from llmcodec.adapters import random_weights
from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.predictability import LikelihoodConfig
from llmcodec.evaluation.probe import ProbeConfig, measure_probe
from llmcodec.evaluation.system import Corpus, MeasurementConfig, measure_system, nominal_bits_per_second
from llmcodec.lm.small_lm import SmallLMConfig

from .tiny_codecs import TINY, tiny_codec

PEERS = {"encodec": 3, "encodec_chunks": None, "snac": None, "neucodec": None, "xcodec": 2}
LIKELIHOOD = LikelihoodConfig(
    model=SmallLMConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=24, dropout=0.0),
    audio_seconds=4.0,
    batch_seconds=1.0,
    context_seconds=1.0,
    num_evaluations=1,
    bf16=False,
)


@pytest.fixture(autouse=True)
def without_gradients():
    """Not here: token LMs are trained."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """Six recordings at 16 kHz of tones under noise, 0.4 to 0.65 s."""
    folder = tmp_path_factory.mktemp("speech")
    made = []
    for i in range(6):
        rng = np.random.default_rng(i)
        t = np.arange(round(16_000 * (0.4 + 0.05 * i))) / 16_000
        wav = 0.2 * np.sin(2 * np.pi * (150 + 40 * i) * t) * np.abs(np.sin(9 * t)) + 0.02 * rng.standard_normal(t.size)
        soundfile.write(folder / f"clip{i}.wav", wav, 16_000)
        made.append(Clip(f"clip{i}", str(folder / f"clip{i}.wav"), t.size / 16_000))
    return made


@pytest.mark.parametrize("name", PEERS)
def test_reconstruction_predictability_and_consistency(clips, name):
    codec = tiny_codec(name, PEERS[name])
    corpus = Corpus(clips[:3], clips[3:4], clips[4:])
    config = MeasurementConfig(LIKELIHOOD, slow_metrics=name == "neucodec", workers=0, consistency_clips=2)
    with EncodedCorpus(codec) as encoded:
        row = measure_system(name, encoded, corpus, config)
    for clip, measured in zip(corpus.held_out, row.reconstruction.rows, strict=True):
        assert measured.id == clip.id and measured.seconds == pytest.approx(clip.duration, abs=1 / 8000)
        frames = -(-round(measured.seconds * codec.sample_rate) // codec.hop_samples)
        assert len(measured.codes) == frames * codec.num_codebooks
    assert np.isfinite(row.reconstruction.values("mel")).all() and len(row.reconstruction.values("mel")) == 3
    assert row.predictability.token_rate == pytest.approx(codec.frame_rate * codec.num_codebooks)
    assert row.predictability.vocabulary == codec.num_codebooks * codec.codebook_size
    uniform = row.predictability.token_rate * math.log2(row.predictability.vocabulary)
    assert 0 < row.predictability.bits_per_second < 1.2 * uniform  # three steps of training
    assert row.nominal_bits_per_second == nominal_bits_per_second(codec) == codec.bitrate
    assert row.consistency is not None and 0 <= row.consistency.share().value <= 1


def test_the_matched_probe_reads_features_of_peers(clips):
    for name in ("snac", "neucodec"):
        with EncodedCorpus(tiny_codec(name)) as encoded:
            codebook = ProbeConfig(num_codes=8, rounds=2)
            result = measure_probe(encoded, clips[:3], clips[3:4], clips[4:], LIKELIHOOD, codebook)
        assert 0 <= result.predictability.accuracy <= 1


def test_reconstruct_from_the_command_line_by_name_and_number_of_codebooks(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(random_weights, "PRESETS", {"tiny": TINY["encodec"]})
    files = [clip.audio for clip in clips[:2]]
    done = main(["reconstruct", *files, "--codec", "random:tiny:2", "--output", f"{tmp_path}/out/"])
    assert done == 0, capsys.readouterr().err
    for clip in clips[:2]:
        info = soundfile.info(tmp_path / "out" / f"{clip.id}.wav")
        assert info.frames / info.samplerate == pytest.approx(clip.duration, abs=1e-4)
    assert main(["reconstruct", *files, "--codec", "random:tiny:9", "--output", f"{tmp_path}/more/"]) == 1
    assert "EnCodec here has 1 to 4 codebooks: 9 cannot be used" in capsys.readouterr().err
