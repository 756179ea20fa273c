"""A language model over codec tokens: loaded, scored, saved. Everything that scores speech takes one of these.

    lm = load_token_lm("runs/lm_small/lm")             # a folder of `lm train` or `lm export`, or a hub id
    nats = lm.token_log_likelihoods([codes_T, ...])     # log p(code | codes before it), one row per clip

A clip is read as <CODEC_BEGIN> code code ..; row t of the result has seen the codes before t and nothing else. The
softmax runs over the codes only (`normalise: audio`, comparable between codecs and LMs) or over the LM's whole
vocabulary (`full`). Shapes: T tokens. Test: `pytest tests/lm/test_token_lm.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llmcodec.assets import BUNDLED, lm_folder
from llmcodec.io.hub_names import refuse_lost_path
from llmcodec.io.lm_card import CARD, TokenLMCard
from llmcodec.io.tensor_check import check_tensors, find_missing_files
from llmcodec.io.tensor_file import read_header
from llmcodec.lm.audio_tokens import AudioTokens, find_audio_tokens
from llmcodec.lm.backbone import DTYPES
from llmcodec.lm.bundled import check_lm_folder, load_causal_lm, load_tokenizer
from llmcodec.lm.embeddings import load_module, load_tensors
from llmcodec.lm.growth import grow_embeddings, is_tied, write_rows
from llmcodec.lm.logits import evaluating, hidden_states, output_rows, target_nats
from llmcodec.lm.packing import score_in_windows
from llmcodec.lm.prediction_heads import PredictionHeads

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
AUDIO_ROWS = "audio_rows.safetensors"
DRAFT_HEADS = "draft_heads.safetensors"
Normalise = Literal["audio", "full"]


class TokenLM:
    """A causal LM, its tokenizer and the codec tokens in it. Meets `protocol.TokenScorer`.

    Args:
        model: Hugging Face causal LM with a row for every audio token.
        normalise: softmax over the codes only, or over the whole vocabulary.
        long_clips: a clip beyond `max_codes` is refused, or scored in windows (every code has read at least half a
            window before it, except at the start of the clip).
        batch_tokens: padded tokens in one pass.
        heads: draft heads for speculative sampling, if it has any: head k predicts the k-th code after the next token.
    """

    heads: PredictionHeads | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        tokens: AudioTokens,
        card: TokenLMCard | None = None,
        normalise: Normalise = "audio",
        long_clips: Literal["refuse", "window"] = "window",
        batch_tokens: int = 4096,
    ):
        if model.get_input_embeddings().weight.shape[0] <= int(tokens.all_ids.max()):
            raise ValueError(
                f"token LM: the tokenizer has token ids up to {int(tokens.all_ids.max())}, the model only "
                f"{model.get_input_embeddings().weight.shape[0]} rows: they do not belong together"
            )
        if normalise not in ("audio", "full") or long_clips not in ("refuse", "window"):
            raise ValueError(f"token LM: normalise is audio or full, long_clips refuse or window, got {normalise!r}")
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self.card = card or TokenLMCard()
        self.normalise, self.long_clips, self.batch_tokens = normalise, long_clips, batch_tokens

    @property
    def num_codes(self) -> int:
        """Codes it knows, all codebooks counted."""
        return self.tokens.num_codes

    @property
    def max_positions(self) -> int:
        """Longest sequence that the model can read."""
        config = self.model.config
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found) if found else 1 << 30

    @property
    def context(self) -> int:
        """Longest sequence that it was trained on; where that is not known, that it can read."""
        return min(self.max_positions, self.card.max_tokens or self.max_positions)

    @property
    def max_codes(self) -> int:
        """Longest clip that it scores in one piece: positions that training never showed would count as surprise."""
        return self.context - 1

    @property
    def device(self) -> torch.device:
        return self.model.device  # type: ignore[no-any-return]

    def token_log_likelihoods(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Clips of flattened codes, 1-D -> natural log-likelihood of every code given those before it, float32 1-D.

        A clip gets the same values in a batch as alone.

        Raises:
            ValueError: no codes, codes of another codec, or a clip beyond `max_codes` where such are refused.
        """
        rows = [self._ids(row, f"clip {clip}") for clip, row in enumerate(codes)]
        with evaluating(self.model):
            return score_in_windows(rows, self.max_codes, self.batch_tokens, self._score, start_tokens=1)

    def _ids(self, codes_T: Tensor, name: str) -> Tensor:
        if codes_T.ndim != 1 or len(codes_T) == 0:
            raise ValueError(f"{name}: expected a row of codes, got shape {tuple(codes_T.shape)}")
        if len(codes_T) > self.max_codes and self.long_clips == "refuse":
            raise ValueError(
                f"{name}: {len(codes_T)} tokens, but this language model was trained on {self.max_codes}; cut the "
                "clip, or score it in windows (--long-clips window)"
            )
        return self.tokens.ids(codes_T.cpu())

    def _score(self, pieces: list[Tensor], skips: list[int]) -> list[Tensor]:
        """Log-likelihoods of the ids of each piece, except for the first `skip`, after a begin token."""
        longest = max(len(piece) for piece in pieces)
        ids_BL = torch.full((len(pieces), longest), self.tokens.end)
        wanted_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        ids_BL[:, 0] = self.tokens.begin
        for row, (piece, skip) in enumerate(zip(pieces, skips, strict=True)):
            ids_BL[row, 1 : len(piece)] = piece[:-1]
            wanted_BL[row, skip : len(piece)] = True
        hidden_BLH = hidden_states(self.model, input_ids=ids_BL.to(self.device))
        targets_N = torch.cat([piece[skip:] for piece, skip in zip(pieces, skips, strict=True)]).to(self.device)
        if self.normalise == "audio":
            first = self.tokens.first
            code_ids = torch.arange(first, first + self.num_codes, device=self.device)
            rows, targets_N = output_rows(self.model, code_ids), targets_N - first
        else:
            rows = output_rows(self.model, None)
        nats_N = target_nats(self.model, hidden_BLH[wanted_BL.to(self.device)], targets_N, rows).cpu()
        return [-row for row in nats_N.split([len(piece) - skip for piece, skip in zip(pieces, skips, strict=True)])]


