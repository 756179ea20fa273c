"""The language model of a training run: loaded or built, extended by audio tokens, partly frozen.

    prepared = prepare_model(recipe.model, num_codes=4096, seed=0)
    prepared.module(input_ids=.., position_ids=.., labels=..)     # summed nats of the targets, and their count

Shapes: B rows, L positions, K output rows. Test: `pytest tests/lm/test_prepare.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.data.clip import is_valid
from llmcodec.data.manifest import read_manifest, values_of
from llmcodec.data.splits import split_of_name
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.lm_card import TokenLMCard, full_path, remembered_codec
from llmcodec.io.tensor_check import renewed_digests
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import shards_in
from llmcodec.lm.audio_tokens import AudioTokens, add_audio_tokens, byte_tokenizer
from llmcodec.lm.backbone import DTYPES, checkpoint_layers
from llmcodec.lm.bundled import load_causal_lm, load_tokenizer, resolve_lm
from llmcodec.lm.embeddings import load_tensors, save_tensors
from llmcodec.lm.growth import AudioRows, attach_rows, grow_embeddings
from llmcodec.lm.logits import check_head, hidden_states, output_rows, target_nats
from llmcodec.lm.packing import IGNORE
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig, TokenLMRecipe
from llmcodec.lm.small_lm import small_causal_lm, start_causal_lm
from llmcodec.lm.token_lm import ADAPTER_WEIGHTS, AUDIO_ROWS, DRAFT_HEADS, TokenLM, load_token_lm
from llmcodec.runtime.opening import open_runtime
from llmcodec.transcode.flat_rows import Chosen, FlatRow, read_rows
from llmcodec.transcode.mapped_rows import MappedRows, count_rows
from llmcodec.transcode.tokenize import describe, split_folders, tokenize_splits

T = TypeVar("T")
DraftLoss = Callable[[PredictionHeads, Tensor, Tensor, Tensor, int], Tensor]
"""Heads, states, labels, positions, id of code 0 -> nats."""


class TrainedLM(nn.Module):
    """The trainer's module: the causal LM, separate trainable audio rows, and the loss.

    Args:
        audio_only: softmax over the codes and end of audio; else over the whole vocabulary.
        dropout: on input embeddings and last hidden states, while training.
        heads: draft heads, whose loss is added while training; see `objectives.prediction.draft_nats`.
    """

    accepts_loss_kwargs = True  # the loss is divided by the number of targets in the whole optimizer step

    def __init__(
        self,
        causal: Any,
        tokens: AudioTokens,
        rows: AudioRows | None,
        audio_only: bool,
        dropout: float = 0.0,
        heads: PredictionHeads | None = None,
    ):
        super().__init__()
        self.causal, self.rows, self.heads = causal, rows, heads
        self.draft_loss: DraftLoss | None = None
        self.tokens, self.audio_only, self.dropout = tokens, audio_only, dropout

    @property
    def config(self) -> Any:
        """Hugging Face's trainer reads it."""
        return self.causal.config

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
        """Summed negative log-likelihood, in nats, of the positions whose label is not IGNORE; with draft heads in
        training plus theirs, or theirs alone if nothing else trains."""
        inputs: dict[str, Tensor] = {"input_ids": input_ids}
        if self.dropout and self.training:
            embeds = self.causal.get_input_embeddings()(input_ids)
            inputs = {"inputs_embeds": F.dropout(embeds, self.dropout)}
        hidden_BLH = hidden_states(self.causal, **inputs, position_ids=position_ids)
        drafts: Tensor | float = 0.0
        if self.heads is not None and self.training:
            assert self.draft_loss is not None, "train_token_lm sets it"
            drafts = self.draft_loss(self.heads, hidden_BLH, labels, position_ids, self.tokens.first)
            if not hidden_BLH.requires_grad:
                return drafts
        targets_BL = labels[:, 1:]
        wanted_BL = targets_BL != IGNORE
        hidden_NH = F.dropout(hidden_BLH[:, :-1][wanted_BL], self.dropout, self.training)
        targets_N = targets_BL[wanted_BL]
        if self.audio_only:
            # Column 0 is the end of audio, column c + 1 is code c (`AudioTokens.output_ids`).
            targets_N = torch.where(targets_N == self.tokens.end, 0, targets_N - self.tokens.first + 1)
            rows = output_rows(self.causal, self.tokens.output_ids.to(input_ids.device))
        else:
            rows = output_rows(self.causal, None)
        return target_nats(self.causal, hidden_NH, targets_N, rows).sum() + drafts

    def run(self, function: Callable[[], T]) -> T:
        """Call a function that uses the weights outside `forward`; those that lie in shards are gathered first."""
        return function()

    def trainable_state(self) -> dict[str, Tensor]:
        """All trainable tensors by name; shared weights once."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trainable_state(self, path: Path) -> None:
        """Load the output of `trainable_state`; ValueError for the weights of another model."""
        shapes = {name: value.shape for name, value in self.trainable_state().items()}
        self.take_state(load_tensors(path, shapes, "checkpoint"))

    @torch.no_grad()
    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy trainable tensors, by name, into the model."""
        own = self.trainable_state()
        for name, value in state.items():
            own[name].copy_(value)


