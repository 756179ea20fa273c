"""One pass over the clips: every measure together reads, encodes and decodes each clip once, and what it alters."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.evaluation import encoded_corpus, wer
from llmcodec.evaluation.consistency import SLICES
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.probe import ProbeConfig
from llmcodec.evaluation.reconstruction import measure_reconstruction
from llmcodec.evaluation.system import Corpus, MeasurementConfig, measure_system
from llmcodec.io import audio
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..fake_codec import LoudnessCodec
from .test_probe import TINY_LM, ShownCodec


class CountingCodec(ShownCodec):
    """Counts clips, not calls: how many go through the encoder, the decoder and to the probe, by their samples."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: Counter[int] = Counter()
        self.batches: list[int] = []
        self.decoded: Counter[int] = Counter()
        self.shown = 0

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        assert padding_mask is not None
        self.encoded.update(padding_mask.sum(-1).tolist())
        self.batches.append(len(input_values))
        return super().encode(input_values, padding_mask)

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
    ) -> SimpleNamespace:
        assert padding_mask is not None
        self.decoded.update(padding_mask.sum(-1).tolist())
        return super().decode(audio_codes, padding_mask, length=length)

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        self.shown += len(input_values)
        level_BT = LoudnessCodec.encode(self, input_values, padding_mask).audio_codes[:, 0].float()
        return torch.stack([level_BT * 1000 + 5, torch.full_like(level_BT, 7.0)], dim=-1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is read, by anybody."""
    counted: Counter[str] = Counter()
    read = audio.read

    def counting(path, *rest, **more):  # type: ignore[no-untyped-def]
        counted[Path(path).name] += 1
        return read(path, *rest, **more)

    monkeypatch.setattr(audio, "read", counting)
    return counted


def samples(clip: Clip) -> int:
    return round(clip.duration * 16_000)


def test_all_measures_together_read_encode_and_decode_every_clip_once(
    clips: list[Clip], reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the quick brown fox jumps"
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: text)
    clips = [replace(clip, text=text, language="en") for clip in clips]
    corpus = Corpus(clips[:2], clips[2:3], clips[3:])
    probe = replace(TINY_LM, audio_seconds=3)
    config = MeasurementConfig(
        TINY_LM,
        reconstruction_clips=1,
        slow_metrics=False,
        consistency_clips=1,
        workers=0,
        asr="fake",
        probe=probe,
        probe_codebook=ProbeConfig(num_codes=12),
    )
    codec = CountingCodec()
    with EncodedCorpus(codec) as encoded:
        row = measure_system("counted", encoded, corpus, config)
        kept = list(encoded.reconstructions(clips[3:]))  # the page of a comparison, after everything
    assert row.words is not None and [word.id for word in row.words] == ["clip-2", "clip-3"]
    assert row.reconstruction is not None and [one.id for one in row.reconstruction.rows] == ["clip-2"]
    assert row.probe is not None and row.consistency is not None and kept[0][1].size == samples(clips[3])
    assert reads == {f"{index}.flac": 1 for index in range(4)}
    slices = Counter({round(16_000 * change.amount): 2 for change in SLICES if change.amount < clips[2].duration})
    assert codec.encoded == Counter(map(samples, clips)) + slices
    assert codec.batches == [2, 1, 1] + [1] * sum(slices.values())  # altered copies alone: a batch may flip a token
    assert codec.decoded == Counter(map(samples, clips[2:])) and codec.shown == 4


def test_reconstructed_clips_need_no_transcript_where_others_have_one(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the quick brown fox jumps"
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: text)
    corpus = Corpus(clips[:2], clips[2:3], [replace(clips[3], text=text)])
    config = MeasurementConfig(TINY_LM, 1, slow_metrics=False, consistency_clips=0, workers=0, asr="fake")
    with EncodedCorpus(CountingCodec()) as encoded:
        row = measure_system("mixed", encoded, corpus, config)
    assert row.reconstruction is not None and [one.id for one in row.reconstruction.rows] == ["clip-2"]
    assert row.words is not None and [word.id for word in row.words] == ["clip-3"]


def test_what_nobody_asks_for_is_not_done(clips: list[Clip], reads: Counter[str]) -> None:
    codec = CountingCodec()
    with EncodedCorpus(codec) as encoded:
        assert not reads
        tokens = encoded.tokens(clips[:2])
        assert [len(codes) for codes in tokens] == [50, 75] and set(reads) == {"0.flac", "1.flac"}
        assert all(a.equal(b) for a, b in zip(encoded.tokens(clips[:2]), tokens, strict=True))
        assert sum(codec.encoded.values()) == 2 and not codec.decoded and not codec.shown
        measure_reconstruction(encoded, clips[1:3], metrics=("sdr",), num_workers=0)
    assert sum(codec.encoded.values()) == 3 and sum(codec.decoded.values()) == 2 and sum(reads.values()) == 3


def test_codes_and_waveforms_are_those_of_single_clips(clips: list[Clip]) -> None:
    runtime = TorchRuntime(LoudnessCodec(context=3), "alone")
    with EncodedCorpus(LoudnessCodec(context=3)) as encoded:
        decoded = dict(encoded.reconstructions(clips))
        for clip, codes_QT in zip(clips, encoded.codes(clips), strict=True):
            wav_S = audio.load(clip.path, 16_000)
            alone = runtime.encode_batch([wav_S])
            assert np.array_equal(codes_QT.numpy(), alone[0])
            assert np.array_equal(decoded[clip], runtime.decode_batch(alone, [wav_S.size])[0])


def test_many_waveforms_lie_in_a_folder_that_goes(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_corpus.tempfile, "tempdir", str(tmp_path))
    with EncodedCorpus(LoudnessCodec()) as held:
        whole = [wav_S for _, wav_S in held.reconstructions(clips)]
        assert not list(tmp_path.glob("llmcodec-*"))
    encoded = EncodedCorpus(LoudnessCodec(), memory_bytes=300_000)
    with pytest.raises(KeyboardInterrupt), encoded:
        for (_, wav_S), wanted_S in zip(encoded.reconstructions(clips), whole, strict=True):
            assert np.array_equal(wav_S, wanted_S)
        assert isinstance(encoded.recording(clips[3])[0], np.memmap)
        assert len(list(tmp_path.glob("llmcodec-*/*.npy"))) >= 4
        raise KeyboardInterrupt
    assert not list(tmp_path.glob("llmcodec-*"))


def test_a_recording_that_cannot_be_read_is_named(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "2.flac").write_bytes(b"no audio")
    with EncodedCorpus(LoudnessCodec()) as encoded, pytest.raises(ValueError, match="2.flac"):
        encoded.tokens(clips)
