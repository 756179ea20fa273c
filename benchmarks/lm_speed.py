"""Token LMs on this machine: tokens per second of training and of sampling, against plain Hugging Face loops.

    OMP_NUM_THREADS=1 python benchmarks/lm_speed.py

Same model (recipes/lm_small.yaml: 4 layers of 256, 4,096 codes), same clips (lengths of the bundled speech), same
optimizer, taken in turns in one process. Training: `model(input_ids, attention_mask, labels).loss.backward()`, padded
batches in float32, against packed rows, bf16 autocast and logits of targets alone. Sampling: `model.generate`, clip by
clip with its cache and in one batch, against `lm.sampling.sample` of all clips together. Real tokens count; padding
does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import CLOCKS, new_parser
from torch import Tensor

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.lm.packing import RowDataset, collate, plan_rows
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.sampling import SamplingConfig, sample, speech_prompt
from llmcodec.lm.sequences import SequenceBuilder
from llmcodec.lm.token_lm import TokenLM

CLOCK: Callable[[], float] = time.perf_counter
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


def training(batch_tokens: int) -> dict[str, Callable[[int], tuple[float, int]]]:
    """Name -> function that makes some steps and returns seconds and real tokens."""
    plain, ours = (prepare_model(MODEL, NUM_CODES, True) for _ in range(2))
    builder = SequenceBuilder(ours.tokenizer, ours.tokens, 512)
    sequences = builder.build(clips(), ["audio"]).sequences
    shuffled = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)).tolist()
    rows = 4
    per_batch = max(1, round(batch_tokens / (sum(len(one) for one in sequences) / len(sequences))))
    padded = [shuffled[start : start + per_batch] for start in range(0, len(shuffled) - per_batch, per_batch)]
    packed = RowDataset(sequences, plan_rows([len(one) for one in sequences], batch_tokens // rows, 0))
    model, module = plain.module.causal, ours.module
    model.train(), module.train()
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-4, fused=True) for one in (model, module)]

    def plain_steps(number: int) -> tuple[float, int]:
        started, tokens = CLOCK(), 0
        for step in range(number):
            batch = [sequences[i].ids for i in padded[step % len(padded)]]
            length = max(len(ids) for ids in batch)
            ids = torch.zeros(len(batch), length, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, one in enumerate(batch):
                ids[row, : len(one)], mask[row, : len(one)] = one, 1
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers[0].step()
            optimizers[0].zero_grad()
            tokens += int(mask.sum())
        return CLOCK() - started, tokens

    def our_steps(number: int, bf16: bool = True) -> tuple[float, int]:
        started, tokens = CLOCK(), 0
        for step in range(number):
            places = [(step * rows + i) % len(packed) for i in range(rows)]
            batch = collate([packed[place] for place in places])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                nats = module(**batch)
            (nats / (batch["labels"] != -100).sum()).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizers[1].step()
            optimizers[1].zero_grad()
            tokens += sum(len(packed[place]["input_ids"]) for place in places)
        return CLOCK() - started, tokens

    return {
        "plain loop, padded, fp32": plain_steps,
        "packed, fp32": lambda number: our_steps(number, bf16=False),
        "packed, bf16": our_steps,
    }


def sampling(num_clips: int, num_codes: int) -> dict[str, Callable[[int], tuple[float, int]]]:
    prepared = prepare_model(MODEL, NUM_CODES, True)
    model = prepared.module.causal.eval()
    lm = TokenLM(model, prepared.tokenizer, prepared.tokens)
    prompts = [speech_prompt(lm, clip.codes[:50]) for clip in clips() if len(clip.codes) >= 50][:num_clips]
    options = dict(do_sample=True, temperature=0.9, top_p=0.98, top_k=0, max_new_tokens=num_codes)
    options |= dict(min_new_tokens=num_codes, pad_token_id=0, eos_token_id=lm.tokens.end)
    config = SamplingConfig(temperature=0.9, top_p=0.98, max_codes=num_codes, min_codes=num_codes)

    def one_by_one(number: int) -> tuple[float, int]:
        started = CLOCK()
        for prompt in prompts[:number]:
            model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), **options)
        return CLOCK() - started, number * num_codes

    def hf_batch(number: int) -> tuple[float, int]:
        ids = torch.stack(prompts)
        started = CLOCK()
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return CLOCK() - started, len(prompts) * num_codes

    def ours(number: int) -> tuple[float, int]:
        started = CLOCK()
        drawn = sample(lm, prompts, config)
        return CLOCK() - started, sum(len(one) for one in drawn)

    return {"generate, clip by clip": one_by_one, "generate, one batch": hf_batch, "ours, one batch": ours}


def compare(title: str, ways: dict[str, Callable[[int], tuple[float, int]]], number: int, rounds: int) -> None:
    """Ways take turns; medians of tokens per second, and ratios to the first way within each round."""
    for way in ways.values():
        way(1)  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, tokens = way(number)
            rates[name].append(tokens / seconds)
    first = next(iter(rates))
    print(f"\n{title} ({torch.get_num_threads()} thread(s), {rounds} rounds)")
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates[first], strict=True)]
        print(
            f"  {name:<28} {statistics.median(values):8.0f} tokens/s   x {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        )


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps, and clips of the loop, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--clips", type=int, default=16, help="clips sampled together")
    parser.add_argument("--codes", type=int, default=100, help="codes drawn per clip")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall", help="process: on a busy machine")
    options = parser.parse_args()
    global CLOCK
    CLOCK = CLOCKS[options.clock]
    compare("training", training(options.batch_tokens), options.steps, options.rounds)
    compare("sampling", sampling(options.clips, options.codes), options.steps, options.rounds)


if __name__ == "__main__":
    main()
