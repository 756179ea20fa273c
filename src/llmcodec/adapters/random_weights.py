"""Codecs in their published shapes with random weights: for speed comparisons and tests, where no hub is reachable.

    load_codec("random:encodec_24khz")      # the architecture of facebook/encodec_24khz, nothing learned

Weights are the model's own initialisation from a seed; where that would give one token all the time, codebooks are
filled and projections centred on a made-up signal. Such a codec says nothing about quality: only about speed, memory
and plumbing. Test: tests/adapters/test_random_weights.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapter, CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.catalogue import nearest
from llmcodec.adapters.registry import FAMILIES
from llmcodec.adapters.wavtokenizer import ProjectedCodebook
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.protocol import Codec

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    preset: (name, sizes) for name, family in FAMILIES.items() for preset, sizes in family.presets.items()
}
"""Name -> family and what its published configuration changes in the library's defaults."""
OURS = {"llmcodec_auv": LLMCodecConfig.auv, "llmcodec_tiny": LLMCodecConfig.tiny}
"""Our own architectures."""
SIGNAL_SECONDS, SIGNAL_FRAMES = 4.0, 250


def build_random(name: str, num_codebooks: int | None = None, seed: int = 0) -> Codec:
    """The codec called `name` in `PRESETS` or `OURS` with weights from `seed`; the global generator is left alone.

    Raises:
        ValueError: an unknown name (the known ones are listed), a missing package, or a number of codebooks that the
            codec cannot use.
    """
    if name not in PRESETS and name not in OURS:
        near = nearest(name)
        known = ", ".join(sorted([*PRESETS, *OURS]))
        raise ValueError(f"no codec random:{name}{f' (near: {near})' if near else ''}; there are {known}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            check_num_codebooks("LLMCodec", num_codebooks, 1, 1)
            codec = LLMCodec(OURS[name]())
            codec.train(False)
            return codec
        family, sizes = PRESETS[name]
        return random_codec(family, sizes, num_codebooks)


def random_codec(family: str, sizes: Mapping[str, Any], num_codebooks: int | None = None) -> CodecAdapter:
    """A codec of any size of a family, with weights from the global generator and filled codebooks."""
    codec = FAMILIES[family].build_codec(sizes, num_codebooks)
    if isinstance(codec, CodecAdapterWithFeatures):
        fill_codebooks(codec)
        centre_projections(codec)
    return codec


def made_up_signal(codec: CodecAdapterWithFeatures) -> Tensor:
    """(1, S) noise of changing level."""
    seconds = min(SIGNAL_SECONDS, SIGNAL_FRAMES / codec.frame_rate)
    num_samples = codec.padded_samples(int(seconds * codec.sample_rate))
    level_S = torch.rand(1, num_samples // 800 + 2).repeat_interleave(800, -1)[:, :num_samples]
    return 0.3 * level_S * torch.randn(1, num_samples)


@torch.no_grad()
def fill_codebooks(codec: CodecAdapterWithFeatures) -> None:
    """Replace codebooks that are all zeros, or random, by vectors as the encoder makes them; others stay."""
    stages = list(_euclidean_stages(codec.model))
    projected = [module for module in codec.model.modules() if isinstance(module, ProjectedCodebook)]
    if not stages and not projected:
        return
    latent_TD = codec.latents_of(made_up_signal(codec))[0]
    for book in projected:
        chosen = latent_TD[torch.randint(len(latent_TD), (book.codebook_size,))]
        book.embedding.weight.copy_(chosen + 0.3 * latent_TD.std(0) * torch.randn_like(chosen))
        book.embedding_proj.weight.copy_(torch.eye(latent_TD.shape[1]))
        book.embedding_proj.bias.zero_()
    for project, codebooks in stages:
        residual_ND = latent_TD if project is None else project(latent_TD.T[None])[0].T
        for codebook in codebooks:
            chosen = residual_ND[torch.randint(len(residual_ND), (codebook.codebook_size,))]
            vectors_VD = chosen + 0.3 * residual_ND.std(0) * torch.randn_like(chosen)
            if hasattr(codebook, "embed_sum"):  # Mimi keeps sums and counts, and caches their quotient
                codebook.embed_sum.copy_(vectors_VD * codebook.cluster_usage[:, None])
                codebook._embed = None
            else:
                codebook.embed.copy_(vectors_VD)
            residual_ND = residual_ND - codebook.decode(codebook.encode(residual_ND[None]))[0]


@torch.no_grad()
def centre_projections(codec: CodecAdapterWithFeatures) -> None:
    """Give what enters a small code space (factorised codes, scalars) mean 0, and before scalars deviation 1.

    An untrained encoder's output hardly moves around a constant: it would fall on one code.
    """

    def centre(module: Any, _inputs: Any, output: Tensor) -> Tensor:
        rows = output if isinstance(module, nn.Linear) else output.transpose(1, 2)
        mean, spread = rows.flatten(0, -2).mean(0), torch.ones(())
        if name_of[module] == "project_in":
            spread = rows.flatten(0, -2).std(0).clamp(min=1e-9)
            module.weight.div_(spread[:, None])
        module.bias.copy_((module.bias - mean) / spread)
        rows = (rows - mean) / spread
        return rows if isinstance(module, nn.Linear) else rows.transpose(1, 2)

    found = ((path.rpartition(".")[2], module) for path, module in codec.model.named_modules())
    name_of = {module: name for name, module in found if name in ("in_proj", "project_in")}
    handles = [module.register_forward_hook(centre) for module in name_of if hasattr(module, "bias")]
    if handles:
        codec.codes_of(made_up_signal(codec))
    for handle in handles:
        handle.remove()


def _euclidean_stages(model: nn.Module) -> Iterator[tuple[nn.Module | None, list[Any]]]:
    """(projection before the residual quantiser, its codebooks in order) for every one whose codebooks are zeros."""
    for quantizer in model.modules():
        layers = getattr(quantizer, "layers", getattr(quantizer, "quantizers", None))
        if not isinstance(layers, nn.ModuleList):
            continue
        codebooks: list[Any] = [getattr(layer, "codebook", None) for layer in layers]
        stored = [getattr(book, "embed_sum", getattr(book, "embed", None)) for book in codebooks]
        if stored and all(isinstance(vectors, Tensor) and not vectors.any() for vectors in stored):
            yield getattr(quantizer, "input_proj", None), codebooks