def prepare_rows(
    data: LMDataConfig,
    run: Path,
    say: Callable[[str], None] = print,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Sequence[FlatRow], list[FlatRow], TokenProvenance]:
    """Training rows, held-out rows and their codec; a folder with `train` and `valid` inside gives both.

    Names such as `train-clean-100` and `dev-clean` are understood. If the recipe names no tokens, its manifest is
    tokenised into `run/tokens` first.

    Args:
        say: called with messages about that. on_progress: called with the share done.

    Raises:
        ValueError: shards of different codecs, no rows after the filters, sources asked of tokens.
    """
    if data.tokens and data.sources:
        raise ValueError("data.sources: tokens do not tell their source; choose by it when they are made (`--sources`)")
    folders, held_out = [Path(place) for place in data.tokens], [Path(place) for place in data.valid_tokens]
    inside = {place: _folders_in(place) for place in folders}
    chosen: dict[Path, frozenset[str]] = {}
    if not folders:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("several processes: make the tokens first (`llmcodec tokenize`) and name data.tokens")
        clips = read_manifest(data.manifest, sources=data.sources, languages=data.languages, speakers=data.speakers)
        runtime = open_runtime(data.codec, only="encoder")
        folders = [run / "tokens"]
        bad = BadRows(data.max_bad, len(clips))
        told = {"precision": "auto", "runtime": "torch"}
        made = tokenize_splits(runtime, clips, folders[0], on_progress=on_progress, bad=bad, settings=told)
        for line in (*describe(made), *bad.lines()):
            say(line)
        inside = {folders[0]: list(made)}  # what else is there was made of the manifest as it was
        for name, members in split_folders(clips).items():
            if made[folder := folders[0] / name].others:
                chosen[folder] = frozenset(clip_id for (clip_id,) in values_of(members, "id"))
                say(f"{folder}: the clips there that this manifest and its filters do not name are left out")
    trains = {place: [path for path in inside[place] if split_of_name(path.name) == "train"] for place in folders}
    split = [place for place in folders if trains[place]]
    if not data.valid_tokens:
        held_out = [path for place in split for path in inside[place] if is_valid(path.name)]
    folders = [path for place in folders for path in trains[place] or (place,)]
    used = {path.resolve() for path in (*folders, *held_out)}
    for place in split:
        if unused := [path.name for path in inside[place] if path.resolve() not in used and shards_in(path)]:
            names = ", ".join(path.name for path in trains[place])
            say(f"{place}: only {names} is trained on; not used: {', '.join(unused)}")
    rows, codec = open_rows(folders, data, chosen)
    valid = read_rows(held_out, data.speakers, data.languages, codec, chosen)[0] if held_out else []
    if not rows:
        raise ValueError(f"{', '.join(map(str, folders))}: no clip is left after speakers and languages of the recipe")
    return rows, valid, codec


