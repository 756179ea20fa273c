"""Windowed attention in blocks against one full mask: values, gradients, padding; memory of long clips."""

import math

import pytest
import torch
import torch.nn.functional as F

from llmcodec.codec import LLMCodec, LLMCodecConfig, conformer
from llmcodec.codec.conformer import attention_mask, attention_over
from llmcodec.codec.windowed_attention import windowed_attention


@pytest.mark.parametrize(("window", "causal"), [(1, False), (3, False), (40, False), (4, True), (50, True)])
@pytest.mark.parametrize("lengths", [None, [1, 130, 97]])
def test_equals_the_full_mask_with_gradients(window, causal, lengths):
    torch.manual_seed(0)
    frames = 130
    real_BT = None if lengths is None else torch.arange(frames) < torch.tensor(lengths)[:, None]
    inputs = torch.randn(3, 3, 2, frames, 8, dtype=torch.float64)  # queries, keys, values
    grad = torch.randn(3, 2, frames, 8, dtype=torch.float64)
    reach = (window, 0 if causal else window)
    allowed = attention_mask(frames, real_BT, reach, inputs.device)
    results = []
    for attend in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=allowed),
        lambda q, k, v: windowed_attention(q / math.sqrt(8), k, v, *reach, real_BT),
    ):
        leaf = inputs.clone().requires_grad_()
        mixed = attend(*leaf)
        mixed.backward(grad)
        results.append((mixed.detach(), leaf.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_long_clip_is_coded_as_with_the_mask(monkeypatch):
    torch.manual_seed(0)
    config = LLMCodecConfig(
        hidden_size=32, encoder_layers=2, decoder_layers=2, head_dim=16, codebook_size=64, attention_window=5
    )
    codec = LLMCodec(config).double().eval()
    wav = torch.randn(2, 1, 320 * 70, dtype=torch.float64)
    mask = torch.arange(wav.shape[-1]) < torch.tensor([wav.shape[-1], 320 * 41 + 7])[:, None]
    results = []
    for masked_frames in (384, 50):
        monkeypatch.setattr(conformer, "MASKED_FRAMES", masked_frames)
        codes = codec.encode(wav, mask).audio_codes
        results.append((codes, codec.decode(codes, mask).audio_values))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)


def test_short_clips_keep_the_mask_and_long_ones_never_make_all_pairs(monkeypatch):
    built = []
    monkeypatch.setattr(conformer, "attention_mask", lambda frames, *_: built.append(frames))
    for frames, reach in ((384, (32, 32)), (200_000, (32, 32)), (2000, None)):
        attention_over(frames, None, reach, torch.device("cpu"))
    assert built == [384, 2000]
