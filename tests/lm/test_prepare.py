"""The model of a training run: its start, its errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from llmcodec.data.manifest import Clip, read_manifest, write_manifest
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import TokenRow, TokenShardWriter
from llmcodec.lm import prepare
from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.embeddings import save_tensors
from llmcodec.lm.prepare import prepare_model, prepare_rows
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig
from llmcodec.lm.small_lm import SmallLMConfig

from ..miniature import miniature_speech
from ..transcode.test_merge import Loudness
from .small_token_lm import NUM_CODES, causal, random_codes

SMALL = SmallLMConfig(1, 16, 2, 24, dropout=0.0, max_positions=128)


def test_a_model_from_scratch_starts_from_neighbours_and_the_seed():
    clips = random_codes(400, num_codes=8)
    config = LMModelConfig(small=SMALL)
    first = prepare_model(config, NUM_CODES, True, seed=3, clips=clips)
    again = prepare_model(config, NUM_CODES, True, seed=3, clips=clips)
    weight = first.module.causal.get_input_embeddings().weight
    assert torch.equal(weight, again.module.causal.get_input_embeddings().weight)
    rows = weight[first.tokens.first :].detach()
    assert float(rows[:8].norm(dim=1).min()) > 3 * float(rows[8:].norm(dim=1).max())  # only 8 codes ever occur
    drawn = prepare_model(config, NUM_CODES, True, seed=3).module.causal.get_input_embeddings().weight[260:]
    assert float(drawn.detach().norm(dim=1).max()) < float(rows[:8].norm(dim=1).min())


def test_a_checkpoint_of_another_model(tmp_path):
    module = prepare_model(LMModelConfig(small=SMALL), NUM_CODES, True).module
    state = module.trainable_state()
    save_tensors(tmp_path / "own", state)
    before = {name: value.clone() for name, value in state.items()}
    for value in state.values():
        value.add_(1.0)
    module.load_trainable_state(tmp_path / "own")
    assert all(torch.equal(value, before[name]) for name, value in module.trainable_state().items())
    for wrong in ({}, state | {"more": torch.zeros(1)}, state | {next(iter(state)): torch.zeros(2)}):
        save_tensors(tmp_path / "wrong", wrong)
        with pytest.raises(ValueError, match="checkpoint: .*it is of another codec, size or language model"):
            module.load_trainable_state(tmp_path / "wrong")


def test_a_tokenizer_ahead_of_its_model(tmp_path):
    tokenizer = byte_tokenizer()
    add_audio_tokens(tokenizer, NUM_CODES)
    tokenizer.save_pretrained(tmp_path)
    causal().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has codec tokens, its model has no rows for them"):
        prepare_model(LMModelConfig(base=str(tmp_path)), NUM_CODES, True)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="not divisible by num_heads"):
        prepare_model(LMModelConfig(small=SmallLMConfig(hidden_size=18, num_heads=4)), NUM_CODES, True)


def test_folders_of_tokens_may_have_another_corpus_name(tmp_path):
    for number, split in enumerate(("train-clean-100", "train_360", "dev-clean", "validation", "test-clean")):
        with TokenShardWriter(tmp_path / split, TokenProvenance("toy", "0" * 64, 16000, 320, 1, NUM_CODES)) as shards:
            shards.add(TokenRow(np.full((1, 1, 5), number), 1600, id=split))
    train, valid, _ = prepare_rows(LMDataConfig(tokens=[str(tmp_path)]), tmp_path)
    assert [row.id for row in train] == ["train-clean-100", "train_360"]
    assert [row.id for row in valid] == ["dev-clean", "validation"]
    with pytest.raises(ValueError, match="data.sources: tokens do not tell their source"):
        prepare_rows(LMDataConfig(tokens=[str(tmp_path)], sources=["a"]), tmp_path)


def test_folders_of_tokens_that_are_not_used_are_named(tmp_path):
    for split in ("train", "valid", "unsplit", "test"):
        with TokenShardWriter(tmp_path / split, TokenProvenance("toy", "0" * 64, 16000, 320, 1, NUM_CODES)) as shards:
            shards.add(TokenRow(np.zeros((1, 1, 5), int), 1600, id=split))
    (tmp_path / "notes").mkdir()
    said = []
    train, _, _ = prepare_rows(LMDataConfig(tokens=[str(tmp_path)]), tmp_path, said.append)
    assert [row.id for row in train] == ["train"]
    assert said == [f"{tmp_path}: only train is trained on; not used: test, unsplit"]
    said.clear()
    data = LMDataConfig(tokens=[str(tmp_path)], valid_tokens=[str(tmp_path / "test")])
    prepare_rows(data, tmp_path, said.append)
    assert said == [f"{tmp_path}: only train is trained on; not used: unsplit, valid"]


@pytest.mark.parametrize("most_in_memory", [100, 1])
def test_a_run_that_goes_on_trains_on_no_clip_that_its_manifest_leaves_out_now(tmp_path, monkeypatch, most_in_memory):
    monkeypatch.setattr(prepare, "open_runtime", lambda codec, only: Loudness())
    manifest = miniature_speech(tmp_path / "speech", (0.4, 0.5, 0.6, 0.7, 0.8))
    clips = [dataclasses.replace(clip, source="good", split="train") for clip in read_manifest(manifest)]

    def ids(clips: list[Clip], **data: Any) -> list[list[str]]:
        write_manifest(manifest, clips)
        said.clear()
        config = LMDataConfig(manifest=str(manifest), most_in_memory=most_in_memory, **data)
        train, valid, _ = prepare_rows(config, tmp_path / "run", said.append)
        return [sorted(row.id for row in rows) for rows in (train[:], valid)]

    said: list[str] = []
    line = "the clips there that this manifest and its filters do not name are left out"
    left_out = [f"{tmp_path}/run/tokens/{split}: {line}" for split in ("train", "valid")]
    clips[3:] = [dataclasses.replace(clip, split="valid") for clip in clips[3:]]
    assert ids(clips) == [["clip0", "clip1", "clip2"], ["clip3", "clip4"]] and not {*left_out} & {*said}
    with TokenShardWriter(tmp_path / "run" / "tokens" / "train", Loudness().identity, resume=True) as shards:
        for name in ("clip0#160", "clip1#160"):
            shards.add(TokenRow(np.zeros((1, 1, 5), int), 1600, id=name))
    wrong = dataclasses.replace(clips[1], source="wrong")
    assert ids([clips[0], wrong, *clips[2:4]], sources=["good"]) == [["clip0", "clip0#160", "clip2"], ["clip3"]]
    assert {*left_out} <= {*said}
    assert ids(clips[:2]) == [["clip0", "clip0#160", "clip1", "clip1#160"], []]
