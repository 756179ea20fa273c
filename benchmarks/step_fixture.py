"""The fixed configuration of `train_step.py`: written once to a folder, read by every measured process.

AUV at full size with random weights, a random Qwen3 of 8 layers x 512 with 4,096 text tokens and a byte tokenizer, two
clips of 4 s made of the bundled speech. Also: what of a process's memory is static, for us and for the reference.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench import RATE
from torch import nn

CLIP_SECONDS = 4.0
NUM_CLIPS = 2
TEXT_TOKENS = 4_096
LM = dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64)


def write_fixture(folder: Path) -> None:
    """Fill `folder` with lm/, codec/, auv.pt (the same codec in AUV's keys), clips and their manifest."""
    from llmcodec.codec import LLMCodec, LLMCodecConfig
    from llmcodec.codec.interop.auv import to_auv

    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig.auv())
    codec.save_pretrained(folder / "codec")
    torch.save(to_auv(codec), folder / "auv.pt")
    write_lm(folder / "lm")
    write_clips(folder)


def write_lm(folder: Path) -> None:
    """A random Qwen3 and a tokenizer of bytes, filled up to 4,096 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(vocab_size=TEXT_TOKENS, intermediate_size=1536, tie_word_embeddings=True, **LM)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"<filler_{i}>" for i in range(TEXT_TOKENS - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<filler_0>").save_pretrained(folder)


def write_clips(folder: Path) -> None:
    """Bundled clips joined until each file holds 4 s, and their manifest."""
    from llmcodec.assets import speech_manifest
    from llmcodec.data.manifest import Clip, read_manifest, write_manifest
    from llmcodec.io import audio

    size, clips = round(CLIP_SECONDS * RATE), []
    source = iter(read_manifest(speech_manifest("train"), with_text=True))
    for index in range(NUM_CLIPS):
        wav, texts = np.zeros(0, np.float32), []
        while len(wav) < size:
            clip = next(source)
            wav, texts = np.concatenate([wav, audio.load(clip.path, RATE)]), [*texts, clip.text]
        audio.write(folder / f"clip_{index}.wav", wav[:size], RATE)
        clips.append(
            Clip(f"clip_{index}", f"clip_{index}.wav", CLIP_SECONDS, " ".join(texts), split="train", folder=str(folder))
        )
    write_manifest(folder / "manifest.jsonl", clips)


@dataclass
class StaticMemory:
    """MB of weights (frozen ones and buffers too), of one gradient per optimised weight, of optimizer states."""

    weights: float
    gradients: float
    states: float


def static_memory() -> StaticMemory:
    """Counted over every module and optimizer alive in this process."""
    gc.collect()
    objects = gc.get_objects()
    modules = [x for x in objects if issubclass(type(x), nn.Module)]
    optimizers = [x for x in objects if issubclass(type(x), torch.optim.Optimizer)]
    kept = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    optimised = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    states = [t for o in optimizers for state in o.state.values() for t in state.values() if torch.is_tensor(t)]
    return StaticMemory(unique_mb(kept), unique_mb(optimised), unique_mb(states))


def unique_mb(tensors: list[torch.Tensor]) -> float:
    """Bytes of distinct storages, in MB."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / 2**20
