"""BigCodec through the PyPI package `bigcodec`: a folder or hub id that its `save_pretrained` wrote.

The package imports torchaudio for its own demonstration: a stand-in is shown to it (torchaudio_stub.py). Clips are
zero-padded to whole frames. Source: arXiv 2409.05377. Test: tests/adapters/test_packages.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.adapters.adaptable import AdaptableAdapter, Chain, Codebook
from llmcodec.adapters.base import check_num_codebooks
from llmcodec.adapters.family import CodecFamily
from llmcodec.adapters.torchaudio_stub import torchaudio_stub

SAMPLE_RATE = 16_000  # nothing in the package's configuration says it


class BigCodecCodec(AdaptableAdapter):
    """num_codebooks is fixed: the published model has one."""

    loads_with = 'bigcodec.BigCodec.from_pretrained("{}")'

    def __init__(self, model: Any, num_codebooks: int | None = None):
        quantizers = model.decoder.quantizer.layers
        check_num_codebooks("BigCodec", num_codebooks, len(quantizers), len(quantizers), len(quantizers))
        hop = int(model.encoder.hop_length)
        super().__init__(model, SAMPLE_RATE, hop, len(quantizers), quantizers[0].codebook_size)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encode(wav_BS[:, None]).transpose(0, 1)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encoder(wav_BS[:, None]).transpose(1, 2)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(codes_BQT)[:, 0]

    @property
    def latent_dim(self) -> int:
        """Width of the latents, which the package's configuration calls out_channels."""
        return int(self.model.decoder.quantizer.layers[0].out_proj.out_features)

    def chains(self) -> list[Chain]:
        layers = self.model.decoder.quantizer.layers
        return [Chain([Codebook(layer.codebook.weight, True, layer.in_proj, layer.out_proj) for layer in layers])]

    def waveform_of(self, quantized_BFD: Tensor) -> Tensor:
        return self.model.decoder(quantized_BFD.transpose(1, 2), vq=False)[:, 0]


def build_bigcodec(**sizes: Any) -> nn.Module:
    """The published architecture with its initial weights; `sizes` are arguments of the package's BigCodec."""
    with torchaudio_stub():
        from bigcodec import BigCodec
    published = dict(
        ngf=48,
        use_rnn=True,
        rnn_bidirectional=False,
        rnn_num_layers=2,
        up_ratios=[2, 2, 2, 5, 5],
        dilations=[1, 3, 9],
        out_channels=1024,
        codebook_size=8192,
        vq_num_quantizers=1,
        codebook_dim=8,
    )
    return BigCodec(**(published | sizes))


def load_bigcodec(folder: Path) -> nn.Module:
    """The model that the package's `save_pretrained` wrote (config.json, model.safetensors).

    Raises:
        RuntimeError: weights that are missing or foreign, which the package itself passes over.
    """
    with torchaudio_stub():
        from bigcodec import BigCodec
    return BigCodec.from_pretrained(str(folder), strict=True).to(torch.float32)


FAMILY = CodecFamily(
    "BigCodec",
    BigCodecCodec,
    build_bigcodec,
    load_bigcodec,
    "bigcodec",
    "pip install --no-deps bigcodec einops (torchaudio is not needed)",
    marks=("ngf", "vq_num_quantizers"),
    presets={"bigcodec": {}},
)
