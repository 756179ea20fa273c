"""torch_runtime.py: batch == single, streams == whole, exact lengths; the hash knows weights, not precisions."""

from __future__ import annotations

import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.torch_runtime import TorchRuntime, identity_of, weights_sha256

from ..fake_codec import LoudnessCodec
from ..miniature import miniature_codec
from ..pcm import speech_like


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    torch.set_num_threads(1)
    return TorchRuntime(miniature_codec().eval(), "miniature", batch_seconds=2.0, chunk_seconds=1.0)


@given(st.lists(st.integers(1, 12000), min_size=1, max_size=5), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_a_batch_gives_what_every_clip_gives_alone(runtime, lengths, seed):
    wavs = [speech_like(length, seed=seed + i) for i, length in enumerate(lengths)]
    codes = runtime.encode_batch(wavs)
    assert [one.shape for one in codes] == [(1, -(-length // 320)) for length in lengths]
    assert all(one.dtype == np.int64 for one in codes)
    alone = [runtime.encode_batch([wav])[0] for wav in wavs]
    equal = sum(int((a == b).sum()) for a, b in zip(codes, alone, strict=True))
    assert equal >= 0.99 * sum(one.size for one in codes)  # rounding may decide a tie of two codes
    again = runtime.decode_batch(alone, lengths)
    for wav, one, length in zip(again, alone, lengths, strict=True):
        assert wav.shape == (length,) and wav.dtype == np.float32
        np.testing.assert_allclose(wav, runtime.decode_batch([one], [length])[0], atol=1e-4)
        direct = runtime.codec.decode(torch.from_numpy(one)[None]).audio_values[0, 0].numpy()
        np.testing.assert_allclose(wav, direct[:length], atol=1e-4)


def test_an_error_names_the_clip_by_its_place_in_what_was_given(runtime, monkeypatch):
    plain = runtime.codec.encode_latents

    def broken(wav_BS, *rest):
        encoding = plain(wav_BS, *rest)
        encoding.query_BTC[wav_BS.abs().amax(1) > 5] = torch.nan
        return encoding

    monkeypatch.setattr(runtime.codec, "encode_latents", broken)
    wavs = [speech_like(320 * (i + 1), seed=i) for i in range(4)]
    wavs[1][7] = 9.0
    with pytest.raises(ValueError, match="^encode: clip 1 has 2 frames that cannot be compared") as error:
        runtime.encode_batch(wavs)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_streams_give_what_the_whole_gives(runtime):
    wav = speech_like(70_001)
    whole = runtime.encode_batch([wav])[0]
    pieces = list(runtime.encode_stream(np.array_split(wav, 13)))
    assert len(pieces) > 1
    codes = np.concatenate(pieces, axis=1)
    assert codes.shape == whole.shape and (codes == whole).mean() > 0.99
    blocks = list(runtime.decode_stream(np.array_split(whole, 7, axis=1), len(wav)))
    np.testing.assert_allclose(np.concatenate(blocks), runtime.decode_batch([whole], [len(wav)])[0], atol=1e-3)
    early = list(runtime.decode_stream(np.array_split(whole, 7, axis=1), len(wav), chunk_seconds=0.1))
    np.testing.assert_allclose(np.concatenate(early), np.concatenate(blocks), atol=1e-3)
    assert len(next(runtime.decode_stream(np.split(whole, whole.shape[1], axis=1), chunk_seconds=0.1))) == 1600
    assert torch.is_inference_mode_enabled() is False


def test_integer_samples_give_the_codes_of_their_floats(runtime):
    wav = (speech_like(3000) * 32768).round().astype(np.int16)
    expected = runtime.encode_batch([wav / np.float32(32768)])[0]
    for clip in (wav, wav.astype(np.int32) << 16, (wav / 32768).tolist()):
        assert np.array_equal(runtime.encode_batch([clip])[0], expected)
    assert np.array_equal(np.concatenate(list(runtime.encode_stream([wav])), axis=1), expected)
    bad = wav / np.float32(32768)
    bad[7] = np.nan
    for call in (runtime.encode_batch, runtime.encode_features):
        with pytest.raises(ValueError, match="encode: clip 1: sample 7 is NaN or infinite"):
            call([wav, bad])
        with pytest.raises(ValueError, match="encode: clip 0: samples must be floats .* got int64"):
            call([wav.astype(np.int64)])


def test_lengths_without_wish_are_whole_frames_and_wishes_must_be_covered(runtime):
    codes = np.zeros((1, 5), np.int64)
    assert len(runtime.decode_batch([codes])[0]) == 1600
    assert len(runtime.decode_batch([codes], [1599])[0]) == 1599
    for length in (0, 1601, 1700, 1921, 10**12):
        with pytest.raises(ValueError, match="5 frames of 320 samples cannot give"):
            runtime.decode_batch([codes], [length])
    for bad, said in (
        (np.full((1, 5), 64), "code 64"),
        (np.zeros((2, 5), int), "codebooks"),
        (codes[:, :0], "no tokens"),
        (codes.astype(np.float32), "must be integers, got float32"),
    ):
        with pytest.raises(ValueError, match=said):
            runtime.decode_batch([bad])
        with pytest.raises(ValueError, match=said):
            list(runtime.decode_stream([bad]))
    with pytest.raises(ValueError, match="at least one sample"):
        runtime.encode_batch([np.zeros(5, np.float32), np.zeros(0, np.float32)])


def test_the_hash_knows_the_weights_and_nothing_else(runtime):
    codec = miniature_codec()
    assert isinstance(runtime, Runtime)
    half = miniature_codec().half()
    assert weights_sha256(half) == weights_sha256(miniature_codec().half().float()) != weights_sha256(codec)
    assert (
        weights_sha256(codec)
        == identity_of(runtime.codec, "other").weights_sha256
        != weights_sha256(miniature_codec(1))
    )
    assert identity_of(codec, "a").num_codebooks == 1 and identity_of(codec, "a").codebook_size == 64


def test_an_adapter_that_holds_a_module_is_hashed_by_it(runtime):
    codec = miniature_codec()
    first, other = (SimpleNamespace(model=one, quiet=True) for one in (codec, miniature_codec(1)))
    assert weights_sha256(first) != weights_sha256(other)


class FramesWithoutMask:
    """A codec that returns no mask and one code more than there are frames, as some do."""

    sample_rate, hop_samples, frame_rate, num_codebooks, codebook_size = 16000, 100, 160.0, 2, 16

    def encode(self, input_values, padding_mask=None):
        frames = input_values.shape[-1] // 100 + 1
        return SimpleNamespace(
            audio_codes=torch.ones(len(input_values), 2, frames, dtype=torch.int32), audio_codes_mask=None
        )

    def decode(self, audio_codes, padding_mask=None, *, length=None):
        return SimpleNamespace(audio_values=torch.zeros(len(audio_codes), 1, length))


def test_a_codec_without_masks_gets_the_frames_that_cover_each_clip():
    runtime = TorchRuntime(FramesWithoutMask(), "odd")
    codes = runtime.encode_batch([np.zeros(n, np.float32) for n in (1, 100, 101, 250)])
    assert [one.shape[1] for one in codes] == [1, 1, 2, 3]
    assert [len(wav) for wav in runtime.decode_batch(codes, [1, 100, 101, 250])] == [1, 100, 101, 250]


def test_the_packed_codec_codes_batches_side_by_side_with_the_same_result():
    packed = TorchRuntime(optimize_for_inference(miniature_codec().eval(), "fp32"), "miniature", batch_seconds=20.0)
    wavs = [speech_like(8000 + 3000 * i, seed=i) for i in range(24)]  # 40 s, lengths from 0.5 to 4.8 s
    made, seen = [], set()
    encode = packed.codec.encode

    def watched(*arguments):
        seen.add(threading.current_thread().name.partition("_")[0])
        return encode(*arguments)

    packed.codec.encode = watched
    for threads in (1, 3):
        torch.set_num_threads(threads)
        codes = packed.encode_batch(wavs)
        made.append((codes, packed.decode_batch(codes if threads == 1 else made[0][0], [len(wav) for wav in wavs])))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert seen == {"MainThread", "coding"}
    same = [float((a == b).mean()) for a, b in zip(made[0][0], made[1][0], strict=True)]
    assert min(same) > 0.95 and np.mean(same) > 0.99  # other batches, other rounding
    for a, b in zip(made[0][1], made[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_codecs_without_weights_are_told_apart() -> None:
    class Other(LoudnessCodec):
        hop_samples = 160

    plain, other = LoudnessCodec(), Other()
    assert weights_sha256(plain) == weights_sha256(LoudnessCodec()) != weights_sha256(other)
