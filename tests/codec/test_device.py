"""The codec on the best device here, a GPU where there is one: the codes and samples of the CPU."""

import pytest
import torch

from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("packed", [False, True])
def test_a_device_gives_the_codes_of_the_cpu(packed):
    codec = LLMCodec.from_pretrained("bundled").eval()
    wav = 0.1 * torch.randn(2, 1, 16_000, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(16_000) < torch.tensor([[16_000], [9_000]])
    expected = codec.encode(wav, mask)
    heard = codec.decode(expected.audio_codes, mask).audio_values
    codec = codec.to(DEVICE)
    ours = optimize_for_inference(codec, "fp32") if packed else codec
    got = ours.encode(wav.to(DEVICE), mask.to(DEVICE))
    assert torch.equal(got.audio_codes_mask.cpu(), expected.audio_codes_mask)
    # Sums in another order: a code may change where two are equally near.
    assert (got.audio_codes.cpu() == expected.audio_codes).float().mean() > 0.98
    decoded = ours.decode(expected.audio_codes.to(DEVICE), mask.to(DEVICE)).audio_values.cpu()
    torch.testing.assert_close(decoded, heard, rtol=0, atol=2e-3 if DEVICE == "cuda" else 1e-4)
