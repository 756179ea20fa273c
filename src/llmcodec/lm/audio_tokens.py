"""Audio tokens in a Hugging Face tokenizer.

    tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B", trust_remote_code=False)
    tokens = add_audio_tokens(tokenizer, num_codes=4096)     # <CODEC_BEGIN> <CODEC_END> <CODEC_0> .. <CODEC_4095>
    ids = tokens.ids(codes)                                   # codes -> token ids of the language model

The codes are ordinary added tokens, so that servers which skip special tokens keep them in the text they return; begin
and end are special. Test: `pytest tests/lm/test_audio_tokens.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcodec.io.token_text import BEGIN, END, codec_token

PAD, END_OF_TEXT = "<PAD>", "<END_OF_TEXT>"


@dataclass(frozen=True)
class AudioTokens:
    """Ids of the audio tokens in a language model's vocabulary: code i is token `first + i`."""

    num_codes: int
    """Number of codes: codebooks times codes per codebook."""
    first: int
    begin: int
    end: int

    def ids(self, codes: Tensor) -> Tensor:
        """Flattened codes (T,) -> token ids (T,), int64.

        Raises:
            ValueError: a code outside [0, num_codes): tokens of another codec.
        """
        codes = codes.to(torch.int64)
        if codes.ndim != 1:
            raise ValueError(f"codes: expected one row of flattened codes, got shape {tuple(codes.shape)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.num_codes):
            raise ValueError(
                f"codes from {int(codes.min())} to {int(codes.max())}, but this language model knows 0 to "
                f"{self.num_codes - 1}: these are the tokens of another codec"
            )
        return codes + self.first

    def codes(self, ids: Tensor) -> Tensor:
        """Token ids -> codes; ids that are not codes are left out."""
        return ids[self.is_code(ids)] - self.first

    def is_code(self, ids: Tensor) -> Tensor:
        """True if an id is a code."""
        return (ids >= self.first) & (ids < self.first + self.num_codes)

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """Tokens at which generation stops: end of audio, and end of text if there is one."""
        eos = tokenizer.eos_token_id
        return [self.end] + ([] if eos is None else [eos])

    @property
    def output_ids(self) -> Tensor:
        """Ids that may follow inside audio, (num_codes + 1,): end of audio, then the codes; code c is column c + 1."""
        return torch.cat([torch.tensor([self.end]), torch.arange(self.first, self.first + self.num_codes)])

    @property
    def all_ids(self) -> Tensor:
        """All audio ids, (num_codes + 2,): begin, end, codes."""
        return torch.cat([torch.tensor([self.begin]), self.output_ids])


def find_audio_tokens(tokenizer: Any) -> AudioTokens | None:
    """The audio tokens that a tokenizer already has, or None.

    Raises:
        ValueError: it has some in a form that cannot be used (gaps, no begin or end token).
    """
    vocabulary = tokenizer.get_vocab()
    if codec_token(0) not in vocabulary:
        return None
    first, num_codes = vocabulary[codec_token(0)], 0
    while codec_token(num_codes) in vocabulary:
        if vocabulary[codec_token(num_codes)] != first + num_codes:
            raise ValueError(
                f"tokenizer: {codec_token(num_codes)} has id {vocabulary[codec_token(num_codes)]}, expected "
                f"{first + num_codes}: its codec tokens are not consecutive and cannot be used"
            )
        num_codes += 1
    missing = [marker for marker in (BEGIN, END) if marker not in vocabulary]
    if missing:
        raise ValueError(f"tokenizer: it has {num_codes} codec tokens but no {' and no '.join(missing)}")
    return AudioTokens(num_codes, first, vocabulary[BEGIN], vocabulary[END])


def add_audio_tokens(tokenizer: Any, num_codes: int) -> AudioTokens:
    """Add the tokens of a codec to a tokenizer, in place; one that has them already stays as it is.

    Raises:
        ValueError: the tokenizer has the tokens of a codec of another size.
    """
    from tokenizers import AddedToken

    if num_codes < 1:
        raise ValueError(f"tokenizer: a codec has at least one code, not {num_codes}")
    vocabulary = tokenizer.get_vocab()
    present = sum(codec_token(code) in vocabulary for code in range(num_codes))
    if present not in (0, num_codes) or codec_token(num_codes) in vocabulary:
        raise ValueError(
            f"tokenizer: it already has codec tokens, but not the {num_codes} of this codec: "
            "start from the plain language model, or use the codec that it was made for"
        )
    markers = [AddedToken(marker, special=True, normalized=False) for marker in (BEGIN, END)]
    tokenizer.add_tokens([marker for marker in markers if marker.content not in vocabulary], special_tokens=True)
    if not present:
        tokenizer.add_tokens([AddedToken(codec_token(code), normalized=False) for code in range(num_codes)])
    tokens = find_audio_tokens(tokenizer)
    assert tokens is not None and tokens.num_codes == num_codes
    return tokens


def byte_tokenizer() -> Any:
    """A tokenizer that reads any text as its UTF-8 bytes: 256 tokens, padding and end of text. For small LMs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.add_special_tokens({"pad_token": PAD, "eos_token": END_OF_TEXT})
    return fast
