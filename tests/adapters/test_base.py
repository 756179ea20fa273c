"""The contract every adapter shares: lengths, masks, batches, checks, features."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapter, CodecAdapterWithFeatures, output_of
from llmcodec.protocol import Codec, HasFeatures

from .tiny_codecs import TINY, noise, tiny_codec


class MeanCodec(CodecAdapterWithFeatures):
    """A frame's code is the mean level of the *whole* clip it is given, so that any padding would change it; the second
    codebook holds the frame's place. Its decoder leaves two samples out, as DAC's does."""

    min_samples = 8

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), sample_rate=1000, hop_samples=4, num_codebooks=2, codebook_size=100)
        self.calls: list[tuple[int, ...]] = []

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        self.calls.append(tuple(wav_BS.shape))
        frames = wav_BS.shape[1] // 4
        level_B = (wav_BS.mean(1) * 100).round().long()
        return torch.stack([level_B[:, None].expand(-1, frames), torch.arange(frames).expand(len(wav_BS), -1)], 1)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return wav_BS.unfold(1, 4, 4)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        self.calls.append(tuple(codes_BQT.shape))
        return codes_BQT[:, 0].float().repeat_interleave(4, -1)[:, :-2] / 100


@pytest.fixture
def codec() -> MeanCodec:
    return MeanCodec()


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    clips = [F.pad(torch.full((n,), 0.1 + 0.05 * i), (0, longest - n), value=9.0) for i, n in enumerate(lengths)]
    return torch.stack(clips)[:, None], torch.stack([torch.arange(longest) < n for n in lengths])


def test_meets_the_protocols(codec):
    assert isinstance(codec, Codec) and isinstance(codec, HasFeatures)
    assert not isinstance(CodecAdapter(nn.Linear(1, 1), 1, 1, 1, 2), HasFeatures)
    assert codec.frame_rate == 250 and codec.bitrate == pytest.approx(250 * 2 * 6.643856)
    assert not codec.training and not codec.model.training
    for name in TINY:
        peer = tiny_codec(name)
        assert isinstance(peer, Codec) and isinstance(peer, HasFeatures), name


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_batch_gives_every_clip_what_it_has_alone(lengths):
    codec = MeanCodec()
    wav, mask = ragged(lengths)
    encoded = codec.encode(wav, mask)
    features = codec.encode_features(wav, mask)
    decoded = codec.decode(encoded.audio_codes, mask).audio_values
    assert decoded.shape == wav.shape
    assert codec.decode(encoded.audio_codes, audio_codes_mask=encoded.audio_codes_mask).audio_values.shape[-1] == (
        encoded.audio_codes.shape[-1] * 4
    )
    for row, n in enumerate(lengths):
        alone = codec.encode(wav[row : row + 1, :, :n])
        frames = -(-n // 4)
        assert alone.audio_codes.shape == (1, 2, frames)
        assert encoded.audio_codes_mask[row, 0].tolist() == [t < frames for t in range(encoded.audio_codes.shape[-1])]
        assert torch.equal(encoded.audio_codes[row, :, :frames], alone.audio_codes[0])
        assert not encoded.audio_codes[row, :, frames:].any() and not features[row, frames:].any()
        assert torch.equal(features[row, :frames], codec.encode_features(wav[row : row + 1, :, :n])[0])
        single = codec.decode(alone.audio_codes, length=n).audio_values
        assert single.shape == (1, 1, n)
        assert torch.equal(decoded[row, :, :n], single[0]) and not decoded[row, :, n:].any()


def test_clips_of_one_padded_length_run_together_others_apart(codec):
    wav, mask = ragged([12, 5, 11, 3])
    codec.encode(wav, mask)
    assert codec.calls == [(2, 12), (2, 8)]


def test_decode_takes_the_mask_of_encode_and_no_other(codec):
    wav, mask = ragged([9, 5])
    wide_wav, wide_mask = (torch.nn.functional.pad(one, (0, 20)) for one in (wav, mask))
    codes = codec.encode(wide_wav, wide_mask).audio_codes
    wide = codec.decode(codes, wide_mask).audio_values
    assert codes.shape[-1] == 3 and wide.shape == wide_wav.shape and not wide[..., 9:].any()
    assert torch.equal(wide[..., :9], codec.decode(codes, mask).audio_values)
    for other in (torch.ones(2, 8), torch.ones(2, 13), torch.ones(2, 1, 3)):
        with pytest.raises(ValueError, match="audio_codes 3; give the mask that encode was given"):
            codec.decode(codes, other)


def test_lengths_and_missing_samples(codec):
    codes = codec.encode(torch.full((1, 1, 12), 0.5)).audio_codes
    assert codec.decode(codes).audio_values[0, 0].tolist() == [0.5] * 10 + [0, 0]
    assert codec.decode(codes, length=9).audio_values.shape[-1] == 9
    with pytest.raises(ValueError, match="3 frames give 12 samples, fewer than length=13"):
        codec.decode(codes, length=13)
    assert codec(torch.full((1, 1, 7), 0.5)).audio_values.shape == (1, 1, 7)


def test_a_model_that_cannot_decode_one_frame_gets_two(codec):
    codec.min_frames = 2
    assert codec.decode(torch.tensor([[[50], [0]]])).audio_values.tolist() == [[[0.5] * 4]]
    assert codec.calls == [(1, 2, 2)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode(torch.zeros(1, 9)), "must be .batch, 1, samples., mono"),
        (lambda c: c.encode(torch.zeros(1, 2, 9)), "mono"),
        (lambda c: c.encode(torch.zeros(1, 1, 0)), "a clip is empty"),
        (lambda c: c.encode(torch.zeros(1, 1, 2), torch.tensor([[0, 1]])), "pad on the right"),
        (lambda c: c.encode_features(torch.zeros(3)), "mono"),
        (lambda c: c.encode(torch.tensor([[[0.0, torch.nan]]])), "clip 0: sample 1 is NaN or infinite"),
        (lambda c: c.encode(torch.zeros(1, 1, 9, dtype=torch.int64)), "must be floats .* got int64"),
        (lambda c: c.decode(torch.zeros(1, 2, 3)), "must be integers"),
        (lambda c: c.decode(torch.zeros(1, 1, 3)), "batch, 2, frames.; got .1, 1, 3."),
        (lambda c: c.decode(torch.zeros(1, 2, 0)), "at least one frame"),
        (lambda c: c.decode(torch.full((1, 2, 3), 100)), r"code 100 is outside \[0, 100\); another codec's tokens"),
        (lambda c: c.decode(torch.full((1, 2, 3), -1)), "code -1 is outside"),
    ],
)
def test_bad_input_says_what_and_where(codec, call, message):
    with pytest.raises(ValueError, match=message):
        call(codec)


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_peer_keeps_lengths_and_batches(name):
    codec = tiny_codec(name)
    hop = codec.hop_samples
    lengths = [1, 3 * hop + 1, 5 * hop, 3 * hop + 1]
    clips = [noise(n, i, codec.sample_rate) for i, n in enumerate(lengths)]
    wav = torch.stack([F.pad(clip, (0, 5 * hop - len(clip)), value=0.7) for clip in clips])[:, None]
    mask = torch.stack([torch.arange(5 * hop) < n for n in lengths])
    encoded = codec.encode(wav, mask)
    decoded = codec.decode(encoded.audio_codes, mask).audio_values if codec.can_decode else torch.zeros(wav.shape)
    features = codec.encode_features(wav, mask)
    assert encoded.audio_codes.shape == (4, codec.num_codebooks, 5) == (4, codec.num_codebooks, features.shape[1])
    assert encoded.audio_codes_mask.sum(-1)[:, 0].tolist() == [1, 4, 5, 4]
    assert torch.isfinite(decoded).all() and decoded.shape == wav.shape
    for row, clip in enumerate(clips):
        alone = codec.encode(clip[None, None])
        frames = alone.audio_codes.shape[-1]
        same = encoded.audio_codes[row, :, :frames] == alone.audio_codes[0]
        assert same.all() if row in (0, 2) else same.float().mean() > 0.9  # rows 1 and 3 ran as one matrix
        if not codec.can_decode:
            continue
        length = codec.decode(encoded.audio_codes[row : row + 1, :, :frames], length=len(clip)).audio_values
        assert length.shape == (1, 1, len(clip))
        torch.testing.assert_close(decoded[row, :, : len(clip)], length[0], rtol=1e-3, atol=1e-4)
        assert not decoded[row, :, len(clip) :].any()


def test_output_of_sees_one_module_and_leaves_no_hook():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    x = torch.randn(4, 2)
    assert torch.equal(output_of(model[0], lambda: model(x)), model[0](x))
    assert not model[0]._forward_hooks
