"""A training run at a scale of seconds: a codec of 64 codes, a Qwen3 of 4 layers, recipes that keep everything on.

Used by tests/training, tests/golden and tests/integration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from llmcodec.assets import shipped_recipe
from llmcodec.cli.experiments import train_parser
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.token_prior import CountedClip, FoldedPrior
from llmcodec.data.clips import ClipBatch
from llmcodec.data.manifest import Clip, write_manifest
from llmcodec.training.recipe import TERMS, Recipe

NUM_CODES = 64
SAMPLE_RATE = 16000


def miniature_codec(seed: int = 0, **overrides: Any) -> LLMCodec:
    """The architecture of `tiny` at a width of 32, random weights."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(hidden_size=32, encoder_layers=1, decoder_layers=1, head_dim=16, attention_window=8)
    return LLMCodec(LLMCodecConfig(**sizes | {"codebook_size": NUM_CODES} | overrides))


def miniature_lm(folder: Path, layers: int = 4) -> Path:
    """A random Qwen3 with a byte tokenizer without BOS, as a folder like those of the hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(1)
    sizes: dict[str, Any] = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    config = Qwen3Config(vocab_size=256, intermediate_size=64, num_hidden_layers=layers, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def miniature_teacher(folder: Path, kind: str = "wav2vec2", **sizes: Any) -> Path:
    """A random speech encoder of two layers with its feature extractor, as a folder like those of the hub."""
    import transformers
    from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    torch.manual_seed(4)
    if kind == "whisper":
        own: dict[str, Any] = dict(d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2)
        own |= dict(decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, vocab_size=32)
        own |= dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
        config = transformers.WhisperConfig(**own | sizes)
        transformers.WhisperModel(config).save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
        return folder
    if kind == "clap":
        audio = dict(window_size=4, num_mel_bins=16, spec_size=128, hidden_size=32, patch_embeds_hidden_size=16)
        audio |= dict(num_hidden_layers=2, depths=[1, 1], num_attention_heads=[2, 2], projection_dim=12)
        text = dict(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        clap = transformers.ClapConfig(text_config=text, audio_config=audio | sizes, projection_dim=12)
        transformers.ClapModel(clap).save_pretrained(folder)
        transformers.ClapFeatureExtractor(feature_size=16, truncation="rand_trunc").save_pretrained(folder)
        return folder
    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[kind]
    own = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7)
    own |= dict(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, num_feat_extract_layers=7)
    config = getattr(transformers, f"{name}Config")(**own | sizes)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def miniature_speech(folder: Path, seconds: tuple[float, ...] = (0.9, 0.62, 0.75, 0.5, 0.83, 0.7)) -> Path:
    """A manifest of synthetic clips: a gliding tone in noise each, with a text; the last has none."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    clips = []
    for number, length in enumerate(seconds):
        time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
        tone = 0.3 * np.sin(2 * np.pi * (150 + 60 * number + 400 * time) * time)
        wav = (tone + 0.05 * random.standard_normal(len(time))).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", wav, SAMPLE_RATE, subtype="FLOAT")
        text = "" if number + 1 == len(seconds) else f"clip number {number}"
        clips.append(Clip(f"clip{number}", f"{number}.wav", len(wav) / SAMPLE_RATE, text, split="train"))
    write_manifest(folder / "train.jsonl", clips)
    return folder / "train.jsonl"


def miniature_counts(seed: int = 4) -> FoldedPrior:
    """Counts of pairs of random codes in three folds, of clips that no test reads."""
    numbers = np.random.default_rng(seed)
    clips = [
        CountedClip(f"counted{n}", np.array([n]), torch.from_numpy(numbers.integers(0, NUM_CODES, 60)))
        for n in range(6)
    ]
    return FoldedPrior.fit(clips, NUM_CODES, folds=3)


def miniature_batch(lengths: tuple[int, ...] = (8000, 5000), dtype: torch.dtype = torch.float32) -> ClipBatch:
    """Noise clips of these many samples, the last without text."""
    generator = torch.Generator().manual_seed(3)
    wav_BS = torch.zeros(len(lengths), max(lengths), dtype=dtype)
    for row_S, length in zip(wav_BS, lengths, strict=True):
        row_S[:length] = 0.1 * torch.randn(length, generator=generator, dtype=torch.float64).to(dtype)
    texts = [f"clip number {number}" for number in range(len(lengths) - 1)] + [""]
    return ClipBatch(wav_BS, torch.tensor(lengths), texts, [f"clip{number}" for number in range(len(lengths))])


