"""Check files and folders that llmcodec wrote for damage, file by file.

    for finding in verify("runs/rate"): print(finding)

Every file of weights and tokens is read completely. Then every folder that is a codec, a language model, an ONNX export
or a checkpoint is opened as by the commands, so that missing tensors and wrong shapes are found even without digests.
Test: tests/cli/test_verify.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcodec.codec import LLMCodec
from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.folder import CONFIG, check_folder, read_config
from llmcodec.codec.token_prior import PRIOR_FILE, load_prior
from llmcodec.io.lm_card import CARD
from llmcodec.io.tensor_check import DIGESTS, ENDINGS, find_missing_files, inspect_tensors, write_digests
from llmcodec.io.tensor_file import read_header
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import SHARD_ENDINGS, open_token_shards
from llmcodec.lm.token_lm import ADAPTER_WEIGHTS, AUDIO_ROWS, check_adapter, load_token_lm
from llmcodec.precision import SIDES, graph_file
from llmcodec.runtime.onnx_config import CONFIG as ONNX_CONFIG
from llmcodec.runtime.onnx_runtime import OnnxRuntime
from llmcodec.training.checkpoint import STEP_FOLDER, UNBOUNDED, load_checkpoint

PICKLED_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Finding:
    """The finding for one file or folder."""

    path: Path
    said: str
    """What it is, or the error, which names the file."""
    is_damaged: bool = False

    def __str__(self) -> str:
        return f"DAMAGED {self.said}" if self.is_damaged else f"{self.path}: {self.said}"


def verify(place: str | Path) -> Iterator[Finding]:
    """Check a file, or everything below a folder.

    Raises:
        ValueError: no such file or folder, or nothing in it that llmcodec can check.
    """
    root = Path(place)
    if not root.exists():
        raise ValueError(f"{place}: no such file or folder")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []
    checks = [(path, _file_check(path)) for path in files] + [(path, _folder_check(path)) for path in folders]
    known = [(path, check) for path, check in checks if check is not None]
    if not known:
        raise ValueError(f"{place}: nothing in it that llmcodec writes (weights, tokens, checkpoints)")
    for path, check in known:
        try:
            yield Finding(path, check(path))
        except (ValueError, OSError) as error:
            line = " ".join(str(error).split())
            yield Finding(path, line if str(path) in line else f"{path}: {line}", is_damaged=True)


def note_digests(place: str | Path) -> None:
    """Store the digests of all weights in a folder and below it, as they are now.

    Raises:
        ValueError: no such folder, no weights in it, or a file that is not sound.
    """
    root = Path(place)
    if not root.is_dir():
        raise ValueError(f"{place}: no such folder to note the digests of")
    holders = {path.parent for path in root.rglob("*") if path.suffix in ENDINGS and not _holds_tokens(path)}
    if not holders:
        raise ValueError(f"{place}: no weights in it whose digests could be noted")
    for folder in sorted(holders):
        write_digests(folder)


def _holds_tokens(path: Path) -> bool:
    """Token files carry no digests: their bytes are fixed, and there may be a million in a folder."""
    return path.suffix == ".safetensors" and list(read_header(path).tensors) == ["codes"]


Check = Callable[[Path], str]


def _file_check(path: Path) -> Check | None:
    if path.suffix in ENDINGS:
        return _check_tensor_file
    if path.suffix in SHARD_ENDINGS:
        return _check_shard
    if path.name == DIGESTS:
        return _check_that_all_are_there
    return _leave_pickle if path.suffix in PICKLED_ENDINGS else None


def _folder_check(folder: Path) -> Check | None:
    is_codec = (folder / CONFIG).is_file() and read_config(folder).get("model_type") == LLMCodecConfig.model_type
    if (folder / ONNX_CONFIG).is_file():
        return _open_both if is_codec else _open_onnx
    if STEP_FOLDER.fullmatch(folder.name):
        return _open_checkpoint
    if (folder / AUDIO_ROWS).is_file() and (folder / CARD).is_file():
        return _open_adapter
    if (folder / CARD).is_file():
        return _open_lm
    return _open_codec if is_codec else None


def _check_tensor_file(path: Path) -> str:
    if _holds_tokens(path):
        clip, provenance = load_token_file(path)
        return f"tokens, {clip.codes.shape[-1]} frames of codec {provenance.codec}; sound (tokens carry no digests)"
    unbounded = STEP_FOLDER.fullmatch(path.parent.name) is not None and path.stem in UNBOUNDED
    report = inspect_tensors(path, finite=not unbounded)
    same = "as they were saved" if report.has_digests else "finite; no digests to compare with"
    return f"{report.num_tensors} tensors, {same}"


def _check_shard(path: Path) -> str:
    provenance, rows = open_token_shards(path)
    return f"tokens, {sum(1 for _ in rows)} clips of codec {provenance.codec}; sound (tokens carry no digests)"


def _check_that_all_are_there(path: Path) -> str:
    if gone := find_missing_files(path.parent):
        raise ValueError(f"{path}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing from the folder")
    return "all files are there"


def _leave_pickle(path: Path) -> str:
    return "a pickle, not checked; llmcodec reads no weights from it"


def _open_onnx(folder: Path) -> str:
    runtime = OnnxRuntime(folder, precision="fp32")
    if importlib.util.find_spec("onnxruntime") is None:
        return "an ONNX export; not opened, onnxruntime is not installed"
    _ = runtime.encoder, runtime.decoder
    for side in SIDES:
        if (folder / graph_file(side, "int8")).is_file():
            getattr(OnnxRuntime(folder, precision="int8", only=side), side)
    return "an ONNX export, opens"


def _open_both(folder: Path) -> str:
    return f"{_open_codec(folder)}; {_open_onnx(folder)}"


def _open_checkpoint(folder: Path) -> str:
    return f"a checkpoint with {', '.join(sorted(load_checkpoint(folder)))}"


def _open_adapter(folder: Path) -> str:
    check_adapter(folder)
    kind = "an adapter" if (folder / ADAPTER_WEIGHTS).is_file() else "audio rows"
    return f"{kind}, whole; the language model below is not checked"


def _open_lm(folder: Path) -> str:
    lm = load_token_lm(str(folder))
    return f"a language model of {lm.num_codes} codes, opens"


def _open_codec(folder: Path) -> str:
    config = check_folder(folder)
    if (folder / PRIOR_FILE).is_file():
        load_prior(folder / PRIOR_FILE, LLMCodec.from_pretrained(folder))
        return f"a codec of {config.codebook_size} codes with its token prior, opens"
    return f"a codec of {config.codebook_size} codes, opens"
