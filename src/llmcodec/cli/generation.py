"""`llmcodec evaluate generation`: speech that token language models generate, measured.

Test: tests/cli/test_generation.py.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmcodec import __version__
from llmcodec.cli.options import ClipOptions, DeviceOptions, OutputOptions
from llmcodec.cli.output import name_files, open_console, show
from llmcodec.data.manifest import Clip, audio_states, manifest_hash, read_manifest
from llmcodec.evaluation.cache import code_digest, kept, key_of, model_state
from llmcodec.evaluation.generation import (
    BATCH,
    GenerationConfig,
    Passage,
    measure_generation,
    measure_recordings,
)
from llmcodec.evaluation.generation_results import METRICS, GeneratedRow
from llmcodec.evaluation.wer import OFFLINE, spoken_clips
from llmcodec.experiments.comparison import split_name
from llmcodec.io import audio
from llmcodec.io.progress import ProgressBar
from llmcodec.io.structured import read_object, write_json
from llmcodec.lm.speech import codec_of
from llmcodec.lm.token_lm import TokenLM, load_token_lm
from llmcodec.report import generation as generation_report
from llmcodec.report.files import provenance, write_results
from llmcodec.runtime.base import Runtime


def evaluate_generation(
    lm: list[str] | None = None,
    task: Literal["read", "voice", "continue"] = "read",
    corpus: ClipOptions = ClipOptions(),
    texts: str | None = None,
    speakers: tuple[str, ...] | None = None,
    clips: int | None = 100,
    draws: int = 3,
    seconds: float = 8.0,
    prompt_seconds: float = 2.0,
    metrics: tuple[str, ...] = METRICS,
    asr: str = OFFLINE,
    asr_languages: tuple[str, ...] = ("en",),
    temperature: float = 0.8,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    codec: str | None = None,
    audio_clips: int = 3,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Do token LMs read texts, keep a voice, end? Word errors, speaker similarity, DNSMOS, loops, silence.

      llmcodec evaluate generation --lm nearest=runs/a --lm searched=runs/b --manifest corpus/manifest.jsonl -o spoken
      llmcodec evaluate generation --lm runs/lm_small --task continue --manifest corpus/manifest.jsonl -o continued

    The first name is the reference; a name that is given several times has several seeds, which are paired in order.
    The second name's word errors (continuing: speaker similarity) are the primary comparison, all others are adjusted
    for their number. With -o NAME: tables, every draw as JSON, audio in NAME.audio; models that are done are kept.

    Args:
        lm: folder of `llmcodec lm train`, or NAME=FOLDER; several with one name are seeds.
        task: read texts, read them in the voice of another recording of the speaker, or continue the first seconds of
            recordings.
        split: splits joined by commas; default: valid, dev, test and the like, else everything.
        texts: manifest with the same ids whose texts the LM reads, phonemes for example; default: the transcripts.
        speakers: keep clips of these speakers, joined by commas.
        clips: measure this many clips, evenly spread; null takes all.
        draws: draws of each clip.
        seconds: longest new audio of a draw.
        prompt_seconds: continue, voice: what the LM hears of a clip.
        metrics: of wer, cer, speaker, dnsmos, joined by commas; each needs its package.
        asr: recogniser: `faster-whisper`, or a Hugging Face speech model.
        asr_languages: read, voice: take clips of these languages, joined by commas; the recogniser must know them.
        temperature: of sampling; below 1 sharper, above 1 flatter.
        top_p: sample from the likeliest codes that together have this probability.
        repetition_penalty: divide the odds of recent codes by this; 1 does nothing.
        seed: of sampling.
        codec: codec of the LMs, if it was moved; default: the name in each LM's card.
        audio_clips: write the first draw of this many clips as audio.
        output: write NAME.md (table), NAME.json (every draw) and NAME.audio; NAME.html also a page.
    """
    if not lm:
        raise ValueError("name at least one language model: --lm FOLDER, or --lm NAME=FOLDER")
    named: dict[str, list[str]] = defaultdict(list)
    for entry in lm:
        name, place = split_name(entry)
        folder = Path(place)
        label = name or (folder.parent.name if folder.name == "lm" and folder.parent.name else folder.name)
        if label in named and (not name or place in named[label]):
            raise ValueError(f"--lm {place}: {label!r} is named already; seeds of one model are NAME=FOLDER, each once")
        named[label].append(place)
    console = open_console()
    config = GenerationConfig(task, draws, seconds, prompt_seconds, temperature, top_p, repetition_penalty, seed)
    wanted = choose_clips(corpus.held_out_clips(), config, speakers, asr_languages)
    chosen, bad = corpus.measured_clips(clips, wanted)
    passages = passages_of(chosen, texts)
    if task == "voice":
        passages = with_voices(passages, wanted, prompt_seconds)
    bench = Bench(passages, config, metrics, asr, output.output, device.torch_device(), audio_clips)
    systems: dict[str, list[list[GeneratedRow]]] = defaultdict(list)
    recordings: dict[str, list[GeneratedRow]] = {}
    for name, places in named.items():
        for number, place in enumerate(places):
            label = name if len(places) == 1 else f"{name} {number}"
            loaded = load_token_lm(place, bench.device)
            runtime = codec_of(loaded, codec, bench.device)
            if runtime.identity.weights_sha256 not in recordings:
                recordings[runtime.identity.weights_sha256] = bench.recordings(runtime)
            with ProgressBar(label, console=console) as bar:
                systems[name].append(bench.generated(label, loaded, runtime, bar.update))
    title = f"{task}: {len(passages)} clips, {draws} draws"
    floors = {f"recordings {number or ''}".strip(): [rows] for number, rows in enumerate(recordings.values())}
    table = generation_report.generation_table({**systems, **floors}, title)
    said = generation_report.sentences(systems, "wer" if task == "read" else "speaker")
    show(console, [table], said)
    if output.output is not None:
        told = {"settings": {**provenance(chosen, bad), **asdict(config)}}
        told["systems"] = generation_report.to_json({**systems, **floors})
        name_files(console, write_results(output.output, [table], said, told))