def recipe_of(*arguments: str) -> Recipe:
    """A recipe as the command line makes it."""
    return train_parser().read_recipe(arguments)


# What turns any LLM recipe into a miniature in which every term counts from the first step, R1 is taken every second
# step, the bank wraps, a dead code comes to life and the codec is averaged.
EVERYTHING_ON = {
    "steps": 6,
    "accumulate": 2,
    "precision": "fp32",
    "window_seconds": 0.3,
    "adversary_seconds": 0.2,
    "ema_decay": 0.9,
    "log_every": 1,
    "checkpoint_every": 1000,
    "data.split": "train",
    "data.clips_per_batch": 2,
    "data.min_seconds": 0.1,
    "data.prefetch": 0,
    "codec.freeze_batch_norm": "false",
    "codec.revive_below": 1.5,
    "codec.revive_every": 3,
    "codec.usage_decay": 0.9,
    "spectral.multi_mel.n_ffts": "[256, 512]",
    "spectral.multi_mel.num_mels": "[10, 20]",
    "spectral.mrstft.n_ffts": "[512]",
    "spectral.complex_stft.n_ffts": "[512]",
    "adversary": "{mpd: {periods: [2, 3], channels: [4, 4]}, msd: {num_scales: 2, channels: [4, 4], "
    "kernel_sizes: [15, 5], strides: [4, 4], groups: [1, 1]}, stft: {n_ffts: [128], channels: 2, dilations: [1]}, "
    "r1_every: 2, learning_rate: {value: 1.0e-3}}",
    "language.backbone.dtype": "fp32",
    "language.backbone.num_layers": 4,
    "language.backbone.gradient_checkpointing": "false",
    "language.bridge.kind": "projected",
    "language.bridge.mode": "gumbel",
    "language.bridge.bf16": "false",
    "language.prediction.num_heads": 2,
    "language.prediction.bf16": "false",
    "language.alignment.bank_size": 5,
    "language.audio_lm": "null",
    "language.rate.model": "small_lm",
    "language.rate.small_lm": "{hidden_size: 16, num_layers: 1, head_dim: 8, ffn_size: 16}",
    "optimizer.codec": "{kind: muon, lr: 1.0e-3, weight_decay: 0.01}",
    "optimizer.bridge": "{kind: sgd, lr: 1.0e-2, momentum: 0.9}",
    "optimizer.audio": "{kind: adamw, lr: 1.0e-3}",
    "optimizer.audio_lm": "{kind: adamw, lr: 1.0e-3}",
} | {f"weights.{name}": 0.5 for name in TERMS.values()}


def everything_on(name: str, folder: Path, run: str, **options: Any) -> Recipe:
    """Recipe `name` (or several, joined by +) of the package, overridden as above; makes codec, LM and speech."""
    return recipe_of(*everything_typed(name, folder, run, **options))


def everything_typed(name: str, folder: Path, run: str, **options: Any) -> list[str]:
    """The options of `llmcodec train` for `everything_on`."""
    if not (folder / "codec").exists():
        miniature_codec().save_pretrained(folder / "codec")
        miniature_lm(folder / "lm")
        miniature_speech(folder / "speech")
        miniature_teacher(folder / "teacher")
        miniature_counts().save(folder / "counts.safetensors", miniature_codec())
    paths = {
        "run": folder / run,
        "codec.start": folder / "codec",
        "data.manifest": folder / "speech" / "train.jsonl",
        "language.backbone.name": folder / "lm",
        "bigram": f"{{prior: {folder / 'counts.safetensors'}}}",
        "teacher": f"{{name: 'wav2vec2:{folder / 'teacher'}:1'}}",
    }
    configs = [part for one in name.split("+") for part in ("--config", str(shipped_recipe(one)))]
    overrides = EVERYTHING_ON | paths | {key.replace("__", "."): value for key, value in options.items()}
    return [*configs, *(f"--{key}={value}" for key, value in overrides.items())]


def same(left: Any, right: Any, path: str = "") -> list[str]:
    """Paths at which two nested states differ, bit for bit."""
    if isinstance(left, Tensor):
        equal = isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
        return [] if equal else [path]
    if isinstance(left, dict):
        if not isinstance(right, dict) or set(left) != set(right):
            return [path]
        return [line for key in left for line in same(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, (list, tuple)):
        if not isinstance(right, (list, tuple)) or len(left) != len(right):
            return [path]
        return [line for i, pair in enumerate(zip(left, right, strict=True)) for line in same(*pair, f"{path}/{i}")]
    return [] if left == right else [path]
