"""Fast attention against the plain module's, with the mask that it builds in full."""

import pytest
import torch

from llmcodec.codec import LLMCodecConfig
from llmcodec.codec.conformer import Attention, attention_over, rotary_tables
from llmcodec.codec.fast.attention import Rotation, attend, paired_rows

WIDTH, HEAD = 48, 16


def both(frames, window, causal, half, scale=1.0, batch=2):
    torch.manual_seed(frames)
    module = Attention(WIDTH, HEAD)
    module.to_out = torch.nn.Identity()
    module.to_qkv.weight.data.mul_(scale)
    x = torch.randn(batch, frames, WIDTH)
    config = LLMCodecConfig(hidden_size=WIDTH, head_dim=HEAD, attention_window=window, causal=causal)
    cos, sin = rotary_tables(frames, HEAD, x, exact=causal)
    with torch.no_grad():
        expected = module(x, cos, sin, attention_over(frames, None, config.attention_reach, x.device))
        weight = module.to_qkv.weight[paired_rows(HEAD, WIDTH, x.device)]
        got = attend(x @ weight.T, Rotation(config), HEAD, config.attention_reach, half)
    return got, expected


@pytest.mark.parametrize("frames", [1, 2, 5, 31, 64, 200, 500])
@pytest.mark.parametrize(("window", "causal"), [(None, False), (3, False), (32, False), (500, False), (4, True)])
def test_equals_the_plain_attention(frames, window, causal):
    got, expected = both(frames, window, causal, half=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("scale", [1.0, 8.0])  # 8: scores too large for the softmax without a maximum
def test_half_precision_is_near(scale):
    got, expected = both(700, None, False, half=True, scale=scale)
    assert (got.float() - expected).norm() / expected.norm() < (0.01 if scale == 1 else 0.05)
    assert bool(torch.isfinite(got).all())


def test_a_window_never_makes_all_pairs():
    frames, batch = 20_000, 1  # all pairs would be 3 heads x 1.6 GB
    x = torch.randn(batch, frames, 3 * WIDTH)
    config = LLMCodecConfig(hidden_size=WIDTH, head_dim=HEAD, attention_window=8)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor))
            return out

    with torch.no_grad(), Watch():
        attend(x, Rotation(config), HEAD, (8, 8), False)
    assert sizes and max(sizes) < 20 * frames * WIDTH
