"""AUV as published (PyPI `auv`, `auv:PATH/auv.pt`), to compare with; `llmcodec convert` makes its weights ours.

The package imports torchaudio for one resampling function that 16 kHz input never calls (torchaudio_stub.py). It floors
lengths and needs 481 samples: clips are zero-padded to whole frames, at least two.
Source: arXiv 2509.21968. Test: tests/adapters/test_packages.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import CodecFamily
from llmcodec.adapters.torchaudio_stub import torchaudio_stub


class AuvCodec(CodecAdapterWithFeatures):
    """Clips of one length run together, which the package's own `encode` (one clip at a time) gives the same tokens."""

    min_samples = 640

    def __init__(self, model: nn.Module, num_codebooks: int | None = None):
        encoder: Any = model.tokenizer
        check_num_codebooks("AUV", num_codebooks, 1, 1)
        codebook = encoder.vq.quantizers[0].codebook_size
        super().__init__(model, encoder.sample_rate, encoder.hop_length, 1, codebook)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.tokenizer(wav_BS)["tokens"].transpose(0, 1)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.tokenizer(wav_BS)["before_quantize"]

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.token2wav(self.model.tokenizer.vq2emb(codes_BQT.transpose(1, 2)))[:, 0]


def load_auv(checkpoint: Path) -> nn.Module:
    """The published model with the weights of `checkpoint` (the package reads it with `weights_only`)."""
    with torchaudio_stub():
        from auv.model import AUV
    model = AUV()
    model.from_pretrained(str(checkpoint))
    return model


def build_auv(
    hidden_size: int = 512, encoder_layers: int = 8, decoder_layers: int = 12, codebook_size: int = 20480
) -> nn.Module:
    """The published architecture (its sizes unless others are given) with its initial weights."""
    with torchaudio_stub():
        from auv.model import AUV
        from auv.modules.codec import AUVCodecDec, AUVCodecEncWithVQ
    sizes = {"hop_length": 320, "hidden_size": hidden_size, "ffn_mult": 4, "max_position_embeddings": 4096}
    quantizer: dict[str, Any] = {
        "vq_type": "fvq",
        "num_quantizers": 1,
        "dim": hidden_size,
        "codebook_size": codebook_size,
        "codebook_dim": 8,
        "commitment": 0.25,
        "codebook_partition_maps": None,
    }
    model = AUV()
    model.tokenizer = AUVCodecEncWithVQ(
        sample_rate=16_000, enc_conf={**sizes, "num_layers": encoder_layers}, vq_conf=quantizer
    )
    model.token2wav = AUVCodecDec(dec_conf={**sizes, "num_layers": decoder_layers})
    return model


FAMILY = CodecFamily(
    "AUV",
    AuvCodec,
    build_auv,
    load_auv,
    "auv",
    "pip install --no-deps auv einops (torchaudio is not needed)",
    presets={"auv": {}},
)
