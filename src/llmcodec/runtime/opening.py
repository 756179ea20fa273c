"""Opening a codec for the commands: by name or folder, on a device, in a precision, by torch or ONNX.

torch and transformers are imported for the torch runtime only. Test: tests/runtime/test_opening.py.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from llmcodec import assets
from llmcodec.precision import SIDES, Precision, Side, graph_file
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.onnx_config import CONFIG

RuntimeName = Literal["auto", "torch", "onnx"]


def open_runtime(
    codec: str,
    runtime: RuntimeName = "torch",
    device: str = "auto",
    precision: Precision = "auto",
    batch_seconds: float = 64.0,
    only: Side | None = None,
) -> Runtime:
    """A runtime for the codec called `codec`.

    Args:
        codec: `bundled`, a folder, or a hub id; for `onnx` also a folder that `llmcodec export --format onnx` wrote.
        runtime: `torch` or `onnx`; `auto` takes ONNX on the CPU where there are graphs (`runs_light`).
        device: `auto` takes a GPU where there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto` takes the fastest that keeps the tokens (`precision.AUTO`); `fp32` is exact; the others are
            for our own codec (docs/speed.md), by ONNX Runtime int8 alone.
        batch_seconds: padded seconds of audio in one call (torch).
        only: the side that will be used; the other one works too, but is not optimised.

    Raises:
        ValueError: no such codec, a device that is not there, a precision that this runtime does not have.
    """
    if runtime == "onnx" or (runtime == "auto" and runs_light(codec, device, precision)):
        return _open_onnx(codec, device, precision, only)
    return _open_torch(codec, device, precision, batch_seconds, only)


def runs_light(codec: str, device: str = "auto", precision: Precision = "auto") -> bool:
    """Whether `auto` takes the ONNX graphs of a codec, which start in a tenth of the time and need no torch.

    Where there may be a GPU, `--device auto` means that GPU, by torch.
    """
    folder = graphs_of(codec)
    if device not in ("auto", "cpu") or folder is None or find_spec("onnxruntime") is None:
        return False
    if precision not in ("auto", "fp32") and not has_graphs(folder, precision):
        return False
    return device == "cpu" or not may_have_gpu() or find_spec("torch") is None


def graphs_of(codec: str) -> Path | None:
    """Folder of a codec's ONNX graphs, which the codecs of the package have and exported ones; None without."""
    folder = assets.codec_folder(codec) if codec in assets.CODECS else Path(codec)
    return folder if (folder / CONFIG).is_file() else None


def has_graphs(folder: Path, precision: Precision) -> bool:
    """Whether an exported folder has a graph of int8 for either side; no other precision has graphs of its own."""
    return precision == "int8" and any((folder / graph_file(side, precision)).is_file() for side in SIDES)


def may_have_gpu() -> bool:
    """Whether this machine shows signs of a GPU. Torch would know, but takes seconds to import."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    places = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia", "C:/Windows/System32/nvcuda.dll")
    return any(map(os.path.exists, places))


def codec_title(codec: str) -> str:
    """Display name without the machine's paths: the last two folders of a path; other names unchanged."""
    place = Path(codec)
    return "/".join(place.resolve().parts[1:][-2:]) if place.is_dir() else codec


def _open_onnx(codec: str, device: str, precision: Precision, only: Side | None) -> Runtime:
    from llmcodec.runtime.onnx_runtime import OnnxRuntime

    if device not in ("auto", "cpu"):
        raise ValueError(f"--runtime onnx runs on the CPU here, not on {device!r}; leave --device out")
    if precision not in ("auto", "fp32", "int8"):
        raise ValueError(f"--runtime onnx has no precision {precision!r}: choose auto, fp32 or int8")
    return OnnxRuntime(graphs_of(codec) or codec, precision=precision, only=only)


def _open_torch(codec: str, device: str, precision: Precision, batch_seconds: float, only: Side | None) -> Runtime:
    from llmcodec.adapters.load import load_codec, title_of_search
    from llmcodec.codec import LLMCodec
    from llmcodec.codec.fast.engine import optimize_for_inference
    from llmcodec.codec.search import SearchingCodec
    from llmcodec.protocol import deduplicates
    from llmcodec.runtime.torch_runtime import TorchRuntime, identity_of

    loaded = load_codec(codec, pick_device(device))
    if deduplicates(loaded):
        raise ValueError(
            f"codec {codec}: deduplicated units have no frame rate, so that neither files nor shards hold them; leave "
            "out ?deduplicate here, and drop repeats where tokens are read"
        )
    title = title_of_search(codec, loaded) if isinstance(loaded, SearchingCodec) else codec_title(codec)
    identity = identity_of(loaded, title)  # before the weights are packed
    if isinstance(loaded, LLMCodec):
        loaded = optimize_for_inference(loaded, precision, only=only, consume=True)
    elif precision not in ("auto", "fp32"):
        raise ValueError(f"--precision {precision} is for llmcodec's own codecs; {codec} runs in fp32")
    return TorchRuntime(loaded, title, identity, batch_seconds)


def pick_device(device: str) -> str:
    """`auto` -> the best device of this machine. Raises ValueError for one that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (number and not number.isdigit()) or int(number or 0) >= there[kind]:
        have = ", ".join(f"{name}:{i}" if name == "cuda" else name for name, n in there.items() for i in range(n))
        raise ValueError(f"device {device!r} is not there; this machine has {have}")
    return device
