"""One forward pass for everything the codec is trained for: `CodecObjective(batch, step) -> LossTerms`.

The whole clip is encoded (language terms need all of it), a window is decoded (waveform terms are the expensive ones).
Being a single forward, it can be wrapped by DistributedDataParallel. Weights come from the recipe; a term of weight 0
is not computed. Shapes: B batch, S samples, T frames, W window frames, D width.
Test: tests/training/test_objective.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.inputs import mask_of, sent
from llmcodec.data.clips import ClipBatch
from llmcodec.data.sampler import clip_seed
from llmcodec.distributed import masked_mean, most_over_ranks, num_ranks
from llmcodec.objectives.adversary import Adversary
from llmcodec.objectives.bigram import BigramTerm
from llmcodec.objectives.collapse import marginal_entropy_term
from llmcodec.objectives.distillation import Distillation
from llmcodec.objectives.spectral import SpectralLosses
from llmcodec.objectives.views import perturb, view_term
from llmcodec.protocol import AdaptableCodec, CodecEncoding
from llmcodec.training.language import LanguageObjective
from llmcodec.training.recipe import LANGUAGE_TERMS, TEACHER_TERMS, WAVEFORM_TERMS, Recipe, as_schedule


@dataclass
class LossTerms:
    """total: weighted scalar. raw: unweighted terms that entered it. logged: figures that did not (detached).

    fake_BS, real_BS: decoded and original audio as the discriminators see it (None when no waveform term is on).
    encoding and fake_BS are detached: DistributedDataParallel waits for the gradient of all that an output reaches.
    """

    total: Tensor
    raw: dict[str, Tensor]
    logged: dict[str, Tensor]
    encoding: CodecEncoding
    fake_BS: Tensor | None = None
    real_BS: Tensor | None = None


@dataclass
class Window:
    """A stretch of W frames of every clip: decoder input, mask, the corresponding audio and its real samples.

    lengths_B, frames: real samples and real frames of each clip, on the CPU.
    """

    quantized_BWD: Tensor
    mask_BW: Tensor
    real_BS: Tensor
    lengths_B: Tensor = field(repr=False)
    frames: list[int]

    @property
    def sent_B(self) -> Tensor:
        """Real samples of each clip, where the audio is."""
        return sent(self.lengths_B, self.real_BS.device)


class CodecObjective(nn.Module):
    """Codec, language side and losses as one module. The adversary is shared, not owned: it trains by itself."""

    def __init__(
        self,
        recipe: Recipe,
        codec: nn.Module,
        language: LanguageObjective | None = None,
        adversary: Adversary | None = None,
        partition: tuple[int, int] | None = None,
        distillation: Distillation | None = None,
        bigram: BigramTerm | None = None,
    ):
        super().__init__()
        assert isinstance(codec, AdaptableCodec)
        self.recipe = recipe
        self.codec = codec
        self.language = language
        self.spectral = SpectralLosses(recipe.spectral, codec.sample_rate)
        self.partition = partition
        self.distillation = distillation
        self.bigram = bigram
        self.codec_frozen = False
        self._adversary = [adversary]  # in a list: not a submodule, its gradients are not ours

    def train(self, mode: bool = True) -> CodecObjective:
        """Batch-norm statistics stay those of the starting codec when the recipe says so; a frozen codec evaluates."""
        super().train(mode)
        if self.codec_frozen:
            self.codec.eval()
        if self.recipe.codec.freeze_batch_norm:
            for module in self.codec.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def codec_parameters(self) -> dict[str, nn.Parameter]:
        """The codec's named parameters, and those of the projection towards the teacher, which its optimizer trains."""
        named = dict(self.codec.named_parameters())
        taught = () if self.distillation is None else self.distillation.named_parameters(prefix="distillation")
        return named | dict(taught)

    def autocast(self, like: Tensor) -> torch.autocast:
        """bfloat16 around conformers and LM, if the recipe says so; operations that need float32 turn autocast off."""
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def forward(self, batch: ClipBatch, step: int) -> LossTerms:
        """Loss terms of a batch at an optimizer step."""
        weights = self.recipe.weights.at(step)
        # A codec that is not updated at this step needs no graph: heads and small LM train at a fraction of the cost.
        learning = as_schedule(self.recipe.optimizer.codec.lr)(step) != 0.0
        with torch.set_grad_enabled(learning and torch.is_grad_enabled()), self.autocast(batch.wav_BS):
            encoding = self.encode(batch.wav_BS, batch.lengths_B)
        raw = {
            name: masked_mean(loss_BT, encoding.mask_BT) for name, loss_BT in encoding.losses.items() if name in weights
        }
        logged: dict[str, Tensor] = {}
        fake_BS = real_BS = None
        if any(term in weights for term in WAVEFORM_TERMS | TEACHER_TERMS):
            window = self.cut_window(encoding, batch, step)
            with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
                layer_outputs: list[Tensor] | None = [] if any(term in weights for term in TEACHER_TERMS) else None
                fake_BS, real_BS = self.decode_window(window, layer_outputs), window.real_BS
                if layer_outputs is not None:
                    terms = self.teacher_terms(window, layer_outputs)
                    raw |= {name: value for name, value in terms.items() if name in weights}
            ragged = num_ranks() > 1 or set(window.lengths_B.tolist()) != {real_BS.shape[1]}
            spectral = [term for term in self.spectral.TERMS if term in weights]
            raw |= self.spectral(fake_BS, real_BS, window.sent_B if ragged else None, spectral)
            if any(term.startswith("adv/") for term in weights):
                adversary = self._adversary[0]
                assert adversary is not None
                fake_BS, real_BS = self.adversary_window(fake_BS, window, batch.ids, step)
                raw |= {name: value for name, value in adversary(fake_BS, real_BS).items() if name in weights}
        if "codes/marginal_entropy" in weights:
            codebook_VC = self.codec.codebook_VC[slice(*self.partition) if self.partition else slice(None)]
            raw["codes/marginal_entropy"] = marginal_entropy_term(encoding, codebook_VC)
        if "codes/bigram" in weights:
            assert self.bigram is not None
            raw["codes/bigram"] = self.bigram(encoding, self.codec.codebook_VC, batch.ids, self.partition)
        if "codes/view" in weights:
            raw["codes/view"] = self.view_term(encoding, batch, step)
        if any(term in weights for term in LANGUAGE_TERMS):
            assert self.language is not None
            with self.autocast(batch.wav_BS):
                terms, figures = self.language(encoding, self.codec.codebook_VC, batch, step, frozenset(weights))
            raw |= terms
            logged |= figures
        missing = [term for term in weights if term not in raw]
        assert not missing, f"no module computes {missing}"
        total = torch.stack([weight * raw[term].to(raw_dtype(batch)) for term, weight in weights.items()]).sum()
        seen_BS = None if fake_BS is None else fake_BS.detach()
        return LossTerms(total, raw, logged, detached(encoding), seen_BS, real_BS)

    def encode(self, wav_BS: Tensor, lengths_B: Tensor) -> CodecEncoding:
        """Encoding in the recipe's partition of the codebook."""
        kwargs = {} if self.partition is None else {"partitions": [self.partition] * wav_BS.shape[0]}
        return self.codec.encode_latents(wav_BS, lengths_B, **kwargs)

    def view_term(self, encoding: CodecEncoding, batch: ClipBatch, step: int) -> Tensor:
        """The codes of a perturbed copy against those of the original."""
        config = self.recipe.views
        seeds_B = [clip_seed(self.recipe.seed, step, clip_id, "view") for clip_id in batch.ids]
        view_BS = perturb(batch.wav_BS, batch.lengths_B, seeds_B, config)
        with self.autocast(view_BS):
            view = self.encode(view_BS, batch.lengths_B)
        return view_term(encoding, view, self.codec.codebook_VC, config.tau)

    def cut_window(self, encoding: CodecEncoding, batch: ClipBatch, step: int) -> Window:
        """The same stretch of frames and samples of every clip, its place keyed by seed, step and clip id."""
        hop = self.codec.hop_samples
        input_BFD = encoding.quantized_BTD if encoding.decoder_BFD is None else encoding.decoder_BFD
        real_BF, books = encoding.mask_BT[:, :: self.codec.num_codebooks], self.codec.num_codebooks
        num_frames = real_BF.shape[1]
        frames = real_BF.sum(1).tolist() if encoding.lengths is None else [n // books for n in encoding.lengths]
        lengths_B = batch.lengths_B.cpu()
        wanted_BS = batch.wav_BS if batch.target_BS is None else batch.target_BS
        wav_BS = F.pad(wanted_BS, (0, max(0, num_frames * hop - wanted_BS.shape[1])))[:, : num_frames * hop]
        if self.recipe.window_seconds is None:
            return Window(input_BFD, real_BF, wav_BS, lengths_B, frames)
        size = max(1, round(self.recipe.window_seconds * self.codec.frame_rate))
        pad = max(0, size - num_frames)
        input_BFD, mask_BF = F.pad(input_BFD, (0, 0, 0, pad)), F.pad(real_BF, (0, pad))
        wav_BS = F.pad(wav_BS, (0, pad * hop))
        starts_B = [
            clip_seed(self.recipe.seed, step, clip_id, "window") % max(1, count - size + 1)
            for clip_id, count in zip(batch.ids, frames, strict=True)
        ]
        return Window(
            torch.stack([x[s : s + size] for x, s in zip(input_BFD, starts_B, strict=True)]),
            torch.stack([x[s : s + size] for x, s in zip(mask_BF, starts_B, strict=True)]),
            torch.stack([x[s * hop : (s + size) * hop] for x, s in zip(wav_BS, starts_B, strict=True)]),
            (lengths_B - hop * torch.tensor(starts_B)).clamp(max=size * hop),
            [min(count - start, size) for count, start in zip(frames, starts_B, strict=True)],
        )

    def decode_window(self, window: Window, layer_outputs: list[Tensor] | None = None) -> Tensor:
        """Waveform of the window, silent beyond each clip's last sample; `layer_outputs` takes the decoder's layers."""
        kept = {} if layer_outputs is None else {"layer_outputs": layer_outputs}
        with self.autocast(window.quantized_BWD):
            mask_BW = None if set(window.frames) == {window.mask_BW.shape[1]} else window.mask_BW
            fake_BS = self.codec.decode_latents(window.quantized_BWD, mask_BW, **kept)
        return fake_BS * mask_of(window.sent_B, fake_BS.shape[1])

    def teacher_terms(self, window: Window, layer_outputs: list[Tensor]) -> dict[str, Tensor]:
        """A decoder layer against what the teacher hears in the window's audio, as it shall be rebuilt."""
        assert self.distillation is not None
        codec, num_frames = self.codec, window.mask_BW.shape[1]
        with self.autocast(window.real_BS):
            features_BWH = self.distillation.features(
                window.real_BS, window.lengths_B, codec.sample_rate, codec.hop_samples, num_frames
            )
        terms: dict[str, Tensor] = self.distillation(
            layer_outputs[self.distillation.layer - 1], features_BWH, window.mask_BW
        )
        return terms

    def adversary_window(self, fake_BS: Tensor, window: Window, ids: Sequence[str], step: int) -> tuple[Tensor, Tensor]:
        """The stretch of each clip that the discriminators see: they cost more than everything else.

        Its place is keyed by seed, step and clip, its length is the same on all ranks (discriminators average over it).
        """
        real_BS = window.real_BS
        if self.recipe.adversary_seconds is None:
            size = most_over_ranks(real_BS.shape[1], real_BS.device)
            starts_B = [0] * len(ids)
        else:
            size = round(self.recipe.adversary_seconds * self.codec.sample_rate)
            starts_B = [
                clip_seed(self.recipe.seed, step, clip_id, "adversary") % max(1, length - size + 1)
                for clip_id, length in zip(ids, window.lengths_B.tolist(), strict=True)
            ]
        pad = (0, max(0, size - real_BS.shape[1]))
        fake_BS, real_BS = F.pad(fake_BS, pad), F.pad(real_BS, pad)
        return (
            torch.stack([x[s : s + size] for x, s in zip(fake_BS, starts_B, strict=True)]),
            torch.stack([x[s : s + size] for x, s in zip(real_BS, starts_B, strict=True)]),
        )


def detached(encoding: CodecEncoding) -> CodecEncoding:
    """The same encoding outside the graph (its loss terms, which the objective has reduced, are left out)."""
    values: dict[str, Any] = {item.name: getattr(encoding, item.name) for item in fields(encoding)}
    tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    return CodecEncoding(**values | tensors | {"losses": {}})


def raw_dtype(batch: ClipBatch) -> torch.dtype:
    """Losses are summed in the precision of the audio (float32, or float64 in tests)."""
    return batch.wav_BS.dtype
