"""More than 20,000 damaged token files, shards and checkpoints: a ValueError in one line or a sound result.

Every case runs under a limit of memory far below what a lying header could ask for, and of time. A failure names its
key; `damaged(data, key)` makes the same file again.
"""

from __future__ import annotations

import resource
import signal
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmcodec.codec import LLMCodec
from llmcodec.codec.folder import check_folder
from llmcodec.io.token_file import TokenClip, TokenProvenance, load_token_file, read_token_facts, save_token_file
from llmcodec.io.token_shards import TokenRow, TokenShardWriter, open_token_shards

from ..miniature import miniature_codec
from .mutations import damaged, damaged_json

SOURCE = TokenProvenance("tiny", "ab" * 32, 16000, 320, 2, 1024, "c0ffee")
CODES = np.random.default_rng(0).integers(0, 1024, (2, 2, 25))
CLIP = TokenClip(CODES, 7990, 44100, 22022, 2)
SECONDS_PER_CASE = 5.0


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """4 GB of address space beyond what is in use: what a lying size asks for fails at once, and loudly."""

    def too_slow(number: int, frame: Any) -> None:
        raise AssertionError("a case hangs")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    handler = signal.signal(signal.SIGALRM, too_slow)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def survives(read: Callable[[], object], key: int) -> bool:
    """True where the damage was not noticed. Everything but a ValueError in one line fails the test."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_CASE)
    try:
        read()
    except ValueError as error:
        message = str(error)
        assert 10 < len(message) < 700 and "\n" not in message, f"case {key}: {message!r}"
        return False
    except BaseException as error:
        raise AssertionError(f"case {key}: {type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True


@pytest.mark.parametrize("shard", range(4))
def test_damaged_token_files(tmp_path, shard):
    """4 x 4,000 cases. What is still read is a clip whose codes fit its codec and whose claims fit its codes."""
    path = tmp_path / "clip.safetensors"
    save_token_file(path, CLIP, SOURCE)
    good = path.read_bytes()
    kept = 0

    def read() -> None:
        facts, _ = read_token_facts(path)
        clip, source = load_token_file(path)
        assert clip.codes.min() >= 0 and clip.codes.max() < source.codebook_size
        assert clip.codes.shape[1] == source.num_codebooks and clip.num_samples == facts["num_samples"]
        assert 1 <= clip.num_samples <= (clip.codes.shape[2] + 1) * source.hop_samples

    for key in range(shard * 4000, shard * 4000 + 4000):
        path.write_bytes(damaged(good, key))
        kept += survives(read, key)
    assert 0 < kept < 1500  # flips inside the codes and inside free text cannot be noticed, most damage is


def test_reading_damaged_token_files_takes_no_more_memory_than_the_file(tmp_path):
    path = tmp_path / "clip.safetensors"
    save_token_file(path, CLIP, SOURCE)
    good = path.read_bytes()
    tracemalloc.start()
    for key in range(100_000, 100_500):
        path.write_bytes(damaged(good, key))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        survives(lambda: load_token_file(path), key)
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak < 200_000 + 50 * path.stat().st_size, f"case {key}: {peak} bytes"
    tracemalloc.stop()


@pytest.mark.parametrize("shard", range(2))
@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_damaged_shards(tmp_path, shard, format):
    """2 x 500 cases of Arrow files, as many of Parquet."""
    with TokenShardWriter(tmp_path / "t", SOURCE, format=format) as shards:
        for i in range(5):
            shards.add(TokenRow(**vars(CLIP), id=f"clip {i}", text="text", speaker="s", language="en"))
    path = tmp_path / "t" / f"shard-00000.{format}"
    good = path.read_bytes()

    def read() -> None:
        for row in open_token_shards(path)[1]:
            assert row.codes.min() >= 0 and row.codes.max() < SOURCE.codebook_size + 10**9 and row.codes.ndim == 3

    for key in range(shard * 500, shard * 500 + 500):
        path.unlink()  # a new file: the last one may still be mapped
        path.write_bytes(damaged(good, key))
        survives(read, key)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A folder with a codec of 30,000 parameters."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("codec")
    miniature_codec(hidden_size=16, head_dim=16, ffn_mult=1, conv_kernel_size=3, codebook_size=32).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("shard", range(4))
def test_damaged_weights(checkpoint, tmp_path, shard):
    """4 x 800 cases of the weights file, checked as every loading of a codec does."""
    weights = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    length = 8 + int.from_bytes(weights[:8], "little")
    kept = 0
    for key in range(shard * 800, shard * 800 + 800):
        # Damage to the header is what can be noticed: it is put there in most cases.
        head = damaged(weights[:length], key)
        changed = head + weights[length:] if key % 4 else damaged(weights, key)
        (tmp_path / "model.safetensors").write_bytes(changed)
        kept += survives(lambda: check_folder(tmp_path), key)
    assert kept < 200


@pytest.mark.parametrize("shard", range(2))
def test_damaged_configurations(checkpoint, tmp_path, shard):
    """2 x 1,000 cases of config.json."""
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    good = (checkpoint / "config.json").read_text()
    for key in range(shard * 1000, shard * 1000 + 1000):
        (tmp_path / "config.json").write_text(damaged_json(good, key), encoding="utf-8")
        survives(lambda: check_folder(tmp_path), key)


def test_what_passes_the_check_loads_and_the_rest_is_refused_by_loading_too(checkpoint, tmp_path):
    """150 whole loadings of damaged folders: the check stands before transformers, what it lets through loads."""
    weights, config = (checkpoint / "model.safetensors").read_bytes(), (checkpoint / "config.json").read_text()
    length = 8 + int.from_bytes(weights[:8], "little")
    loaded = 0
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key in range(150):
            head = damaged(weights[:length], key) if key % 2 else weights[:length]
            (tmp_path / "model.safetensors").write_bytes(head + weights[length:])
            (tmp_path / "config.json").write_text(config if key % 2 else damaged_json(config, key), encoding="utf-8")
            loaded += survives(lambda: LLMCodec.from_pretrained(tmp_path), key)
    assert 0 < loaded < 75 and time.monotonic() - started < 120
