"""Every family of codecs in a miniature shape with random weights, built in a fraction of a second."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from llmcodec.adapters.base import CodecAdapter
from llmcodec.adapters.random_weights import random_codec

WAV2VEC_BERT = dict(
    model_type="wav2vec2-bert",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    conv_depthwise_kernel_size=3,
)
XCODEC2: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    encoder_hidden_size=2,
    quantization_levels=[4, 4, 4],
    quantization_dim=48,
    semantic_model_config=WAV2VEC_BERT,
)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "encodec": (
        "encodec",
        dict(
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            upsampling_ratios=[4, 4, 2],
            target_bandwidths=[4.5, 18.0],
            num_lstm_layers=1,
        ),
    ),
    "encodec_chunks": (  # as the 48 kHz model: stereo, normalised, chunks of a second (here 3,200 samples)
        "encodec",
        dict(
            sampling_rate=3200,
            audio_channels=2,
            normalize=True,
            chunk_length_s=1.0,
            overlap=0.01,
            norm_type="time_group_norm",
            use_causal_conv=False,
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            upsampling_ratios=[4, 4, 2],
            target_bandwidths=[1.2, 2.4],
            num_lstm_layers=1,
        ),
    ),
    "dac": (
        "dac",
        dict(
            encoder_hidden_size=4,
            decoder_hidden_size=32,
            downsampling_ratios=[2, 4, 5],
            n_codebooks=3,
            codebook_size=64,
            codebook_dim=4,
        ),
    ),
    "mimi": (
        "mimi",
        dict(
            hidden_size=32,
            num_filters=4,
            upsampling_ratios=[5, 4],
            num_quantizers=12,
            codebook_size=64,
            codebook_dim=16,
            vector_quantization_hidden_dimension=16,
            upsample_groups=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=32,
        ),
    ),
    "xcodec": (
        "xcodec",
        dict(
            codebook_size=64,
            target_bandwidths=[0.3, 0.9],
            acoustic_model_config=dict(
                model_type="dac",
                encoder_hidden_size=2,
                downsampling_ratios=[8, 5, 4, 2],
                upsampling_ratios=[8, 5, 4, 2],
                decoder_hidden_size=32,
                hidden_size=32,
            ),
            semantic_model_config=dict(
                model_type="hubert",
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                conv_dim=[8] * 7,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            ),
        ),
    ),
    "xcodec2": ("xcodec2", XCODEC2),
    "neucodec": ("neucodec", XCODEC2),
    "snac": (
        "snac",
        dict(
            sampling_rate=8000,
            encoder_dim=8,
            encoder_rates=[2, 4],
            decoder_dim=64,
            decoder_rates=[4, 2],
            attn_window_size=None,
            codebook_size=64,
            vq_strides=[4, 2, 1],
        ),
    ),
    "snac_windows": (
        "snac",
        dict(
            sampling_rate=8000,
            encoder_dim=16,
            encoder_rates=[2, 4],
            decoder_dim=64,
            decoder_rates=[4, 2],
            attn_window_size=16,
            codebook_size=64,
            vq_strides=[8, 4, 2, 1],
        ),
    ),
    "wavtokenizer": (
        "wavtokenizer",
        dict(
            ratios=[5, 4], codebook_size=64, width=32, num_filters=4, channels=64, inner=48, num_layers=1, lstm_layers=1
        ),
    ),
    "unicodec": (
        "unicodec",
        dict(
            ratios=[5, 4],
            codebook_size=256,
            width=64,
            num_filters=4,
            channels=64,
            inner=48,
            num_layers=1,
            transformer_layers=1,
            transformer_inner=32,
        ),
    ),
    "speechtokenizer": (
        "speechtokenizer",
        dict(ratios=[5, 4], codebook_size=64, width=32, num_filters=4, num_codebooks=3),
    ),
    "soundstream": ("soundstream", dict(num_filters=2, codebook_size=64, num_codebooks=3)),
    "s3tokenizer": ("s3tokenizer", dict(num_mels=80, width=64, num_layers=1, codebook_size=64)),
    "s3tokenizer_v2": ("s3tokenizer", dict(num_mels=80, width=64, num_layers=1, stride=2, memory=True)),
    "auv": ("auv", dict(hidden_size=128, encoder_layers=1, decoder_layers=1, codebook_size=64)),
}


@lru_cache
def tiny_codec(name: str, num_codebooks: int | None = None) -> CodecAdapter:
    """The same weights on every call. Shared by the tests of one process: nobody changes it."""
    family, sizes = TINY[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return random_codec(family, sizes, num_codebooks)


def noise(num_samples: int, seed: int = 0, sample_rate: int = 16_000) -> Tensor:
    """(S,) with a changing level, so that tokens differ over time."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, sample_rate // 20)
    envelope = torch.rand(num_samples // step + 1, generator=generator).repeat_interleave(step)[:num_samples]
    return 0.5 * envelope * torch.randn(num_samples, generator=generator)
