"""CLAP, an audio encoder trained on captions: one vector for a clip. Reconstructions are compared with it.

    clap = ClapEncoder("laion/clap-htsat-unfused")      # a Hugging Face hub id or a folder
    similarity = clap.similarity(recording_S, reconstruction_S, 16_000)

It hears 48 kHz and 10 s: shorter clips are repeated, as its feature extractor does, longer ones heard in parts of 10 s,
whose vectors are averaged by their length (its extractor would draw one part at random). Source: arXiv 2211.06687.
Shapes: S samples, H width. Test: tests/adapters/test_clap.py.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.adapters.features.load import from_transformers
from llmcodec.io import audio

LONGEST_SECONDS = 10


class ClapEncoder:
    """The audio side of a CLAP of transformers.

    Args:
        place: hub id or folder.
        device: where it runs.

    Raises:
        ValueError: no such model, one of another kind, weights that are missing, not finite or of another shape.
    """

    def __init__(self, place: str, device: torch.device | str = "cpu"):
        try:
            model, self.extractor = from_transformers("clap", place)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"CLAP {place}: {first}") from error
        self.model = model.to(torch.device(device))
        self.sample_rate = int(self.extractor.sampling_rate)

    @torch.no_grad()
    def embed(self, wav_S: np.ndarray, sample_rate: int) -> Tensor:
        """A clip -> its vector (H,), of unit length, on the CPU."""
        wav_S = audio.resample(np.asarray(wav_S, np.float32), sample_rate, self.sample_rate)
        total = torch.zeros(self.model.config.projection_dim)
        for start in range(0, len(wav_S), LONGEST_SECONDS * self.sample_rate):
            part_S = wav_S[start : start + LONGEST_SECONDS * self.sample_rate]
            made = self.extractor(part_S, sampling_rate=self.sample_rate, return_tensors="pt").to(self.model.device)
            found = self.model.get_audio_features(**made)  # the vector, or from transformers 5 an output with it
            total += len(part_S) * getattr(found, "pooler_output", found)[0].float().cpu()
        return F.normalize(total, dim=0)

    def similarity(self, first_S: np.ndarray, second_S: np.ndarray, sample_rate: int) -> float:
        """Cosine of the vectors of two clips."""
        return float(self.embed(first_S, sample_rate) @ self.embed(second_S, sample_rate))


@functools.lru_cache(maxsize=1)
def load_clap(place: str, device: str = "cpu") -> ClapEncoder:
    """The CLAP at a hub id or folder, kept for the next call."""
    return ClapEncoder(place, device)
