"""One training step of the paper's recipe at AUV size through a random Qwen3-4B, and resuming it, on one GPU.

    python benchmarks/gpu_step.py --json step.json                     # one GPU of 140 GB, no internet
    python benchmarks/gpu_step.py --json step.json --miniature         # the same path on any machine, tiny networks

What runs is `Trainer.train_step` with all terms of recipes/paper.yaml on. Figures: seconds a step (median), peak of the
GPU's memory, matrix operations (torch's FlopCounterMode, forward and backward passes of one step) and their share of
this GPU's own bf16 rate, measured as products of 8,192 x 8,192. Resume: a checkpoint, a new trainer that loads it, and
the loss of the same step in both. Each figure is written as soon as it is there.
Part of gpu_proof.sh; it has not run on a GPU. Test: tests/integration/test_gpu_proof.py.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import fastest, options, timed
from step_fixture import write_lm
from torch.utils.flop_counter import FlopCounterMode

QWEN3_4B = dict(
    hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=9728, vocab_size=151_936, tie_word_embeddings=True,
)  # fmt: skip
SMALL = dict(
    hidden_size=32, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    intermediate_size=64, vocab_size=4_096, tie_word_embeddings=True,
)  # fmt: skip


def random_backbone(sizes: dict[str, Any], folder: Path, device: str) -> Any:
    """A frozen Qwen3 with random bf16 weights, made on the device, with a tokenizer of bytes."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from llmcodec.lm.backbone import FrozenCausalLM

    write_lm(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with torch.device(device), torch.random.fork_rng():
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = Qwen3ForCausalLM(Qwen3Config(**sizes))
        finally:
            torch.set_default_dtype(torch.float32)
    return FrozenCausalLM(model, tokenizer)


def recipe_of(folder: Path, args: Any) -> Any:
    from llmcodec.cli.recipes import training_parser
    from llmcodec.training.recipe import Recipe

    changes = ["--config", "paper", "--run", str(folder / "run"), "--data.manifest", "bundled", "--steps", "1000000"]
    changes += ["--data.prefetch", "0", "--data.max_seconds", "6", "--checkpoint_every", "1000000"]
    changes += ["--codec.start", "auv", "--accumulate", "1", "--data.clips_per_batch", str(args.clips)]
    if args.miniature:
        changes += ["--codec.start", "tiny", "--window_seconds", "0.3", "--adversary_seconds", "0.2"]
        changes += ["--codec.overrides", "{hidden_size: 32, encoder_layers: 1, decoder_layers: 1, head_dim: 16}"]
        changes += ["--adversary.mpd.width", "0.03", "--adversary.msd", "null"]
    return training_parser(Recipe, "gpu_step", "").read_recipe(changes)


def main() -> None:
    args = options(
        __doc__,
        json=("gpu_step.json", "where the figures go"),
        clips=(8, "in a micro-batch"),
        repeats=5,
        miniature=False,
    )
    from llmcodec.lm.backbone import FrozenCausalLM
    from llmcodec.training.run_folder import begin_run
    from llmcodec.training.trainer import Trainer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    figures |= {"torch": torch.__version__, "miniature": args.miniature, "clips": args.clips}

    def found(**more: Any) -> None:
        figures.update(more)
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    width = 256 if args.miniature else 8192
    left, right = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * width**3 / fastest(lambda: left @ right, 10, device).wall
    found(peak_bf16_tflops=peak / 1e12)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = random_backbone(SMALL if args.miniature else QWEN3_4B, folder / "lm", device)
        found(backbone_parameters=sum(p.numel() for p in backbone.model.parameters()))
        FrozenCausalLM.from_pretrained = lambda *_, **__: backbone  # type: ignore[method-assign,assignment]
        trainer = Trainer(recipe_of(folder, args), show_progress=False)
        start = trainer.step = trainer.recipe.total_steps - 100  # every schedule is at its end
        batch = trainer.read()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        assert trainer.train_step(batch) is not None, "a skipped step measures nothing"
        walls = [timed(partial(trainer.train_step, batch), device).wall for _ in range(args.repeats)]
        seconds = statistics.median(walls)
        found(seconds=walls, clip_seconds=[float(b.lengths_B.sum()) / trainer.codec.sample_rate for b in batch])
        if device == "cuda":
            found(peak_memory_gb=torch.cuda.max_memory_allocated() / 2**30)
        with FlopCounterMode(display=False) as counter:
            trainer.train_step(batch)
        operations = counter.get_total_flops()
        found(tflop_a_step=operations / 1e12, share_of_peak=operations / seconds / peak)
        begin_run(trainer.recipe, trainer.loader)
        trainer.save()
        losses = trainer.train_step(batch)
        again = Trainer(trainer.recipe, resume=True, show_progress=False)
        assert again.step == start + len(walls) + 2, "the checkpoint is of another step"
        resumed = again.train_step(batch)
        assert losses is not None and resumed is not None
        found(resume={name: [losses[name], resumed[name]] for name in losses if name.startswith(("recon/", "lm/"))})


if __name__ == "__main__":
    main()
