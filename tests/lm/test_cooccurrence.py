"""Initial embeddings from co-occurrence: against a dense float64 loop and numpy's SVD."""

import numpy as np
import torch

from llmcodec.lm.cooccurrence import cooccurrence_embedding, neighbour_ppmi


def clips(seed: int = 0, vocabulary: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocabulary - 2, (n,), generator=generator) for n in (40, 1, 2, 75, 33)]


def dense_ppmi(data: list[torch.Tensor], vocabulary: int, window: int) -> np.ndarray:
    counts = np.zeros((vocabulary, vocabulary))
    for clip in data:
        for i, a in enumerate(clip.tolist()):
            for j, b in enumerate(clip.tolist()):
                if 1 <= abs(i - j) <= window:
                    counts[a, b] += 1 / abs(i - j)
    share, total = counts.sum(1), counts.sum()
    out = np.zeros_like(counts)
    for a in range(vocabulary):
        for b in range(vocabulary):
            if counts[a, b] > 0:
                out[a, b] = max(0.0, np.log(counts[a, b] * total / (share[a] * share[b])))
    return out


def test_ppmi_is_that_of_a_plain_loop():
    for window in (1, 3):
        got = neighbour_ppmi(clips(), 12, window).to_dense().double().numpy()
        np.testing.assert_allclose(got, dense_ppmi(clips(), 12, window), atol=1e-6)
        assert got.max() > 0.1


def test_rows_span_what_numpys_svd_spans():
    data = clips(1)
    table = cooccurrence_embedding(data, 12, 5, window=2, rms=1.0).double().numpy()
    u, s, _ = np.linalg.svd(dense_ppmi(data, 12, 2))
    oracle = u[:, :5] * np.sqrt(s[:5])
    oracle /= np.sqrt((oracle[:10] ** 2).mean())
    np.testing.assert_allclose(table @ table.T, oracle @ oracle.T, atol=2e-4)  # equal up to signs of columns


def test_the_same_twice_and_zero_for_tokens_that_never_occur():
    first, second = (cooccurrence_embedding(clips(), 12, 16, rms=0.3) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (12, 16)
    assert not first[10:].any() and not first[:, 12:].any()
    assert abs(float(first[:10].square().mean().sqrt()) - 0.3) < 1e-6


def test_clips_of_one_token_give_zeros_not_nan():
    table = cooccurrence_embedding([torch.tensor([3])], 8, 4)
    assert table.shape == (8, 4) and not table.any()