def load_token_lm(
    place: str, device: str = "cpu", dtype: str = "fp32", normalise: Normalise = "audio", merge: bool = False
) -> TokenLM:
    """A token LM: `bundled`, a folder of `lm train` or `lm export`, or from the Hugging Face hub; in evaluation mode.

    Any causal LM whose tokenizer has `<CODEC_0>` .. and the begin and end tokens is taken. An adapter folder (LoRA)
    loads the LM below it, grows it and puts the adapter on top; `merge` folds it into the weights.

    Raises:
        ValueError: there is no such LM, or its tokenizer has no codec tokens.
    """
    if dtype not in DTYPES:
        raise ValueError(f"token LM: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    folder = _folder(place)
    card = TokenLMCard.load(folder)
    tokenizer = load_tokenizer(folder)
    tokens = find_audio_tokens(tokenizer)
    if tokens is None:
        raise ValueError(f"{place}: its tokenizer has no codec tokens; train with `llmcodec lm train` first")
    if (folder / AUDIO_ROWS).is_file():
        model = _load_adapter(folder, card, tokens, DTYPES[dtype], merge)
    else:
        model = load_causal_lm(str(folder), DTYPES[dtype], ours=(folder / CARD).is_file())
    lm = TokenLM(model.to(device).eval(), tokenizer, tokens, card, normalise)
    if (folder / DRAFT_HEADS).is_file():
        lm.heads = _load_heads(folder / DRAFT_HEADS, lm).to(device, DTYPES[dtype]).eval()
    return lm


def _load_heads(path: Path, lm: TokenLM) -> PredictionHeads:
    """Draft heads from beside the LM; ValueError for those of another one."""
    blocks = [name for name in read_header(path).tensors if name.startswith("blocks.") and name.endswith(".weight")]
    if not blocks:
        raise ValueError(f"{path}: holds no draft heads; `llmcodec lm train --model.heads N` trains some")
    width = lm.model.get_input_embeddings().weight.shape[1]
    heads = PredictionHeads(len(blocks), "residual", torch.empty(lm.num_codes, width))
    load_module(heads, path, "draft heads")
    return heads


def _folder(place: str) -> Path:
    folder = lm_folder() if place == BUNDLED and not Path(place).exists() else Path(place)
    if (folder / "lm" / CARD).is_file():
        folder = folder / "lm"  # the run folder itself
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / CARD).is_file():
            raise ValueError(f"{place}: no language model in this folder (config.json or {CARD} is missing)")
        check_lm_folder(folder)
        return folder
    refuse_lost_path(place, "language model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place))
    except (OSError, ValueError) as error:
        raise ValueError(f"{place}: neither a folder nor a model on the hub ({type(error).__name__})") from error


def _load_adapter(folder: Path, card: TokenLMCard, tokens: AudioTokens, dtype: torch.dtype, merge: bool) -> Any:
    """The base LM with added tokens, the trained rows in its matrices, and LoRA (if any) on top."""
    check_adapter(folder)
    model: Any = load_causal_lm(card.base, dtype, said_by=folder / CARD)
    grow_embeddings(model, tokens, card.seed)
    shape = (tokens.num_codes + 2, model.get_input_embeddings().weight.shape[1])
    names = ["input_NH"] if is_tied(model) else ["input_NH", "output_NH"]
    write_rows(model, tokens, load_tensors(folder / AUDIO_ROWS, dict.fromkeys(names, shape), "audio rows"))
    if not (folder / ADAPTER).is_file():
        return model
    peft_model = _load_lora(model, folder)
    return peft_model.merge_and_unload() if merge else peft_model.get_base_model()


def check_adapter(folder: Path) -> None:
    """Raise ValueError for an adapter that would load without one of its files, and score as if nothing were wrong."""
    gone = find_missing_files(folder)
    if not gone and (folder / ADAPTER).is_file() != (folder / ADAPTER_WEIGHTS).is_file():
        gone = [ADAPTER, f"or {ADAPTER_WEIGHTS}"]
    if gone:
        raise ValueError(f"{folder}: the adapter is not whole: {' '.join(gone)} is missing; other formats are not read")


def _load_lora(model: Any, folder: Path) -> Any:
    """The adapter over the LM, every tensor of it from the folder and of its shape."""
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise ValueError(f"{folder}: a LoRA adapter needs the package peft: pip install 'llmcodec[lm]'") from error
    path = check_tensors(folder / ADAPTER_WEIGHTS)
    found = {name: entry.shape for name, entry in read_header(path).tensors.items()}
    try:
        peft_model = PeftModel.from_pretrained(model, str(folder))
    except RuntimeError as error:  # a shape that differs
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{path}: does not fit the language model ({reason[:160]})") from error
    state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            there, needed = found.get(name, "nothing"), wanted.get(name, "nothing")
            raise ValueError(f"{path}: has {there} for {name[:120]}, the adapter on this language model needs {needed}")
    return peft_model
