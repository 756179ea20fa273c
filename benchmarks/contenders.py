"""Who takes part in the tables of codec_speed.py, by name, and which rows are of one precision.

    ready("auv/int8", "cpu")      # PyTorch's one-line dynamic int8 around the published AUV

FAMILY or FAMILY/WAY. Families: `auv`, `encodec`, `dac`, `mimi`, `snac`, `wavtokenizer`, `bigcodec` with random weights,
`rustymimi` (Mimi in Rust), `ours` (AUV's configuration), `bundled`, or any name that `load_codec`
takes. Ways of every family: none (as published), `bf16` (inside autocast), `int8` (dynamic, PyTorch), `compile`
(torch.compile), `loop` (a batch clip by clip). Ways of ours: `plain`, `compile`, the precisions of
`optimize_for_inference`, `onnx` and `onnx-int8` (ONNX Runtime).

Test: tests/benchmarks/test_contenders.py.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench import speech

from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import PRECISIONS, optimize_for_inference
from llmcodec.precision import SIDES

PRESETS = ("auv", "encodec_24khz", "dac_16khz", "mimi", "snac_24khz", "wavtokenizer_75", "bigcodec")
PEERS = {name.partition("_")[0]: f"random:{name}" for name in PRESETS}
OURS = ("ours", "bundled")
WAYS = ("bf16", "int8", "compile", "loop")
DEFAULT = [
    *("auv", "auv/bf16", "auv/int8"),
    *("encodec", "encodec/loop", "mimi", "mimi/loop", "rustymimi", "snac", "dac", "wavtokenizer", "bigcodec"),
    *(f"ours/{way}" for way in ("plain", *PRECISIONS, "onnx", "onnx-int8")),
    *(f"bundled/{way}" for way in (*PRECISIONS, "onnx", "onnx-int8")),
]
MATCHED = {"compile": "auv/compile", **dict.fromkeys(("mixed", "bf16", "int16"), "auv/bf16")}
MATCHED |= dict.fromkeys(("int8", "onnx-int8"), "auv/int8") | dict.fromkeys(("plain", "fp32", "onnx"), "auv")
"""Way of ours -> the row of AUV in the same precision; for int16, which PyTorch does not have, bf16: 16 bits too."""
NOT_HERE = (ImportError, ValueError, RuntimeError, OSError, NotImplementedError)
"""What a contender raises that cannot run here: a missing package, no compiler, an operator that a way lacks."""
RUSTY_NAMES = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
"""Ends of names as `moshi` has them now -> in the published file of Mimi, which `rustymimi` reads."""


def matched(name: str) -> str:
    """The contender that `name` is compared with at equal precision; empty if none."""
    family, _, way = name.partition("/")
    return MATCHED[way] if family in OURS else ""


def reference(name: str) -> str:
    """The contender whose tokens and sound `name` should keep: the same codec as it is, in fp32."""
    family = name.partition("/")[0]
    return f"{family}/plain" if family in OURS else family


def open_contender(name: str, device: str) -> Any:
    """Opened, not yet run; raises one of NOT_HERE if it cannot be opened here."""
    family, _, way = name.partition("/")
    if family == "rustymimi":
        return RustyMimi()
    if family not in OURS:
        codec = load_codec(PEERS.get(family, name), device)
        return in_a_way(codec, way, device) if family in PEERS and way else codec
    if family == "bundled":
        plain: Any = load_codec("bundled", device)
    else:
        torch.manual_seed(0)
        plain = LLMCodec(LLMCodecConfig.auv()).eval().to(device)
    if way.startswith("onnx"):
        return ByOnnx(plain, "int8" if way == "onnx-int8" else "fp32")
    if way == "compile":
        return in_a_way(plain, way, device)
    return plain if way == "plain" else optimize_for_inference(plain, way, consume=True)  # type: ignore[arg-type]


def ready(name: str, device: str, batch: int = 1, seconds: float = 2.0) -> Any:
    """Opened, and run once: caches, thread pools, packed shapes; torch.compile on the very shapes that follow."""
    codec = open_contender(name, device)
    sizes = (batch, seconds) if name.endswith("/compile") else (1, min(seconds, 2.0))
    with torch.inference_mode():
        codec.decode(codec.encode(batch_of(codec, *sizes, device)).audio_codes)
    return codec


def batch_of(codec: Any, batch: int, seconds: float, device: str) -> Any:
    """Bundled speech (B, 1, S) at the codec's rate."""
    wav = np.concatenate(list(speech(seconds * batch, codec.sample_rate)))
    return torch.from_numpy(wav).view(batch, 1, -1).to(device)


