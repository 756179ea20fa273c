"""Peers in their published shapes with random weights: for speed comparisons and tests, where no hub is reachable.

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

from llmcodec.adapters.base import PeerCodec, PeerCodecWithFeatures
from llmcodec.adapters.codebooks import check_num_codebooks
from llmcodec.adapters.registry import KINDS
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.protocol import Codec

DAC_16KHZ = dict(sampling_rate=16_000, downsampling_ratios=[2, 4, 5, 8], n_codebooks=12)
SNAC_24KHZ = dict(
    sampling_rate=24_000,
    encoder_dim=48,
    encoder_rates=[2, 4, 8, 8],
    decoder_dim=1024,
    decoder_rates=[8, 8, 4, 2],
    attn_window_size=None,
    vq_strides=[4, 2, 1],
)
SNAC_32KHZ = dict(
    sampling_rate=32_000,
    encoder_rates=[2, 3, 8, 8],
    decoder_rates=[8, 8, 3, 2],
    attn_window_size=32,
    vq_strides=[8, 4, 2, 1],
)
ENCODEC_32KHZ = dict(
    sampling_rate=32_000,
    num_filters=64,
    upsampling_ratios=[8, 5, 4, 4],
    target_bandwidths=[2.2],
    codebook_size=2048,
    use_causal_conv=False,
    use_conv_shortcut=False,
)
ENCODEC_48KHZ = dict(
    sampling_rate=48_000,
    audio_channels=2,
    normalize=True,
    chunk_length_s=1.0,
    overlap=0.01,
    target_bandwidths=[3.0, 6.0, 12.0, 24.0],
    norm_type="time_group_norm",
    use_causal_conv=False,
)
PRESETS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "auv": ("auv", {}),
    "bigcodec": ("bigcodec", {}),
    "dac_16khz": ("dac", DAC_16KHZ),
    "dac_24khz": ("dac", DAC_16KHZ | dict(sampling_rate=24_000, n_codebooks=32)),
    "dac_44khz": ("dac", dict(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8], n_codebooks=9)),
    "encodec_24khz": ("encodec", {}),
    "encodec_32khz": ("encodec", ENCODEC_32KHZ),
    "encodec_48khz": ("encodec", ENCODEC_48KHZ),
    "mimi": ("mimi", {}),
    "neucodec": ("neucodec", {}),
    "snac_24khz": ("snac", SNAC_24KHZ),
    "snac_32khz": ("snac", SNAC_32KHZ),
    "snac_44khz": ("snac", SNAC_32KHZ | dict(sampling_rate=44_100)),
    "xcodec": ("xcodec", {}),
    "xcodec2": ("xcodec2", {}),
}
"""Name -> kind and what its published configuration changes in the library's defaults."""
OURS = {"llmcodec_auv": LLMCodecConfig.auv, "llmcodec_tiny": LLMCodecConfig.tiny}
"""Our own architectures."""
SIGNAL_SECONDS, SIGNAL_FRAMES = 4.0, 250


def build_random(name: str, num_codebooks: int | None = None, seed: int = 0) -> Codec:
    """The codec called `name` in `PRESETS` or `OURS` with weights from `seed`; the global generator is left alone.

    Errors: ValueError for an unknown name (the known ones are listed), a missing package, or a number of codebooks that
    the codec cannot use.
    """
    if name not in PRESETS and name not in OURS:
        raise ValueError(f"no codec random:{name}; there are {', '.join(sorted([*PRESETS, *OURS]))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            check_num_codebooks("LLMCodec", num_codebooks, 1, 1)
            return LLMCodec(OURS[name]()).eval()
        kind_name, sizes = PRESETS[name]
        return random_peer(kind_name, sizes, num_codebooks)


def random_peer(kind_name: str, sizes: Mapping[str, Any], num_codebooks: int | None = None) -> PeerCodec:
    """A codec of any size of one kind, with weights from the global generator and filled codebooks."""
    kind = KINDS[kind_name]
    codec = kind.adapt(kind.made_by(kind.build, **sizes), num_codebooks)
    if isinstance(codec, PeerCodecWithFeatures):
        fill_codebooks(codec)
        centre_projections(codec)
    return codec


def made_up_signal(codec: PeerCodecWithFeatures) -> Tensor:
    """(1, S) noise of changing level."""
    seconds = min(SIGNAL_SECONDS, SIGNAL_FRAMES / codec.frame_rate)
    num_samples = codec.padded_samples(int(seconds * codec.sample_rate))
    level_S = torch.rand(1, num_samples // 800 + 2).repeat_interleave(800, -1)[:, :num_samples]
    return 0.3 * level_S * torch.randn(1, num_samples)


@torch.no_grad()
def fill_codebooks(codec: PeerCodecWithFeatures) -> None:
    """Replace codebooks that are all zeros by vectors as the encoder makes them; others stay as they are."""
    stages = list(_euclidean_stages(codec.model))
    if not stages:
        return
    latent_TD = codec.latents_of(made_up_signal(codec))[0]
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
def centre_projections(codec: PeerCodecWithFeatures) -> None:
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
