"""`llmcodec units`: k-means on the frames of a speech encoder, as a codec folder (`adapters/features/units.py`).

    write_units("hubert:facebook/hubert-base-ls960:9", "hubert500", clips)

Test: tests/adapters/test_units.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.adapters.features.kmeans import fit_codes, nearest
from llmcodec.adapters.features.load import load_encoder, place_of
from llmcodec.adapters.features.units import MODEL_TYPE, Units, check_signal
from llmcodec.adapters.networks.folder import save_network
from llmcodec.codec.model_card import write_card
from llmcodec.data.manifest import Clip
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.digests import digest_number
from llmcodec.transcode.pipeline import Watcher


@dataclass(frozen=True)
class UnitSummary:
    """Result of the fit."""

    num_frames: int
    """That k-means saw."""
    used_codes: int
    """Codes that one of them has."""
    distortion: float
    """Mean squared distance of a frame to its code, as a share of the frames' variance."""
    left_out: list[str]


def write_units(
    encoder: str,
    output: str | os.PathLike[str],
    clips: Sequence[Clip],
    *,
    num_codes: int = 500,
    rounds: int = 20,
    max_frames: int = 200_000,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    watcher: Watcher | None = None,
    max_bad: MaxBad = 0,
) -> UnitSummary:
    """Fit units on clips and write their folder; the same clips and seed give the same units.

    Args:
        encoder: name of the speech encoder (`features.load`).
        output: folder to write; it appears under this name when it is complete.
        clips: whose frames are clustered.
        num_codes: number of units.
        rounds: of k-means.
        max_frames: that k-means sees, evenly from all clips.
        seed: of the initial units and of which frames are seen.
        device: where the encoder runs.
        overwrite: write into a folder that is not empty.
        watcher: receives progress.
        max_bad: clips that may turn out unreadable; they are left out.

    Raises:
        ValueError: no such encoder, fewer frames than units, an output that is not empty, too many unreadable clips.
    """
    if num_codes < 2 or rounds < 1:
        raise ValueError(f"units: at least 2 codes and 1 round, not {num_codes} and {rounds}")
    watcher, bad = watcher or Watcher(), BadRows(max_bad, len(clips))
    with atomic_folder(output, merge=overwrite) as folder:  # before the work, so that one in use is refused first
        model = load_encoder(encoder, device)
        rows_ND = gather_frames(model, clips, max_frames, seed, bad, watcher)
        if len(rows_ND) < num_codes:
            raise ValueError(f"units: {len(rows_ND)} frames are too few for {num_codes} codes; use more speech")
        codes_KD = fit_codes(rows_ND, num_codes, rounds, torch.Generator().manual_seed(seed))
        assigned_N, squared_N = nearest(rows_ND, codes_KD)
        kind, place, rest = place_of(encoder)
        name = f"{kind}{Path(place).resolve() if Path(place).is_dir() else place}{rest}"
        units = Units(name, model.width, num_codes, model.sample_rate, model.hop_samples)
        units.codebook.embed.copy_(codes_KD)
        units.check_TD.copy_(model.frames_of(check_signal(model.hop_samples))[0])
        sizes = {"encoder": name, "width": model.width, "num_codes": num_codes}
        sizes |= {"sample_rate": model.sample_rate, "hop_samples": model.hop_samples}
        save_network(folder, MODEL_TYPE, sizes, units.state_dict())
        write_card(folder, CARD.format(encoder=encoder, num_codes=num_codes, name=Path(output).name, clips=len(clips)))
    share = float(squared_N.mean() / rows_ND.var(0, correction=0).sum())
    return UnitSummary(len(rows_ND), int(torch.unique(assigned_N).numel()), share, list(bad.reasons.values()))


def gather_frames(
    encoder: SpeechEncoder, clips: Sequence[Clip], max_frames: int, seed: int, bad: BadRows, watcher: Watcher
) -> Tensor:
    """Frames (N, D) of all clips in random order, about `max_frames` of them, as many of each second of speech."""
    seconds = math.fsum(clip.duration for clip in clips)
    share = min(1.0, max_frames / max(1.0, seconds * encoder.frame_rate))
    watcher.start(len(clips), seconds)
    kept = []
    for clip in clips:
        try:
            wav_S = torch.from_numpy(clip.load(encoder.sample_rate))
        except (ValueError, OSError) as error:
            bad.add(clip.id, error)
        else:
            frames_TD = encoder.frames_of(wav_S[None])[0].cpu()
            drawn = torch.Generator().manual_seed(digest_number(seed, clip.id) % 2**63)
            kept.append(frames_TD[torch.rand(len(frames_TD), generator=drawn) < share])
        watcher.advance(1, clip.duration)
    rows_ND = torch.cat(kept) if kept else torch.zeros(0, encoder.width)
    return rows_ND[torch.randperm(len(rows_ND), generator=torch.Generator().manual_seed(seed))]


CARD = """\
---
library_name: llmcodec
tags: [audio, speech-units]
---

# {num_codes} units of {encoder}

k-means on the frames of a frozen speech encoder, fitted by `llmcodec units` on {clips} clips. The encoder is not in
this folder and has to be on the machine. There is no decoder.

```
llmcodec evaluate predictability --codec {name} --codec deduplicated={name}?deduplicate
```
"""
