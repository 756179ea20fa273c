"""`llmcodec export`: a codec as ONNX graphs, or as a Hugging Face folder ready to publish.

    llmcodec export bundled -o exported --format onnx     then: llmcodec encode speech/ --codec exported
    llmcodec export runs/rate/codec -o my-codec --format hf --licence cc-by-4.0
    python -m llmcodec.runtime.export         writes the graphs of the bundled codecs again (make bundled-graphs)

Test: tests/runtime/test_export.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch

from llmcodec.adapters.load import load_codec
from llmcodec.assets import CODECS, codec_folder
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.hub import remove_graphs
from llmcodec.codec.interop.onnx_export import export_onnx
from llmcodec.codec.model_card import write_card
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.tensor_check import WEIGHTS, renewed_digests
from llmcodec.precision import AUTO, SIDES, Side, graph_file
from llmcodec.runtime.onnx_config import CONFIG, OnnxConfig
from llmcodec.runtime.opening import codec_title
from llmcodec.runtime.torch_runtime import identity_of

ONNX_USAGE = """\
ONNX graphs in float32: `encoder.onnx` (audio to codes) and `decoder.onnx` (codes to audio), any batch, any length.
numpy and ONNX Runtime run them:

```python
import numpy as np
import onnxruntime
import soundfile

encoder, decoder = (onnxruntime.InferenceSession(f"{{side}}.onnx") for side in ("encoder", "decoder"))
wav, rate = soundfile.read("speech.wav", dtype="float32")
assert wav.ndim == 1 and rate == {rate}, "mono, resampled to {rate} Hz"

hop, n_fft = {hop}, {n_fft}
edge = (n_fft - hop) // 2
{whole}
padded = np.pad(whole, edge, mode="reflect")[: (frames - 1) * hop + n_fft]
num_frames = np.array([frames])

(codes,) = encoder.run(None, {{"padded_audio": padded[None], "num_frames": num_frames}})  # (1, 1, frames) int64
(audio,) = decoder.run(None, {{"audio_codes": codes, "num_frames": num_frames}})  # (1, 1, frames * hop)
soundfile.write("again.wav", audio[0, 0, : len(wav)], rate)
```

From the command line, any sample rate: `llmcodec encode speech.wav --codec FOLDER`, without PyTorch. Batches, and what
the graphs take: `docs/export.md` of llmcodec."""
INT8_USAGE = """\
`{file}` replaces `{other}`: the conformer multiplies in int8, on any processor.

"""
CEIL_FRAMES = """\
frames = -(-len(wav) // hop)
whole = np.pad(wav, (0, max(frames * hop, {least}) - len(wav)))  # whole hops"""
FLOOR_FRAMES = """\
frames, whole = len(wav) // hop, wav  # needs more than `edge` samples; a last part of less than a hop is left out"""


def onnx_usage(config: LLMCodecConfig, int8: Collection[Side] = ()) -> str:
    """Lines of numpy that run the exported graphs, and which are in int8, for the model card."""
    edge = (config.n_fft - config.hop_samples) // 2
    whole = CEIL_FRAMES.format(least=max(2 * config.hop_samples, edge + 1))
    graphs = "".join(INT8_USAGE.format(file=graph_file(side, "int8"), other=graph_file(side, "fp32")) for side in int8)
    return graphs + ONNX_USAGE.format(
        rate=config.sample_rate,
        hop=config.hop_samples,
        n_fft=config.n_fft,
        whole=FLOOR_FRAMES if config.auv_floor_frames else whole,
    )


def export_codec(
    codec: str,
    output: str,
    format: Literal["hf", "onnx"] = "hf",
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto",
    licence: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write a codec for other programs: a Hugging Face folder with a model card, or ONNX graphs.

      llmcodec export bundled -o exported --format onnx

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it appears under this name when it is complete.
        format: hf for transformers, onnx for ONNX Runtime (needs the extra onnx).
        precision: hf: fp32 (auto), or fp16, which halves the file and is read back as fp32. onnx: the graphs are fp32;
            auto writes the decoder in int8 too, which --precision auto then decodes by (twice as fast at AUV's size,
            above 28 dB); int8 the encoder too, for --precision int8 (keeps about 93 % of the tokens); fp32 neither.
        licence: of the weights, as the hub names it (cc-by-4.0); goes into the model card.
        overwrite: write into a folder that is not empty; a README.md in it stays.

    Returns:
        The folder and its contents, as text for the user.
    """
    if format == "onnx" and precision == "fp16":
        raise ValueError("--precision fp16 is for --format hf; the graphs are float32, or int8")
    if format == "hf" and precision == "int8":
        raise ValueError("--precision int8 is for --format onnx; weights are saved in fp32 or fp16")
    rounded = [side for side in SIDES if precision == "int8" or (precision == "auto" and AUTO["onnx"][side] == "int8")]
    model = load_codec(codec)
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can be exported")
    name = Path(output).resolve().name
    with atomic_folder(output, merge=overwrite) as folder:
        if format == "onnx":
            write_onnx(model, codec_title(codec), folder, int8=rounded)
            write_card(folder, model.card(name, licence, usage=onnx_usage(model.config, rounded)))
        else:
            if precision == "fp16":
                model.half()  # type: ignore[no-untyped-call]
            model.save_pretrained(folder, card=model.card(name, licence))
        files = sorted(path.name for path in folder.iterdir())
    if format == "hf":
        remove_graphs(output)
    else:  # of an earlier export into the same folder
        for side in SIDES:
            if side not in rounded:
                Path(output, graph_file(side, "int8")).unlink(missing_ok=True)
    return f"{output}: {', '.join(files)}"


def write_onnx(
    codec: LLMCodec, name: str, folder: Path, weights: Path | None = None, int8: Collection[Side] = ()
) -> OnnxConfig:
    """The graphs and llmcodec_onnx.json, which `OnnxRuntime` reads, into an existing folder.

    weights, int8: as in `export_onnx`; programs that quantise the graphs do not know weights of another file.
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
        export_onnx(codec, folder, {"weights_sha256": identity.weights_sha256, "name": name}, weights, int8)
        (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")
    return config


def bounded(context: tuple[float, float]) -> tuple[int, int] | None:
    """Context in frames; None if unbounded."""
    return None if math.inf in context else (int(context[0]), int(context[1]))


def write_bundled_graphs(name: str) -> Path:
    """The graphs of a codec that the package carries, so that it runs without PyTorch; to run after its weights have
    changed."""
    model, folder = load_codec(name), codec_folder(name)
    assert isinstance(model, LLMCodec)
    write_onnx(model, name, folder, folder / WEIGHTS)
    return folder


if __name__ == "__main__":
    for name in CODECS:
        print(write_bundled_graphs(name))
