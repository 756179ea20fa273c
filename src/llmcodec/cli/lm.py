"""`llmcodec lm`: from tokens to a language model that scores and generates speech.

    llmcodec lm train --config lm_small --data.tokens '[tokens]'
    llmcodec lm score runs/lm_small speech/*.wav -o scores.csv
    llmcodec lm sample runs/lm_small --prompt question.wav --seconds 6 -o out
    llmcodec lm export runs/lm_small -o handover

Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.cli.options import DeviceOptions, OutputOptions
from llmcodec.cli.recipes import RecipeParser, training_parser
from llmcodec.cli.standard_streams import check_output
from llmcodec.cli.tokens import tokenize_bar
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.remote.paths import publish
from llmcodec.io.run_guard import stopped_in_order
from llmcodec.io.token_shards import import_pyarrow

if TYPE_CHECKING:
    from llmcodec.lm.recipe import TokenLMRecipe

DEVICE, NO_OUTPUT, SAMPLES = DeviceOptions(), OutputOptions(), OutputOptions("samples")
KEYS = {
    "output": "run",
    "manifest": "data.manifest",
    "sources": "data.sources",
    "languages": "data.languages",
    "codec": "data.codec",
    "max_bad": "data.max_bad",
}

TRAIN_HELP = """\
Train a language model on codec tokens: from scratch, or any causal LM of the Hugging Face hub.

  llmcodec lm train --config lm_small                  bundled speech, works offline
  llmcodec lm train --config lm_small --data.tokens '[tokens]'     shards of `llmcodec tokenize`
  llmcodec lm train --config lm_paper --data.tokens '[tokens]'     Qwen3-4B with LoRA
  llmcodec lm train --config lm_small --resume                     resume
  torchrun --nproc-per-node 4 -m llmcodec lm train --config lm_paper

The run folder gets run.json, log.jsonl, curves.png, checkpoint-N/, result.json and lm/, which `llmcodec lm score`,
`lm sample`, `lm export` and `evaluate salmon` read. Tokens need pyarrow: pip install 'llmcodec[datasets]'; LoRA more:
pip install 'llmcodec[lm]'."""


@cache
def lm_train_parser() -> RecipeParser[TokenLMRecipe]:
    """Parser of `llmcodec lm train`."""
    from llmcodec.lm.recipe import TokenLMRecipe

    return training_parser(TokenLMRecipe, "llmcodec lm train", TRAIN_HELP, KEYS)


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec lm train`: tokens (made first if the recipe names none), training, curves."""
    from llmcodec.distributed import together
    from llmcodec.lm.prepare import prepare_rows
    from llmcodec.lm.train import train_token_lm
    from llmcodec.objectives.prediction import draft_nats

    recipe, options = lm_train_parser().read(arguments)
    import_pyarrow()
    speaks = int(os.environ.get("RANK", "0")) == 0  # one of several processes
    say: Callable[[str], None] = print if speaks else lambda line: None
    with ExitStack() as stack:
        if not recipe.data.tokens:
            stack.enter_context(stopped_in_order("finished shards stay, the same command continues after them"))
        bar = None if recipe.data.tokens else stack.enter_context(tokenize_bar())
        rows = prepare_rows(recipe.data, Path(recipe.run), say, bar)
    progress = [progress_callback(recipe)] if speaks else []
    with together(f"the newest checkpoint in {recipe.run} is whole, continue with --resume"):
        options["draft_loss"] = draft_nats
        say(f"language model: {train_token_lm(recipe, *rows, **options, callbacks=progress, say=say)}")


LOG_NAMES = {"loss": "lm/loss", "grad_norm": "grad_norm", "learning_rate": "lr", "epoch": "epoch"}