def in_a_way(codec: Any, way: str, device: str) -> Any:
    """A codec in one of WAYS, as a user of PyTorch would write it."""
    if way == "bf16":
        return Around(codec, partial(torch.autocast, torch.device(device).type, torch.bfloat16))
    if way == "loop":
        return Around(codec, loops=True)
    if way == "int8":
        with warnings.catch_warnings():  # deprecated in favour of a package of its own, and still there
            warnings.simplefilter("ignore")
            from torch.ao.quantization import quantize_dynamic

            return quantize_dynamic(codec, {torch.nn.Linear}, dtype=torch.qint8)
    if way == "compile":
        parts = (codec.encoder, codec.decoder) if isinstance(codec, LLMCodec) else codec.model.children()
        for part in parts:
            part.compile()
        return codec
    raise ValueError(f"no way {way!r}: choose one of {', '.join(WAYS)}")


class Around:
    """A codec whose calls run inside a context, or clip by clip."""

    def __init__(self, codec: Any, context: Callable[[], AbstractContextManager[Any]] = nullcontext, loops=False):
        self.codec, self.context, self.loops = codec, context, loops

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def encode(self, wav_B1S: Any) -> Any:
        """As the codec's own."""
        return SimpleNamespace(audio_codes=self.each(lambda one: self.codec.encode(one).audio_codes, wav_B1S))

    def decode(self, codes_BQT: Any) -> Any:
        """As the codec's own."""
        return SimpleNamespace(audio_values=self.each(lambda one: self.codec.decode(one).audio_values, codes_BQT))

    def each(self, call: Callable[[Any], Any], batch: Any) -> Any:
        """One call, or one a clip."""
        with self.context():
            return torch.cat([call(one[None]) for one in batch]) if self.loops else call(batch)


class ByOnnx:
    """An `LLMCodec` exported, and run by ONNX Runtime on as many threads as torch has."""

    def __init__(self, codec: LLMCodec, precision: str):
        from llmcodec.runtime.export import write_onnx
        from llmcodec.runtime.onnx_runtime import OnnxRuntime

        self.config, self.num_frames = codec.config, codec.num_frames
        self.sample_rate, self.frame_rate = codec.sample_rate, codec.frame_rate
        self.place = tempfile.TemporaryDirectory()  # as long as the codec
        write_onnx(codec, "contender", Path(self.place.name), int8=SIDES if precision == "int8" else ())
        self.runtime = OnnxRuntime(self.place.name, torch.get_num_threads(), precision)  # type: ignore[arg-type]

    def encode(self, wav_B1S: Any) -> Any:
        """As the codec's own."""
        codes = self.runtime.encode_batch(list(wav_B1S[:, 0].numpy()))
        return SimpleNamespace(audio_codes=torch.from_numpy(np.stack(codes)))

    def decode(self, codes_BQT: Any) -> Any:
        """As the codec's own."""
        wavs = self.runtime.decode_batch(list(codes_BQT.numpy()))
        return SimpleNamespace(audio_values=torch.from_numpy(np.stack(wavs))[:, None])


class RustyMimi:
    """Mimi in Rust (PyPI `rustymimi`) with random weights, which `moshi` of the same authors makes."""

    sample_rate, frame_rate = 24_000, 12.5

    def __init__(self) -> None:
        import rustymimi
        from moshi.models.loaders import get_mimi
        from safetensors.torch import save_file

        torch.manual_seed(0)
        weights = {name: tensor.contiguous() for name, tensor in get_mimi(None).state_dict().items()}
        for ours, theirs in RUSTY_NAMES.items():
            weights = {name.replace(ours, theirs): tensor for name, tensor in weights.items()}
        with tempfile.TemporaryDirectory() as place:
            save_file(weights, Path(place) / "mimi.safetensors")
            self.model = rustymimi.Tokenizer(str(Path(place) / "mimi.safetensors"), num_codebooks=8)

    def encode(self, wav_B1S: Any) -> Any:
        """As `load_codec("random:mimi")`'s."""
        return SimpleNamespace(audio_codes=torch.from_numpy(self.model.encode(wav_B1S.numpy()).astype(np.int64)))

    def decode(self, codes_BQT: Any) -> Any:
        """As `load_codec("random:mimi")`'s."""
        return SimpleNamespace(audio_values=torch.from_numpy(self.model.decode(codes_BQT.numpy().astype(np.uint32))))
