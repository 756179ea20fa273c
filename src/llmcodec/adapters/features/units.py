"""Units: the frames of a frozen speech encoder as tokens, by k-means (GSLM, arXiv 2102.01192). Encode only.

    load_codec("hubert500")                 # a folder that `llmcodec units hubert:PLACE:9 -o hubert500` wrote
    load_codec("hubert500?deduplicate")     # repeats are one token, for predictability: how long a unit lasts is lost

A folder has the codes, the encoder's name (a model on this machine: it is not in the folder), and frames of that
encoder for a fixed noise, so that another one, or another layer, is noticed.
Shapes: B batch, S samples, T frames, D width. Test: tests/adapters/test_units.py.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import CodecFamily
from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.adapters.features.load import RANDOM, load_encoder, place_of
from llmcodec.adapters.networks.folder import load_network
from llmcodec.adapters.networks.seanet import EuclideanCodebook
from llmcodec.io.hub_names import find_cached

MODEL_TYPE = "kmeans_units"
CHECK_FRAMES, CHECK_TOLERANCE = 20, 0.005
"""Frames that are compared, and by how much one may differ, in standard deviations of all of them: other devices stay
below it, another layer far above."""


class UnitStage(nn.Module):
    """The one codebook, where residual quantisers have several."""

    def __init__(self, num_codes: int, width: int):
        super().__init__()
        self.codebook = EuclideanCodebook(num_codes, width)


class Units(nn.Module):
    """What a folder holds.

    Args:
        encoder: name of the speech encoder (`features.load`). width: D.
        num_codes: units. sample_rate, hop_samples: of the encoder.
    """

    check_TD: Tensor
    """Frames of the encoder for `check_signal`; zeros: not compared, of random weights."""

    def __init__(
        self, encoder: str, width: int, num_codes: int = 500, sample_rate: int = 16_000, hop_samples: int = 320
    ):
        super().__init__()
        self.encoder, self.width, self.num_codes = encoder, width, num_codes
        self.sample_rate, self.hop_samples = sample_rate, hop_samples
        self.quantizers = nn.ModuleList([UnitStage(num_codes, width)])
        self.register_buffer("check_TD", torch.zeros(CHECK_FRAMES, width))

    @property
    def codebook(self) -> EuclideanCodebook:
        """The units."""
        stage = self.quantizers[0]
        assert isinstance(stage, UnitStage)
        return stage.codebook


class UnitsCodec(CodecAdapterWithFeatures):
    """One codebook, encode only. The encoder is loaded when it is first needed, and is none of the codec's weights."""

    can_decode = False
    deduplicate = False
    """Whether those who measure tokens take a run of one unit for one token; `encode` gives a unit for every frame."""

    def __init__(self, model: Units, num_codebooks: int | None = None):
        check_num_codebooks("k-means units", num_codebooks, 1, 1)
        super().__init__(model, model.sample_rate, model.hop_samples, 1, model.num_codes)
        self._encoder: list[SpeechEncoder] = []

    @property
    def config(self) -> tuple[str, bool]:
        """What decides the tokens beside the weights, to look up earlier results by."""
        return self.model.encoder, self.deduplicate

    @property
    def encoder(self) -> SpeechEncoder:
        """The speech encoder. Raises ValueError if it is not on this machine, or another one than the units are of."""
        if not self._encoder or self._encoder[0].device != self.device:
            with torch.inference_mode(False), torch.no_grad():
                self._encoder = [_load_checked(self.model, self.device)]
        return self._encoder[0]

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.codebook.encode(self.latents_of(wav_BS))[:, None]

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.encoder.frames_of(wav_BS)


def check_signal(hop_samples: int) -> Tensor:
    """(1, S) noise, always the same."""
    return 0.1 * torch.randn(1, CHECK_FRAMES * hop_samples, generator=torch.Generator().manual_seed(0))


def _load_checked(model: Units, device: torch.device) -> SpeechEncoder:
    """The encoder that the units were fitted on."""
    kind, place, rest = place_of(model.encoder)
    if place != RANDOM:
        place = str(find_cached(place, "speech encoder", "config.json of k-means units"))
    encoder = load_encoder(f"{kind}{place}{rest}", device)
    found = (encoder.sample_rate, encoder.hop_samples, encoder.width)
    wanted = (model.sample_rate, model.hop_samples, model.width)
    if found != wanted:
        raise ValueError(f"units: {model.encoder} has (rate, hop, width) {found}, the units were fitted on {wanted}")
    if model.check_TD.any():
        frames_TD = encoder.frames_of(check_signal(encoder.hop_samples))[0].to(model.check_TD)
        off = float((frames_TD - model.check_TD).abs().max() / model.check_TD.std())
        if not off <= CHECK_TOLERANCE:
            raise ValueError(
                f"units: {model.encoder} is another encoder than the units were fitted on (its frames of a fixed noise "
                f"differ by {off:.3f} standard deviations); fit them again with `llmcodec units`"
            )
    return encoder


FAMILY = CodecFamily(
    "k-means units",
    UnitsCodec,
    Units,
    partial(load_network, Units),
    presets={"hubert_units": {"encoder": f"hubert:{RANDOM}:9", "width": 768}},
)
