"""Token LMs on this machine: tokens per second of training and of sampling, against plain Hugging Face loops.

    OMP_NUM_THREADS=1 python benchmarks/lm_speed.py

Same model (recipes/lm_small.yaml: 4 layers of 256, 4,096 codes), same clips (lengths of the bundled speech), same
optimizer, taken in turns in one process. Training: `model(input_ids, attention_mask, labels).loss.backward()`, padded
batches in float32, against packed rows, bf16 autocast and logits of targets alone. Sampling: `model.generate`, clip by
clip with its cache and in one batch, against `lm.sampling.sample` of all clips together. Real tokens count; padding
does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from bench import CLOCKS, options, take_turns, timed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.lm.packing import RowDataset, collate, plan_rows
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.sampling import SamplingConfig, sample, speech_prompt
from llmcodec.lm.sequences import SequenceBuilder
from llmcodec.lm.token_lm import TokenLM

NUM_CODES, FRAME_RATE = 4096, 50
MODEL = LMModelConfig()


@dataclass
class Clip:
    """A clip of random codes with a real length."""

    id: str
    codes: Tensor
    text: str = ""
    speaker: str = ""
    language: str = ""


def clips() -> list[Clip]:
    generator = torch.Generator().manual_seed(0)
    lengths = [(clip.id, max(1, round(clip.duration * FRAME_RATE))) for clip in read_manifest(speech_manifest("train"))]
    return [Clip(name, torch.randint(0, NUM_CODES, (length,), generator=generator)) for name, length in lengths]


def training(batch_tokens: int, device: str = "cpu") -> dict[str, Callable[[int], int]]:
    """Name -> function that makes some steps and returns their real tokens."""
    plain, ours = (prepare_model(MODEL, NUM_CODES, True) for _ in range(2))
    builder = SequenceBuilder(ours.tokenizer, ours.tokens, 512)
    sequences = builder.build(clips(), ["audio"]).sequences
    shuffled = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)).tolist()
    rows = 4
    per_batch = max(1, round(batch_tokens / (sum(len(one) for one in sequences) / len(sequences))))
    padded = [shuffled[start : start + per_batch] for start in range(0, len(shuffled) - per_batch, per_batch)]
    packed = RowDataset(sequences, plan_rows([len(one) for one in sequences], batch_tokens // rows, 0))
    model, module = plain.module.causal, ours.module
    model.to(device).train(), module.to(device).train()
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-4, fused=True) for one in (model, module)]

    def update(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def plain_steps(number: int) -> int:
        tokens = 0
        for step in range(number):
            batch = [sequences[i].ids for i in padded[step % len(padded)]]
            ids, mask = pad_sequence(batch, True), pad_sequence([torch.ones_like(one) for one in batch], True)
            ids, mask = ids.to(device), mask.to(device)
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
            loss.backward()
            update(model, optimizers[0])
            tokens += int(mask.sum())
        return tokens

    def our_steps(number: int, bf16: bool = True) -> int:
        tokens = 0
        for step in range(number):
            places = [(step * rows + i) % len(packed) for i in range(rows)]
            batch = {name: x.to(device) for name, x in collate([packed[place] for place in places]).items()}
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                nats = module(**batch)
            (nats / (batch["labels"] != -100).sum()).backward()
            update(module, optimizers[1])
            tokens += sum(len(packed[place]["input_ids"]) for place in places)
        return tokens

    return {
        "plain loop, padded, fp32": plain_steps,
        "packed, fp32": lambda number: our_steps(number, bf16=False),
        "packed, bf16": our_steps,
    }


def sampling(num_clips: int, num_codes: int, device: str = "cpu") -> dict[str, Callable[[int], int]]:
    prepared = prepare_model(MODEL, NUM_CODES, True)
    model = prepared.module.causal.to(device).eval()
    lm = TokenLM(model, prepared.tokenizer, prepared.tokens)
    prompts = [speech_prompt(lm, clip.codes[:50]).to(device) for clip in clips() if len(clip.codes) >= 50][:num_clips]
    settings = dict(do_sample=True, temperature=0.9, top_p=0.98, top_k=0, max_new_tokens=num_codes)
    settings |= dict(min_new_tokens=num_codes, pad_token_id=0, eos_token_id=lm.tokens.end)
    config = SamplingConfig(temperature=0.9, top_p=0.98, max_codes=num_codes, min_codes=num_codes)

    def one_by_one(number: int) -> int:
        for prompt in prompts[:number]:
            model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), **settings)
        return number * num_codes

    def hf_batch(number: int) -> int:
        ids = torch.stack(prompts)
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return len(prompts) * num_codes

    def ours(number: int) -> int:
        return sum(len(one) for one in sample(lm, prompts, config))

    return {"generate, clip by clip": one_by_one, "generate, one batch": hf_batch, "ours, one batch": ours}


def compare(title: str, ways: dict[str, Callable[[int], int]], args: argparse.Namespace) -> None:
    """Ways take turns; medians of tokens per second, and ratios to the first way within each round."""
    for way in ways.values():
        way(1)  # warm-up
    runs = take_turns(
        {name: partial(timed, partial(way, args.steps), args.device) for name, way in ways.items()}, args.rounds
    )
    rates = {name: [spent.result / getattr(spent, args.clock) for spent in found] for name, found in runs.items()}
    args.found[title] = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(rates.values()))
    print(f"\n{title} ({torch.get_num_threads()} thread(s), {args.rounds} rounds)")
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        print(
            f"  {name:<28} {statistics.median(values):8.0f} tokens/s   x {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        )


def main() -> None:
    args = options(
        __doc__,
        steps=(4, "optimizer steps, and clips of the loop, in a round"),
        rounds=5,
        batch_tokens=2048,
        clips=(16, "clips sampled together"),
        codes=(100, "codes drawn per clip"),
        clock=("wall", "process: on a busy machine", CLOCKS),
        device="cpu",
        json=(None, "write medians of tokens per second there"),
    )
    args.found = {}
    for title, ways in (
        ("training", lambda: training(args.batch_tokens, args.device)),
        ("sampling", lambda: sampling(args.clips, args.codes, args.device)),
    ):
        compare(title, ways(), args)
        if args.json is not None:
            Path(args.json).write_text(json.dumps(args.found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