def _folders_in(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def open_rows(folders: Sequence[Path], data: LMDataConfig, chosen: Chosen) -> tuple[Sequence[FlatRow], TokenProvenance]:
    """Rows in memory, or mapped into it where there are more than `data.most_in_memory`; ValueError as `read_rows`."""
    if count_rows(folders) <= data.most_in_memory:
        return read_rows(folders, data.speakers, data.languages, chosen=chosen)
    rows = MappedRows(folders, data.speakers, data.languages, chosen)
    return rows, rows.codec


def codec_place(data: LMDataConfig) -> str:
    """Full path of the codec whose tokens a recipe trains on; "" where it is no folder or nobody wrote it down."""
    if data.tokens:
        return next(filter(None, (remembered_codec(Path(place)) for place in data.tokens)), "")
    return full_path(data.codec) if Path(data.codec).is_dir() else ""


@dataclass
class Prepared:
    """A model ready to train."""

    module: TrainedLM
    tokenizer: Any
    tokens: AudioTokens
    config: LMModelConfig
    peft_model: Any = None
    card: TokenLMCard | None = None
    """Of the LM whose draft heads alone train: what it says of itself stays true."""

    def token_lm(self, card: TokenLMCard | None = None) -> TokenLM:
        """The same weights as a scorer."""
        return TokenLM(self.module.causal, self.tokenizer, self.tokens, card)

    def save(self, folder: Path, card: TokenLMCard) -> Path:
        """Write what `load_token_lm` reads: a plain model, or the adapter and the audio rows; whole or not at all."""
        with atomic_folder(folder, replace=True) as temporary:
            rows = self.module.rows
            if rows is None:
                causal = self.module.causal
                causal.generation_config.eos_token_id = self.tokens.stop_ids(self.tokenizer)
                with renewed_digests(temporary, "model*.safetensors"):
                    causal.save_pretrained(temporary)
            else:
                save_tensors(temporary / AUDIO_ROWS, {name: value.detach() for name, value in rows.named_parameters()})
                if self.peft_model is not None:
                    with renewed_digests(temporary, ADAPTER_WEIGHTS):
                        self.peft_model.save_pretrained(str(temporary), save_embedding_layers=False)
                    (temporary / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
            if self.module.heads is not None:
                save_tensors(temporary / DRAFT_HEADS, self.module.heads.state_dict())
            self.tokenizer.save_pretrained(temporary)
            card.save(temporary)
        return folder


def prepare_model(
    config: LMModelConfig,
    num_codes: int,
    audio_only: bool,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    clips: Sequence[Tensor] = (),
) -> Prepared:
    """Load or build the LM, add tokens and rows, freeze everything else as configured.

    Args:
        clips: training codes, whose co-occurrence initialises the rows of a model from scratch.

    Raises:
        ValueError: a tokenizer with the tokens of another codec, a model with an unknown head, peft missing.
    """
    if config.train == "heads":
        return _heads_alone(config, num_codes, audio_only)
    if config.base is None:
        tokenizer = byte_tokenizer()
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = small_causal_lm(config.small, len(tokenizer), seed, **ends)
    else:
        place = resolve_lm(config.base)
        tokenizer = load_tokenizer(place)
        dtype = torch.float32 if config.train == "full" else DTYPES[config.dtype]
        model = load_causal_lm(place, dtype)
    fresh = "<CODEC_0>" not in tokenizer.get_vocab()
    tokens = add_audio_tokens(tokenizer, num_codes)
    if fresh:  # an LM that already speaks this codec keeps its rows
        grow_embeddings(model, tokens, seed, config.audio_rows)
        if config.base is None:
            start_causal_lm(model, config.small, clips, tokens.first, num_codes)
    elif model.get_input_embeddings().weight.shape[0] <= int(tokens.all_ids.max()):
        raise ValueError(f"{config.base}: its tokenizer has codec tokens, its model has no rows for them")
    check_head(model)
    if gradient_checkpointing:
        checkpoint_layers(model)
    heads = draft_heads(model, tokens, config.heads) if config.heads else None
    if config.train == "full":
        return Prepared(TrainedLM(model, tokens, None, audio_only, config.dropout, heads), tokenizer, tokens, config)
    model.requires_grad_(False)
    peft_model = _add_lora(model, config) if config.train == "lora" else None
    rows = attach_rows(model, tokens)
    module = TrainedLM(model, tokens, rows, audio_only, config.dropout, heads)
    return Prepared(module, tokenizer, tokens, config, peft_model)


def _heads_alone(config: LMModelConfig, num_codes: int, audio_only: bool) -> Prepared:
    """A token LM as it is, with draft heads that train."""
    assert config.base is not None, "the recipe checks it"
    lm = load_token_lm(config.base, merge=True)
    if lm.num_codes != num_codes:
        raise ValueError(f"{config.base}: speaks {lm.num_codes} codes, the tokens are of a codec with {num_codes}")
    lm.model.requires_grad_(False)
    heads = lm.heads if lm.heads is not None and lm.heads.num_heads == config.heads else None
    heads = heads or draft_heads(lm.model, lm.tokens, config.heads)
    module = TrainedLM(lm.model, lm.tokens, None, audio_only, 0.0, heads)
    return Prepared(module, lm.tokenizer, lm.tokens, config, card=lm.card)


def draft_heads(model: Any, tokens: AudioTokens, num_heads: int) -> PredictionHeads:
    """Heads that start as copies of the LM's own output, over the codes."""
    first = tokens.first
    code_ids = torch.arange(first, first + tokens.num_codes, device=model.device)
    return PredictionHeads(num_heads, "residual", output_rows(model, code_ids)[0].float())


def _add_lora(model: Any, config: LMModelConfig) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("recipe: model.train lora needs the package peft: pip install 'llmcodec[lm]'") from error
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def checked_codes(rows: Sequence[FlatRow], num_codes: int) -> list[Tensor]:
    """Flattened codes of every row; ValueError for those of another codec."""
    codes = [torch.as_tensor(row.codes).long() for row in rows]
    for row, clip in zip(rows, codes, strict=True):
        if len(clip) and not 0 <= int(clip.min()) <= int(clip.max()) < num_codes:
            raise ValueError(
                f"clip {row.id}: codes from {int(clip.min())} to {int(clip.max())}, but the codec has {num_codes}: "
                "these are the tokens of another codec"
            )
    return codes


def size_in_words(prepared: Prepared, recipe: TokenLMRecipe) -> str:
    """Where the model comes from, its weights, how many train, and the loss."""
    total = sum(value.numel() for value in prepared.module.parameters())
    trains = sum(value.numel() for value in prepared.module.parameters() if value.requires_grad)
    return (
        f"{recipe.model.base or 'Llama from scratch'}: {total / 1e6:.1f} M weights, {trains / 1e6:.1f} M train; "
        f"{recipe.loss_in_words()}"
    )
