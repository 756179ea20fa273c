"""`llmcodec export`: a codec as ONNX graphs, or as a Hugging Face folder ready to publish.

    llmcodec export bundled -o exported --format onnx     then: llmcodec encode speech/ --codec exported
    llmcodec export runs/rate/codec -o my-codec --format hf --licence cc-by-4.0
    python -m llmcodec.runtime.export         writes the graphs of the bundled codec again (make bundled-graphs)

Test: tests/runtime/test_export.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch

from llmcodec.adapters.load import load_codec
from llmcodec.assets import BUNDLED, GRAPHS, codec_folder
from llmcodec.codec import LLMCodec
from llmcodec.codec.interop.onnx_export import export_onnx
from llmcodec.codec.model_card import write_card
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.tensor_check import renewed_digests
from llmcodec.runtime.onnx_config import CONFIG, OnnxConfig
from llmcodec.runtime.opening import codec_title
from llmcodec.runtime.torch_runtime import identity_of

ONNX_CARD = """
## This folder

ONNX graphs of the codec in float32: `encoder.onnx` (audio to codes), `decoder.onnx` (codes to audio), any batch, any
length. `llmcodec encode speech.wav --codec FOLDER` runs them without PyTorch; inputs, outputs and
padding are described in llmcodec's `docs/export.md`.
"""


def export_codec(
    codec: str,
    output: str,
    format: Literal["hf", "onnx"] = "hf",
    precision: Literal["fp32", "fp16"] = "fp32",
    licence: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write a codec for other programs: a Hugging Face folder with a model card, or ONNX graphs.

      llmcodec export bundled -o exported --format onnx

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it appears under this name when it is complete.
        format: hf for transformers, onnx for ONNX Runtime (needs the extra onnx).
        precision: of the saved weights, hf only; fp16 halves the file and is read back as fp32.
        licence: of the weights, as the hub names it (cc-by-4.0); goes into the model card.
        overwrite: write into a folder that is not empty; a README.md in it stays.

    Returns:
        The folder and its contents, as text for the user.
    """
    if format == "onnx" and precision != "fp32":
        raise ValueError("--precision fp16 is for --format hf; the graphs are float32")
    model = load_codec(codec)
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can be exported")
    name = Path(output).resolve().name
    with atomic_folder(output, merge=overwrite) as folder:
        if format == "onnx":
            write_onnx(model, codec_title(codec), folder)
            write_card(folder, model.card(name, licence) + ONNX_CARD)
        else:
            if precision == "fp16":
                model.half()  # type: ignore[no-untyped-call]
            model.save_pretrained(folder, card=model.card(name, licence))
        files = sorted(path.name for path in folder.iterdir())
    return f"{output}: {', '.join(files)}"


def write_onnx(codec: LLMCodec, name: str, folder: Path, compact: bool = False) -> OnnxConfig:
    """The two graphs and llmcodec_onnx.json, which `OnnxRuntime` reads, into an existing folder.

    compact: as in `export_onnx`; programs that quantise the graphs do not know such weights.
    """
    noise = 0.1 * torch.randn(1, 1, codec.sample_rate, generator=torch.Generator().manual_seed(0))
    codec.encode(noise.to(codec.device))  # broken weights are rejected here: the graph cannot report them
    identity = identity_of(codec, name)
    config = OnnxConfig(
        identity,
        codec.config.n_fft,
        codec.config.auv_floor_frames,
        bounded(codec.config.encoder_context),
        bounded(codec.config.decoder_context),
    )
    with renewed_digests(folder, "*.onnx", CONFIG):
        export_onnx(codec, folder, {"weights_sha256": identity.weights_sha256, "name": name}, compact)
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    return config


def bounded(context: tuple[float, float]) -> tuple[int, int] | None:
    """Context in frames; None if unbounded."""
    return None if math.inf in context else (int(context[0]), int(context[1]))


def write_bundled_graphs() -> Path:
    """The graphs that the package carries, so that the bundled codec runs without PyTorch; to run after its weights
    have changed."""
    model = load_codec(BUNDLED)
    assert isinstance(model, LLMCodec)
    folder = codec_folder() / GRAPHS
    folder.mkdir(exist_ok=True)
    write_onnx(model, BUNDLED, folder, compact=True)
    return folder


if __name__ == "__main__":
    print(write_bundled_graphs())
