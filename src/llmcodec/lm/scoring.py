"""`llmcodec lm score`: the log-likelihood of speech under a token LM, per file, per second and per token.

    llmcodec lm score runs/lm_small speech/*.wav --output scores.csv

Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.io import audio
from llmcodec.io.structured import write_csv
from llmcodec.lm.speech import check_codec, codec_of, encode_flat

if TYPE_CHECKING:
    from torch import Tensor

    from llmcodec.lm.token_lm import TokenLM

Normalise = Literal["audio", "full"]


def score(
    lm: str,
    inputs: list[str],
    codec: str | None = None,
    normalise: Normalise = "audio",
    long_clips: Literal["refuse", "window"] = "refuse",
    output: str | None = None,
    tokens: str | None = None,
    device: str = "cpu",
) -> None:
    """Log-likelihood of speech under a token LM: per file, per second, per token.

    Args:
        lm: folder of `llmcodec lm train` or `lm export`, or a hub id.
        inputs: audio files, manifests (.jsonl) or folders of token shards.
        codec: codec of the LM where it was moved; default: the name in the LM's card.
        normalise: softmax over the codes alone (comparable between LMs), or over the LM's full vocabulary.
        long_clips: a clip longer than the LM reads is refused, or scored in overlapping windows.
        output: also write one row per file here (.csv).
        tokens: also write the log-likelihood of every token here (.csv).
        device: cpu or cuda.
    """
    from rich.console import Console
    from rich.table import Table

    from llmcodec.lm.token_lm import load_token_lm

    loaded = load_token_lm(lm, device, normalise=normalise)
    loaded.long_clips = long_clips
    names, codes, token_rate = _codes_to_score(loaded, inputs, codec, device)
    rows = score_rows(loaded, names, codes, token_rate)
    table = Table("file", "seconds", "tokens", "nats/token", "bits/s", title=f"log-likelihood, softmax: {normalise}")
    for row in rows if len(rows) <= 40 else rows[:40]:
        table.add_row(
            row["file"],
            f"{row['seconds']:.2f}",
            str(row["tokens"]),
            f"{row['nats_per_token']:.3f}",
            f"{row['bits_per_second']:.1f}",
        )
    console = Console()
    console.print(table)
    if len(rows) > 40:
        console.print(f"and {len(rows) - 40} more files; --output writes all")
    nats, count = sum(row["nats"] for row in rows), sum(row["tokens"] for row in rows)
    rate = nats / count / math.log(2) * token_rate
    console.print(f"all: {len(rows)} files, {count} tokens, {nats / count:.4f} nats/token, {rate:.1f} bits/s")
    if output:
        columns = [name for name in rows[0] if name != "log_likelihoods"]
        print(f"written: {write_csv(output, columns, rows)}")
    if tokens:
        each = (
            {"file": row["file"], "position": place, "log_likelihood": value}
            for row in rows
            for place, value in enumerate(row["log_likelihoods"])
        )
        print(f"written: {write_csv(tokens, ('file', 'position', 'log_likelihood'), each)}")


def score_rows(lm: TokenLM, names: Sequence[str], codes: Sequence[Tensor], token_rate: float) -> list[dict[str, Any]]:
    """One row per file: nats and bits are of the negative log-likelihood."""
    rows = []
    for name, scores in zip(names, lm.token_log_likelihoods(codes), strict=True):
        nats, seconds = -float(scores.double().sum()), len(scores) / token_rate
        rows.append(
            {
                "file": name,
                "seconds": seconds,
                "tokens": len(scores),
                "nats": nats,
                "nats_per_token": nats / len(scores),
                "bits_per_second": nats / math.log(2) / seconds,
                "log_likelihoods": scores.tolist(),
            }
        )
    return rows


def _codes_to_score(
    lm: TokenLM, inputs: Iterable[str], codec: str | None, device: str
) -> tuple[list[str], list[Tensor], float]:
    """Names, flattened codes and tokens per second of everything named."""
    import torch

    from llmcodec.data.manifest import read_manifest
    from llmcodec.io.token_shards import SHARD_ENDINGS
    from llmcodec.transcode.tokenize import flat_rows

    names: list[str] = []
    codes: list[Tensor] = []
    files: list[tuple[str, Path]] = []
    token_rate = 0.0
    for place in inputs:
        path = Path(place)
        if path.is_dir() or path.suffix in SHARD_ENDINGS:
            provenance, rows = flat_rows(path)
            check_codec(lm, provenance, place)
            token_rate = provenance.frame_rate * provenance.num_codebooks
            for row in rows:
                names.append(row.id)
                codes.append(torch.as_tensor(row.codes).long())
        elif path.suffix == ".jsonl":
            files += [(clip.id, clip.path) for clip in read_manifest(path)]
        else:
            files.append((place, path))
    if files:
        runtime = codec_of(lm, codec, device)
        token_rate = runtime.identity.frame_rate * runtime.identity.num_codebooks
        for start in range(0, len(files), 32):
            wavs = [audio.load(path, runtime.identity.sample_rate) for _, path in files[start : start + 32]]
            codes += encode_flat(runtime, wavs)
        names += [name for name, _ in files]
    if not names:
        raise ValueError("nothing to score: name audio files, manifests or folders of token shards")
    return names, codes, token_rate
