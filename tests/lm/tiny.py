"""Miniature language models built from configs: no download, milliseconds to run."""

from __future__ import annotations

from typing import Any

import torch


def tiny_qwen3(hidden: int = 32, layers: int = 2, vocab: int = 64, seed: int = 0, **options: Any) -> Any:
    """A random Qwen3ForCausalLM (tied by default, as the small Qwen3 are)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    options.setdefault("tie_word_embeddings", True)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            max_position_embeddings=256,
            **options,
        )
    )


def tiny_llama(hidden: int = 32, layers: int = 3, vocab: int = 64) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config)


def tiny_gpt2(hidden: int = 32, layers: int = 2, vocab: int = 64) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_embd=hidden, n_layer=layers, n_head=4, n_positions=128))


class LetterTokenizer:
    """One token per letter, a BOS only if asked for; counts its calls."""

    def __init__(self, bos_token_id: int | None = None):
        self.bos_token_id = bos_token_id
        self.calls = 0

    def __call__(self, text: str) -> dict[str, list[int]]:
        self.calls += 1
        return {"input_ids": [ord(letter) % 64 for letter in text]}
