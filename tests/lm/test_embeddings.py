"""Initial rows: statistics of text rows, and co-occurrence against a dense float64 loop and numpy's SVD."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmcodec.lm.embeddings import (
    RowStatistics,
    cooccurrence_embedding,
    cooccurrence_rows,
    load_tensors,
    neighbour_ppmi,
    row_statistics,
    sample_rows,
)


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


def test_statistics_are_mean_and_covariance():
    rows = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3.0
    found = row_statistics(rows)
    torch.testing.assert_close(found.mean_H, rows.mean(0).float())
    torch.testing.assert_close(found.factor_HH @ found.factor_HH.T, torch.cov(rows.T).float(), rtol=1e-4, atol=1e-4)


def test_fewer_rows_than_dimensions_are_no_trouble():
    found = row_statistics(torch.randn(5, 16))
    assert found.factor_HH.isfinite().all()


def test_sampled_rows_have_the_statistics():
    truth = row_statistics(torch.randn(500, 4) @ torch.randn(4, 4) + 1.0)
    sampled = row_statistics(sample_rows(truth, 20_000, seed=0))
    assert (sampled.mean_H - truth.mean_H).norm() < 0.1
    covariance = truth.factor_HH @ truth.factor_HH.T
    assert (sampled.factor_HH @ sampled.factor_HH.T - covariance).norm() < 0.05 * covariance.norm()


def test_rows_are_the_same_for_every_codec_by_seed():
    statistics = RowStatistics(torch.zeros(8), torch.eye(8))
    small, large = sample_rows(statistics, 700, 3), sample_rows(statistics, 2500, 3)
    assert torch.equal(small, large[:700])
    assert not torch.equal(small, sample_rows(statistics, 700, 4))
    assert large.unique(dim=0).shape[0] == 2500


def test_rows_at_cooccurrence_are_alike_for_codes_with_the_same_neighbours_at_the_scale_of_the_text():
    """Codes 0 and 1 both stand between 2 and 3; 4 stands elsewhere; 11 is never seen and keeps its drawn row."""
    text = RowStatistics(torch.full((6,), 3.0), torch.eye(6) * 0.5)
    data = [torch.tensor([2, 0, 3, 2, 1, 3] * 9), torch.tensor([5, 4, 6, 7, 4, 8] * 9)]
    rows = cooccurrence_rows(text, data, 12, seed=4)
    assert torch.equal(rows[11], sample_rows(text, 12, seed=4)[11])
    seen = rows[:9] - 3.0
    assert seen.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.15)
    assert (rows[0] - rows[1]).norm() < 0.5 * min((rows[0] - rows[4]).norm(), (rows[1] - rows[4]).norm())


def test_tensors_of_another_run(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, tmp_path / "rows.safetensors")
    found = load_tensors(tmp_path / "rows.safetensors", {"a": (2, 3), "b": (4,)}, "rows")
    assert torch.equal(found["a"], torch.ones(2, 3))
    for like, line in (
        ({"a": (2, 3), "b": (5,)}, r"rows: .*has \(4,\) for b, this run needs \(5,\)"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, r"has nothing for c, this run needs \(1,\)"),
        ({"a": (2, 3)}, r"has \(4,\) for b, this run needs nothing"),
    ):
        with pytest.raises(ValueError, match=line):
            load_tensors(tmp_path / "rows.safetensors", like, "rows")
    with pytest.raises(ValueError, match="rows: no such file"):
        load_tensors(tmp_path / "none", {}, "rows")
