"""Random token LMs of a few thousand weights, on the byte tokenizer, for the tests of lm/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcodec.io.token_file import TokenProvenance
from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.growth import grow_embeddings
from llmcodec.lm.token_lm import TokenLM, TokenLMCard

from .tiny import tiny_gpt2, tiny_llama, tiny_qwen3

NUM_CODES = 40
BYTES = 258
CODEC = TokenProvenance("toy", "0" * 64, 16000, 320, 1, NUM_CODES)
FAMILIES = ("llama", "qwen3", "qwen3_untied", "gpt2")


def causal(family: str = "llama") -> Any:
    """A random causal LM with byte rows alone."""
    if family == "gpt2":
        return tiny_gpt2(vocab=BYTES)
    if family.startswith("qwen3"):
        return tiny_qwen3(vocab=BYTES, tie_word_embeddings=family == "qwen3")
    return tiny_llama(vocab=BYTES)


def token_lm(family: str = "llama", codec: TokenProvenance = CODEC, **options: Any) -> TokenLM:
    """Grown, sharpened so that likelihoods differ from each other, in evaluation mode."""
    tokenizer, model = byte_tokenizer(), causal(family)
    tokens = add_audio_tokens(tokenizer, codec.num_codebooks * codec.codebook_size)
    grow_embeddings(model, tokens)
    with torch.no_grad():
        for value in {
            id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())
        }.values():
            value.mul_(20.0)
    card = TokenLMCard(codec=codec, formats=["audio", "tts"])
    return TokenLM(model.eval(), tokenizer, tokens, card, **options)


def random_codes(*lengths: int, seed: int = 0, num_codes: int = NUM_CODES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, num_codes, (length,), generator=generator) for length in lengths]


@dataclass
class Row:
    """A row of token shards as sequences are built from."""

    id: str
    codes: Tensor
    text: str = ""
    speaker: str = "s"
    language: str = "en"


def rows(count: int = 12, seed: int = 0, text: str = "clip {}") -> list[Row]:
    lengths = [3 + 5 * (number % 4) for number in range(count)]
    return [Row(f"c{i}", codes, text.format(i)) for i, codes in enumerate(random_codes(*lengths, seed=seed))]
