"""AUV as published (PyPI `auv`, `auv:PATH/auv.pt`), to compare with; `llmcodec convert` makes its weights ours.

The package imports torchaudio for one resampling function that 16 kHz input never calls; where torchaudio is not
installed, a stand-in is shown to it during the import. It floors lengths and needs 481 samples: clips are zero-padded
to whole frames, at least two. Source: arXiv 2509.21968. Test: tests/unit/codecs/test_auv_package.py.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import audio
from .peer import PeerCodecWithFeatures
from .select import check_num_codebooks


class AuvCodec(PeerCodecWithFeatures):
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
    with torchaudio_stand_in():
        from auv.model import AUV
    model = AUV()
    model.from_pretrained(str(checkpoint))
    return model


def build_auv(
    hidden_size: int = 512, encoder_layers: int = 8, decoder_layers: int = 12, codebook_size: int = 20480
) -> nn.Module:
    """The published architecture (its sizes unless others are given) with its initial weights."""
    with torchaudio_stand_in():
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


@contextmanager
def torchaudio_stand_in() -> Iterator[None]:
    """Show a `torchaudio.functional.resample` to what is imported inside, unless the real one can be imported.

    The stand-in is taken away again, so that nobody else mistakes it for torchaudio.
    """
    names = ("torchaudio", "torchaudio.functional")
    try:
        real = importlib.import_module("torchaudio.functional")
    except (ImportError, OSError, RuntimeError):  # not installed, or built for another PyTorch
        real = None
    if real is not None:
        yield
        return
    package, functional = (types.ModuleType(name) for name in names)
    functional.resample = _resample  # type: ignore[attr-defined]
    package.functional = functional  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict(zip(names, (package, functional), strict=True)))
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _resample(waveform: Tensor, orig_freq: int, new_freq: int) -> Tensor:
    rows = [audio.resample(row.cpu().numpy(), orig_freq, new_freq) for row in waveform]
    return torch.from_numpy(np.stack(rows)).to(waveform.device)
