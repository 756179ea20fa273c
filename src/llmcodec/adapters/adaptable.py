"""Other people's codecs as `protocol.AdaptableCodec`: residual codebooks as one vocabulary, trained and saved back.

An adapter names its codebooks (`chains`) and its decoder (`waveform_of`); the rest is here.

Q codebooks are flattened by depth: frame f has tokens f Q .. f Q + Q - 1, and code v of codebook q is q V + v, as token
files are flattened. Every objective then sees one codebook of Q V codes. Queries and codes end in Q columns that mark
their depth (`DEPTH_MARK`), so that softmax over all codes is softmax over those of a token's own depth.
Similarity is the cosine where the codec looks up by cosine (DAC, BigCodec). Where it takes the nearest code (EnCodec,
Mimi), it is -|x - e|^2 / 2 s^2 up to a constant per token, s^2 the codebook's variance: for unit vectors that is the
cosine again, so a temperature means the same everywhere.

What a depth reads is the latent less the codes before it. Objectives send gradient through it straight to the latent;
the decoder's gradient passes the straight-through estimator of every depth, as where these codecs were trained.

Shapes: B batch, S samples, F frames, T = F Q tokens, D latent width, C code dimension, V codes.
Test: tests/adapters/test_adaptable.py, tests/integration/test_adapt.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, fit
from llmcodec.codec.inputs import mask_of, sent
from llmcodec.codec.model_card import write_card
from llmcodec.distributed import at_least_float32
from llmcodec.io.tensor_check import renewed_digests
from llmcodec.protocol import CodecEncoding

COMMITMENT = 0.25
"""Scale of vq/commit, as of DAC, BigCodec and our codec."""
DEPTH_MARK = 8.0
"""Query and code of one depth have this in the same column: 64 more similarity, where 0.05 is a usual temperature."""
ROWS = 1024
"""Tokens compared with a codebook at once."""
ADAPTED_CODEBOOKS = "adapted_codebooks"
"""Setting in config.json of an adapted codec: how many codebooks were adapted, and are used unless others are asked."""
PREPROCESSOR = "preprocessor_config.json"


def same(x: Tensor) -> Tensor:
    return x


def pointwise(conv: nn.Module) -> Callable[[Tensor], Tensor]:
    """A convolution of width 1 over (B, F, channels)."""
    return lambda x_BFD: conv(x_BFD.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class Codebook:
    """One codebook: its vectors (V, C), by what codes are chosen, and projections where it has a space of its own."""

    vectors_VC: Tensor
    cosine: bool = False
    project_in: Callable[[Tensor], Tensor] = same
    project_out: Callable[[Tensor], Tensor] = same

    def query(self, projected_BFC: Tensor) -> Tensor:
        """Rows whose products with `rows` are similarities, up to a constant each."""
        if self.cosine:
            return F.normalize(projected_BFC, dim=-1)
        return torch.cat([projected_BFC / self._spread(), torch.ones_like(projected_BFC[..., :1])], -1)

    def rows(self) -> Tensor:
        """(V, C), or with a column more where the nearest code is chosen."""
        vectors_VC = at_least_float32(self.vectors_VC)
        if self.cosine:
            return F.normalize(vectors_VC, dim=-1)
        scaled_VC = vectors_VC / self._spread()
        return torch.cat([scaled_VC, -0.5 * scaled_VC.square().sum(-1, keepdim=True)], -1)

    def _spread(self) -> Tensor:
        vectors_VC = at_least_float32(self.vectors_VC.detach())
        return (vectors_VC - vectors_VC.mean(0)).square().sum(-1).mean().sqrt().clamp(min=1e-12)


@dataclass(frozen=True)
class Chain:
    """Codebooks of which each reads what those before it left, between two projections."""

    books: Sequence[Codebook]
    project_in: Callable[[Tensor], Tensor] = same
    project_out: Callable[[Tensor], Tensor] = same
    """Linear without bias where there are several chains or codebooks."""


class AdaptableAdapter(CodecAdapterWithFeatures):
    """An adapter whose model can be trained; works in at least float32, as it was published."""

    loads_with = ""
    """The call that loads a saved folder with the model's own package; `{}` stands for the folder."""

    # -- what an adapter writes ------------------------------------------------------------------------------------
    def chains(self) -> list[Chain]:
        """The codebooks in use."""
        raise NotImplementedError

    def waveform_of(self, quantized_BFD: Tensor) -> Tensor:
        """Decoder input -> (B, S) with S near F * hop_samples, differentiable."""
        raise NotImplementedError

    @property
    def cannot_adapt(self) -> str:
        """Why this model cannot be trained here; empty where it can."""
        return ""

    def train_codebooks(self) -> None:
        """Make codebooks that are averages, and so are buffers of the model, parameters. Codes stay as they are."""

    # -- protocol.AdaptableCodec -----------------------------------------------------------------------------------
    @property
    def codebook_VC(self) -> Tensor:
        """(Q V, C) with gradient; `query_BTC @ codebook_VC.T` is the similarity, 64 higher within a token's depth."""
        rows = [book.rows() for chain in self.chains() for book in chain.books]
        return torch.cat([self._marked(depth, rows_VC) for depth, rows_VC in enumerate(rows)])

    @property
    def latent_dim(self) -> int:
        """D: width of `quantized_BTD`."""
        return int(self.model.config.hidden_size)

    def encode_latents(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> CodecEncoding:
        """Samples (B, S), those beyond `lengths_B` ignored -> codes, latents and quantiser losses with gradient."""
        lengths = [wav_BS.shape[1]] * len(wav_BS) if lengths_B is None else lengths_B.tolist()
        frames = [self.num_frames(length) for length in lengths]
        mask_BF = mask_of(sent(torch.tensor(frames), wav_BS.device), max(frames))
        with torch.autocast(wav_BS.device.type, enabled=False):
            latent_BFD = self.padded_latents(wav_BS, lengths)
            return self._quantized(latent_BFD, mask_BF, frames)

    def decode_latents(self, quantized_BFD: Tensor, mask_BF: Tensor | None = None) -> Tensor:
        """Decoder input (B, F, D) -> samples (B, F * hop_samples), silent and unheard beyond the mask."""
        batch, num_frames = quantized_BFD.shape[:2]
        frames = [num_frames] * batch if mask_BF is None else mask_BF.sum(1).tolist()
        wavs: dict[int, Tensor] = {}
        with torch.autocast(quantized_BFD.device.type, enabled=False):
            for count in sorted(set(frames)):
                rows = [row for row in range(batch) if frames[row] == count]
                short = max(0, self.min_frames - count)
                part = quantized_BFD[rows, :count]
                part = torch.cat([part, part[:, -1:].expand(-1, short, -1)], 1) if short else part
                for row, wav_S in zip(rows, self.waveform_of(part) if count else part.sum(-1), strict=True):
                    wavs[row] = fit(fit(wav_S, count * self.hop_samples), num_frames * self.hop_samples)
        return torch.stack([wavs[row] for row in range(batch)])

    def save_pretrained(self, folder: str | os.PathLike[str], *, card: str | None = None) -> None:
        """Save the model as its own package does, with digests, the feature extractor it came with, and a card."""
        place = Path(folder)
        if hasattr(self.model, "config"):
            setattr(self.model.config, ADAPTED_CODEBOOKS, self.num_codebooks)
        with renewed_digests(place, "model*.safetensors", "config.json"):
            self.model.save_pretrained(place)
        came_with = Path(str(getattr(self.model, "name_or_path", ""))) / PREPROCESSOR
        if came_with.is_file():
            shutil.copyfile(came_with, place / PREPROCESSOR)
        write_card(place, card or self.card(place.name), replace=card is not None)

    def card(self, name: str) -> str:
        """Text of README.md for an adapted codec that is called `name`."""
        kind = type(self.model).__name__
        return CARD.format(name=name, kind=kind, codebooks=self.num_codebooks, load=self.loads_with.format(name))

    # -- helpers ---------------------------------------------------------------------------------------------------
    def _quantized(self, latent_BFD: Tensor, mask_BF: Tensor, frames: list[int]) -> CodecEncoding:
        """Look up every depth, see the module docstring for the two ways of gradients."""
        codes: list[Tensor] = []
        queries: list[Tensor] = []
        rows: list[Tensor] = []
        losses: dict[str, list[Tensor]] = {"vq/commit": [], "vq/codebook": []}
        decoder_BFD: Tensor | None = None
        for chain in self.chains():
            heard_BFX = left_BFX = chain.project_in(latent_BFD)
            taken: list[Tensor] = []
            for book in chain.books:
                projected_BFC = book.project_in(left_BFX)
                query_BFC = book.query(at_least_float32(projected_BFC))
                code_BF = nearest(query_BFC, book.rows())
                chosen_BFC = F.embedding(code_BF, book.vectors_VC)
                losses["vq/commit"].append(COMMITMENT * (projected_BFC - chosen_BFC.detach()).square().mean(-1))
                losses["vq/codebook"].append((chosen_BFC - projected_BFC.detach()).square().mean(-1))
                queries.append(self._marked(len(codes), query_BFC))
                rows.append(chain.project_out(book.project_out(straight_through(projected_BFC, chosen_BFC))))
                codes.append(code_BF + len(codes) * self.codebook_size)
                taken.append(book.project_out(straight_through(book.project_in(heard_BFX), chosen_BFC)))
                heard_BFX, left_BFX = heard_BFX - taken[-1], left_BFX - taken[-1].detach()
            part_BFD = chain.project_out(torch.stack(taken).sum(0) if len(taken) > 1 else taken[0])
            decoder_BFD = part_BFD if decoder_BFD is None else decoder_BFD + part_BFD
        mask_BT = mask_BF.repeat_interleave(len(codes), 1)
        return CodecEncoding(
            by_depth(codes) * mask_BT,
            mask_BT,
            by_depth(queries),
            latent_BFD,
            by_depth(rows),
            {name: by_depth(loss) for name, loss in losses.items()},
            decoder_BFD,
            [count * len(codes) for count in frames],
        )

    def _marked(self, depth: int, rows: Tensor) -> Tensor:
        """Queries or codes of one depth (..., C) with its mark behind; one codebook needs none."""
        if self.num_codebooks == 1:
            return rows
        mark = (torch.arange(self.num_codebooks, device=rows.device) == depth) * DEPTH_MARK
        return torch.cat([rows, mark.to(rows.dtype).expand(*rows.shape[:-1], -1)], -1)


CARD = """\
# {name}

A {kind} whose tokens were adapted to a language model with llmcodec, with {codebooks} codebooks in use. It loads as the
codec that it started from:

```python
{load}
```

Its licence is that of the codec it started from, and of the audio that it was adapted on.
"""


def straight_through(projected: Tensor, chosen: Tensor) -> Tensor:
    """The chosen vectors, with gradient to them from none and to what was projected as if it were they."""
    return projected + (chosen - projected).detach()


def by_depth(parts: Sequence[Tensor]) -> Tensor:
    """One (B, F, ...) per codebook -> (B, F Q, ...), a frame's tokens behind one another."""
    return torch.stack(list(parts), 2).flatten(1, 2)


@torch.no_grad()
def nearest(query_BFC: Tensor, rows_VC: Tensor) -> Tensor:
    """int64 codes (B, F) of the largest product."""
    parts = query_BFC.flatten(0, 1).split(ROWS)
    return torch.cat([(part @ rows_VC.T).argmax(-1) for part in parts]).view(query_BFC.shape[:-1])