def progress_callback(recipe: TokenLMRecipe) -> Any:
    """A trainer callback: bar, log.jsonl, curves.png."""
    from transformers import TrainerCallback

    from llmcodec.training.tracking import JSONLLog, TrainingBar, plot_curves, read_log

    path = Path(recipe.run) / "log.jsonl"

    class Progress(TrainerCallback):
        """Writes what Hugging Face's trainer reports."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first, self.started = state.global_step, time.monotonic()
            self.log = JSONLLog(path, state.global_step)
            self.said = [
                {name: value for name, value in row.items() if name not in ("step", "seconds_per_step")}
                for row in read_log(path)
                if row["step"] == state.global_step
            ]
            self.bar = TrainingBar(recipe.name, state.max_steps, state.global_step)
            self.bar.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs: dict[str, float] = kwargs["logs"]
            row = {LOG_NAMES.get(name, name.replace("eval_", "lm/")): value for name, value in logs.items()}
            row = {name: value for name, value in row.items() if "/" in name or name in LOG_NAMES.values()}
            if state.global_step == self.first and row in self.said:
                return  # a run that was over says its end again
            pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first)
            self.log.write({"step": state.global_step, **row, "seconds_per_step": pace})
            self.bar.update(state.global_step, row | {"seconds_per_step": pace})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            plot_curves(read_log(path), path.with_name("curves.png"), recipe.name)
            publish(path.parent)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.__exit__()
            self.on_save(args, state, control)

    return Progress()


def score(
    lm: str,
    inputs: list[str],
    codec: str | None = None,
    normalise: Literal["audio", "full"] = "audio",
    long_clips: Literal["refuse", "window"] = "window",
    output: OutputOptions = NO_OUTPUT,
    tokens: str | None = None,
    split: tuple[str, ...] | None = None,
    max_bad: MaxBad = 0,
    device: DeviceOptions = DEVICE,
) -> None:
    """Log-likelihood of speech under a token LM: per file, per second, per token.

      llmcodec lm score runs/lm_small speech/*.wav -o scores.csv

    Args:
        lm: `bundled`, a folder of `llmcodec lm train` or `lm export`, or a hub id.
        inputs: audio files, manifests (.jsonl) or folders of token shards.
        codec: codec of the LM, if it was moved; default: the name in the LM's card.
        normalise: softmax over the codes only (comparable between LMs), or over the LM's full vocabulary.
        long_clips: score clips longer than the LM's training sequences in overlapping windows, or refuse them.
        output: also write one row per file here (.csv).
        tokens: also write the log-likelihood of every token here (.csv).
        split: splits of manifests, joined by commas; default: valid, dev, test and the like, else everything.
        max_bad: leave out at most so many audio files that cannot be read, 20 or 1%, and list them; one more stops.
    """
    from llmcodec.cli.output import open_console
    from llmcodec.io.structured import write_csv
    from llmcodec.lm.scoring import read_clips, score_clips
    from llmcodec.lm.token_lm import load_token_lm
    from llmcodec.report.tables import TextTable

    place = device.torch_device()
    loaded = load_token_lm(lm, place, normalise=normalise)
    loaded.long_clips = long_clips
    bad = BadRows(max_bad, what="files")
    clips = read_clips(loaded, inputs, codec, place, bad, split, lambda line: print(line, file=sys.stderr))
    rows = score_clips(loaded, clips)
    written = []
    if output.output:
        columns = [name for name in rows[0] if name != "log_likelihoods"]
        written.append(write_csv(output.place, columns, rows))
    if tokens:
        each = (
            {"file": row["file"], "position": position, "log_likelihood": value}
            for row in rows
            for position, value in enumerate(row["log_likelihoods"])
        )
        written.append(write_csv(tokens, ("file", "position", "log_likelihood"), each))
    lines = []
    for row in rows[:40]:
        figures = f"{row['seconds']:.2f}", f"{row['tokens']}", f"{row['nats_per_token']:.3f}"
        lines.append([row["file"], *figures, f"{row['bits_per_second']:.1f}"])
    head = ["file", "seconds", "tokens", "nats/token", "bits/s"]
    console = open_console()
    console.print(TextTable(head, lines, f"log-likelihood, softmax: {normalise}").rich())
    if len(rows) > 40:
        console.print(f"and {len(rows) - 40} more files; --output writes all")
    nats, count = sum(row["nats"] for row in rows), sum(row["tokens"] for row in rows)
    rate = nats / count / math.log(2) * clips[-1].token_rate
    console.print(f"all: {len(rows)} files, {count} tokens, {nats / count:.4f} nats/token, {rate:.1f} bits/s")
    for line in bad.lines():
        console.print(line, highlight=False, soft_wrap=True)
    for path in written:
        print(f"written: {path}")


def sample(
    lm: str,
    prompt: list[str] | None = None,
    text: list[str] | None = None,
    output: OutputOptions = SAMPLES,
    seconds: float = 6.0,
    min_seconds: float = 0.0,
    prompt_seconds: float | None = None,
    count: int = 1,
    speaker: str = "",
    language: str = "",
    temperature: float = 0.9,
    top_k: int = 0,
    top_p: float = 0.98,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    codec: str | None = None,
    stream: Literal["no", "pcm", "wav"] = "no",
    speculative: bool = False,
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: DeviceOptions = DEVICE,
) -> None:
    """Generate speech with a token LM: continue a spoken prompt, read a text, or start from nothing.

      llmcodec lm sample bundled --prompt question.wav -o samples

    Writes OUTPUT/NAME.wav per clip (a continuation includes its prompt) and OUTPUT/tokens.txt. All clips are sampled in
    one batch. With --stream the audio goes to standard output while it is generated.

    Args:
        lm: `bundled`, a folder of `llmcodec lm train` or `lm export`, or a hub id.
        prompt: audio file to continue; may be repeated.
        text: text to read; phonemes with spaces between them for models trained on tts_aligned; may be repeated.
        output: folder for the results.
        seconds: maximum new audio per clip.
        min_seconds: minimum new audio per clip.
        prompt_seconds: use only the first part of a prompt.
        count: clips per prompt or text.
        speaker: name, for models that read one before the text.
        language: code, for models that read one before the text.
        temperature: below 1 sharper, above 1 flatter; 0 always takes the likeliest code.
        top_k: sample from this many likeliest codes; 0 from all.
        top_p: sample from the likeliest codes that together have this probability.
        repetition_penalty: divide the odds of recent codes by this; 1 does nothing.
        seed: of sampling; the same seed gives the same clips.
        codec: codec of the LM, if it was moved; default: the name in the LM's card.
        stream: pcm (16-bit little-endian) or wav to standard output, one clip.
        speculative: the LM's draft heads draft codes which it checks several at a time: the same distribution, other
            draws; for an LM that was trained with --model.heads.
        dtype: precision of the LM.
    """
    from llmcodec.lm.decoding.speculative import DraftCounts
    from llmcodec.lm.sampling import SamplingConfig
    from llmcodec.lm.speech import codec_of, requests_for, stream_speech, write_speech
    from llmcodec.lm.token_lm import load_token_lm

    if not 0 < seconds < math.inf or not 0 <= min_seconds <= seconds or count < 1:
        raise ValueError(
            f"--seconds must be above 0, --min-seconds not above it and --count at least 1, got {seconds:g}, "
            f"{min_seconds:g} and {count}"
        )
    loaded = load_token_lm(lm, device.torch_device(), dtype)
    runtime = codec_of(loaded, codec, device.torch_device())
    whole = runtime.identity.num_codebooks
    rate = runtime.identity.frame_rate * whole
    config = SamplingConfig(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_codes=max(whole, round(seconds * rate) // whole * whole),
        min_codes=round(min_seconds * rate) // whole * whole,
        seed=seed,
    )
    requests = requests_for(loaded, runtime, prompt or [], text or [], prompt_seconds, speaker, language)
    counts = DraftCounts(0 if loaded.heads is None else loaded.heads.num_heads) if speculative else None
    if stream != "no":
        if counts is not None:
            raise ValueError("--speculative writes files; --stream samples code by code")
        if len(requests) * count != 1:
            raise ValueError("--stream takes one clip: one --prompt, one --text, or none")
        check_output("pipe the audio on, for example into aplay")
        stream_speech(loaded, runtime, requests[0], config, sys.stdout.buffer, stream == "wav")
        return
    requests = [one for one in requests for _ in range(count)]
    sampled = write_speech(loaded, runtime, requests, config, output.place, counts)
    for spoken in sampled.clips:
        if not spoken.written:
            print(f"{spoken.path}: not written, the LM ended at once; try another seed or --min-seconds 1")
            continue
        ended = "ended by itself" if spoken.ended else "stopped at --seconds"
        if spoken.ended and spoken.seconds < 0.5:
            ended += "; --min-seconds 1 makes it go on"
        print(f"{spoken.path}: {spoken.seconds:.2f} s of new audio, {ended}")
    print(sampled.in_words())
    if counts is not None:
        print(counts.in_words())


def export(lm: str, output: str, dtype: Literal["fp32", "bf16"] = "bf16") -> None:
    """Write a token LM as a plain Hugging Face folder: weights merged, tokenizer, README; it loads without llmcodec.

      llmcodec lm export runs/lm_small -o handover

    Args:
        lm: folder of `llmcodec lm train`, or a hub id.
        output: new folder.
        dtype: precision of the written weights.
    """
    from llmcodec.lm.export import check_layout, export_token_lm

    folder = export_token_lm(lm, output, dtype)
    facts = check_layout(folder)
    tied = "tied" if facts["tied"] else "untied"
    print(f"{folder}: {facts['architecture']}, {facts['vocab_size']} tokens, {tied} rows, {facts['tensors']} tensors")
