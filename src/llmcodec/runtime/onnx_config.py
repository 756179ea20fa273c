"""llmcodec_onnx.json: properties of an exported codec that its graphs do not contain, checked on reading. No torch.

    config = OnnxConfig.load("folder")
    config.identity.sample_rate

Test: tests/runtime/test_onnx.py.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from llmcodec.io.structured import read_object
from llmcodec.io.tensor_check import check_settings
from llmcodec.io.token_file import TokenProvenance
from llmcodec.precision import graph_file

CONFIG = "llmcodec_onnx.json"
ENCODER, DECODER = graph_file("encoder", "fp32"), graph_file("decoder", "fp32")
FORMAT, VERSION = "llmcodec-onnx", 1
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class OnnxConfig:
    """Contents of llmcodec_onnx.json."""

    identity: TokenProvenance
    n_fft: int
    auv_floor_frames: bool
    encoder_context: tuple[int, int] | None
    """Frames before and after a frame that influence its code; None: the whole clip."""
    decoder_context: tuple[int, int] | None

    def to_json(self) -> str:
        values = asdict(self)
        identity = {"name": values["identity"].pop("codec"), **values["identity"]}
        del identity["manifest_hash"]
        return json.dumps({"format": FORMAT, "version": VERSION} | values | {"identity": identity}, indent=2) + "\n"

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> OnnxConfig:
        """Read and check the file in `folder`. Raises ValueError with what is wrong."""
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise ValueError(
                f"{folder}: no {CONFIG}; make the folder with `llmcodec export CODEC --format onnx -o FOLDER`"
            )
        values = read_object(path, MAX_CONFIG_BYTES)
        if values.get("format") != FORMAT:
            raise ValueError(f"{path}: not a configuration of an exported codec")
        if values.get("version") != VERSION:
            raise ValueError(f"{path}: version {values.get('version')!r}, this llmcodec reads {VERSION}; export again")
        check_settings(path, values)
        try:
            identity = TokenProvenance(**{"codec" if k == "name" else k: v for k, v in values["identity"].items()})
            contexts = [
                None if values[name] is None else (int(values[name][0]), int(values[name][1]))
                for name in ("encoder_context", "decoder_context")
            ]
            config = cls(identity, int(values["n_fft"]), bool(values["auv_floor_frames"]), contexts[0], contexts[1])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: damaged, {type(error).__name__}: {error}; export again") from None
        config._check(path)
        return config

    def _check(self, path: Path) -> None:
        own = self.identity
        numbers = (own.sample_rate, own.hop_samples, own.num_codebooks, own.codebook_size, self.n_fft)
        if not all(type(number) is int and 0 < number < 1 << 31 for number in numbers):
            raise ValueError(f"{path}: damaged, sizes must be positive integers: {numbers}; export again")
        if own.num_codebooks != 1 or self.n_fft % own.hop_samples or (self.n_fft - own.hop_samples) % 2:
            raise ValueError(f"{path}: damaged, n_fft {self.n_fft} and hop {own.hop_samples} do not fit; export again")
        if not (isinstance(own.codec, str) and isinstance(own.weights_sha256, str)):
            raise ValueError(f"{path}: damaged, name and weights_sha256 must be text; export again")
        for context in (self.encoder_context, self.decoder_context):
            if context is not None and not all(0 <= frames < 1 << 20 for frames in context):
                raise ValueError(f"{path}: damaged, context of {context} frames; export again")