@dataclass(frozen=True)
class Bench:
    """What every model gets: the same passages and settings; results that are there already are read."""

    passages: Sequence[Passage]
    config: GenerationConfig
    metrics: Sequence[str]
    asr: str
    output: str | None
    device: str
    audio_clips: int

    def generated(
        self, label: str, lm: TokenLM, runtime: Runtime, on_progress: Callable[[float], None]
    ) -> list[GeneratedRow]:
        """Rows of a model; audio of its first draws goes beside the output, also where its rows are there already."""
        # The card and the tokenizer decide what the prompts are.
        told = json.dumps([asdict(lm.card), sorted(lm.tokenizer.get_vocab().items())], sort_keys=True, default=str)
        key = self._key(runtime, key_of(told, *lm.model.state_dict().values()))
        wanted = 0 if self.output is None else min(self.audio_clips, len(self.passages))
        draws = None if self.output is None else FirstDraws(Path(f"{self.output}.audio"), label, key)

        def keep(passage: Passage, draw: int, wav_S: np.ndarray) -> None:
            number = self.passages.index(passage)
            if draws is not None and draw == 0 and number < wanted:
                place = draws.path(number)
                place.parent.mkdir(parents=True, exist_ok=True)
                with audio.AudioWriter(place, runtime.identity.sample_rate) as file:
                    file.write(wav_S)

        def measure() -> list[GeneratedRow]:
            return measure_generation(
                lm, runtime, self.passages, self.config, self.metrics, self.asr, on_progress, keep
            )

        if draws is not None and (wanted or draws.folder.is_dir()):
            draws.clear_others()
        rows = kept(self._folder, key, measure)
        if draws is not None and not all(draws.path(number).is_file() for number in range(wanted)):
            # The rows were kept, the audio was not: sampled again, in the same batches and so with the same draws.
            first = self.passages[: -(-wanted // BATCH) * BATCH]
            measure_generation(lm, runtime, first, replace(self.config, draws=1), (), self.asr, on_progress, keep)
        return rows

    def recordings(self, runtime: Runtime) -> list[GeneratedRow]:
        """Rows of the recordings through a codec."""

        def measure() -> list[GeneratedRow]:
            return measure_recordings(runtime, self.passages, self.config, self.metrics, self.asr)

        return kept(self._folder, self._key(runtime, "recordings"), measure)

    @property
    def _folder(self) -> Path | None:
        return None if self.output is None else Path(f"{self.output}.kept")

    def _key(self, runtime: Runtime, what: str) -> str:
        clips = [(one.clip.id, one.text, None if one.voice is None else one.voice.id) for one in self.passages]
        parts = asdict(runtime.identity), self.config, self.metrics, model_state(self.asr), clips
        hashed = manifest_hash([passage.clip for passage in self.passages])
        heard = [clip for one in self.passages for clip in (one.clip, one.voice) if clip is not None]
        return key_of(__version__, code_digest(), what, hashed, audio_states(heard), *parts)


@dataclass(frozen=True)
class FirstDraws:
    """Audio of the first draws of a model, named by its label; a file beside it tells which measurement it is of."""

    folder: Path
    label: str
    key: str

    def path(self, number: int) -> Path:
        """Of the draw of one passage."""
        return self.folder / f"{number} {self.label}.wav"

    def clear_others(self) -> None:
        """Delete what another model, or one with other settings, left under this label."""
        record, keys = self.folder / "keys.json", dict[str, Any]()
        if record.is_file():
            with suppress(ValueError):  # damaged: nobody knows of what the audio is
                keys = read_object(record)
        if keys.get(self.label) == self.key:
            return
        for path in self.folder.rglob("*.wav"):
            if re.fullmatch(rf"[0-9]+ {re.escape(self.label)}\.wav", path.relative_to(self.folder).as_posix()):
                path.unlink()
        write_json(record, {**keys, self.label: self.key})


def choose_clips(
    clips: Sequence[Clip],
    config: GenerationConfig,
    speakers: Sequence[str] | None,
    languages: Sequence[str] = ("en",),
) -> list[Clip]:
    """Clips that the task can use: with a transcript of some words, or long enough to be continued.

    Raises:
        ValueError: there is none.
    """
    found = [clip for clip in clips if speakers is None or clip.speaker in speakers]
    if config.task != "continue":
        found = [clip for clip in spoken_clips(found, languages) if clip.duration <= config.seconds]
        lacking = f"with a transcript in {', '.join(languages)}, of at most {config.seconds:g} s"
        if config.task == "voice":
            found = [clip for clip in found if other_recordings(clip, found, config.prompt_seconds)]
            lacking += f", with another one of the speaker of at least {config.prompt_seconds:g} s"
    else:
        found = [clip for clip in found if clip.duration > config.prompt_seconds + 1.0]
        lacking = f"longer than {config.prompt_seconds + 1.0:g} s"
    if not found:
        raise ValueError(f"generation: none of {len(clips)} clips is {lacking}")
    return found


def other_recordings(clip: Clip, clips: Sequence[Clip], seconds: float) -> list[Clip]:
    """Other clips of the same speaker that last long enough."""
    return [
        one
        for one in clips
        if one.id != clip.id
        and one.speaker
        and (one.speaker, one.language, one.source) == (clip.speaker, clip.language, clip.source)
        and one.duration >= seconds
    ]


def with_voices(passages: Sequence[Passage], clips: Sequence[Clip], seconds: float) -> list[Passage]:
    """Each passage with another recording of its speaker; the passages of a speaker take them in turn."""
    found = []
    for number, passage in enumerate(passages):
        others = other_recordings(passage.clip, clips, seconds)
        found.append(replace(passage, voice=others[number % len(others)] if others else None))
    return found


def passages_of(clips: Sequence[Clip], texts: str | None) -> list[Passage]:
    """Clips with what the LM reads of them. Raises ValueError for a clip without."""
    read = {clip.id: clip.text for clip in (clips if texts is None else read_manifest(texts))}
    lacking = [clip.id for clip in clips if not read.get(clip.id, "").strip()]
    if lacking and texts is not None:
        raise ValueError(f"{texts}: no text of {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else ""))
    return [Passage(clip, read.get(clip.id, "")) for clip in clips]
