"""What `make soak` damages: a sound sample of everything that llmcodec reads, and the call that reads it.

A reader's `read` gives what the sample says.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.io import audio

from ..fuzz.mutations import NASTY
from ..golden.make_artefacts import ARTEFACTS
from ..miniature import miniature_codec, miniature_speech

RATE = 16000


@dataclass(frozen=True)
class Reader:
    """One kind of input."""

    make: Callable[[Path], None]
    """Fills an empty folder with a sound sample."""
    read: Callable[[Path], Any]
    exact: str = ""
    """Files that a digest guards: where only these are damaged, the sample is refused or read as it was."""
    files: str = "*"
    """Which files are damaged."""


def golden(name: str) -> Callable[[Path], None]:
    """A sample that earlier versions wrote."""
    return lambda folder: shutil.copytree(ARTEFACTS / name, folder, dirs_exist_ok=True) and None


def speak(path: Path, seconds: float = 0.3, rate: int = RATE, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(
        path, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32), rate, **how
    )


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_layouts(folder: Path) -> None:
    """Nine corpora below one folder, each in its layout."""
    root = folder / "libri" / "dev-clean" / "84" / "121123"
    speak(root / "84-121123-0000.flac")
    put(root / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    speak(folder / "lj" / "wavs" / "LJ1.wav")
    put(folder / "lj" / "metadata.csv", "LJ1|raw|clean\n")
    speak(folder / "cv" / "clips" / "a.mp3", 0.5)
    put(folder / "cv" / "train.tsv", "client_id\tpath\tsentence\tlocale\ns\ta.mp3\thello\ten\n")
    speak(folder / "vctk" / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac", 0.3, 48000)
    put(folder / "vctk" / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    speak(folder / "timit" / "TRAIN" / "DR1" / "FABC0" / "SA1.WAV.wav")
    put(folder / "timit" / "TRAIN" / "DR1" / "FABC0" / "SA1.PHN", "0 100 h#\n")
    put(folder / "timit" / "TRAIN" / "DR1" / "FABC0" / "SA1.TXT", "0 46797 She had.\n")
    speak(folder / "af" / "train" / "1.wav")
    put(folder / "af" / "metadata.jsonl", '{"file_name": "train/1.wav", "text": "one", "speaker": "s"}\n')
    speak(folder / "nemo" / "a.wav", 2.0)
    row = {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.0, "text": "hello", "speaker": 3}
    put(folder / "nemo" / "dev_manifest.json", json.dumps(row) + "\n" + json.dumps(row | {"offset": 1.5}) + "\n")
    speak(folder / "kaldi" / "a.wav", 2.0)
    put(folder / "kaldi" / "wav.scp", "a a.wav\n")
    put(folder / "kaldi" / "text", "a-1 hello you\n")
    put(folder / "kaldi" / "utt2spk", "a-1 anna\n")
    put(folder / "kaldi" / "segments", "a-1 a 0.5 1.25\n")
    speak(folder / "lhotse" / "a.wav", 2.0)
    sources = [{"type": "file", "channels": [0], "source": "a.wav"}]
    recording = {"id": "r", "sources": sources, "sampling_rate": RATE, "num_samples": 32000, "duration": 2.0}
    spoken = [{"id": "s", "recording_id": "r", "start": 0, "duration": 1.0, "text": "x", "speaker": "p"}]
    cut = {"id": "c", "start": 0.5, "duration": 1.0, "channel": 0, "recording": recording, "supervisions": spoken}
    put(folder / "lhotse" / "cuts.jsonl", json.dumps(cut | {"type": "MonoCut"}) + "\n")


def read_layouts(folder: Path) -> Any:
    from llmcodec.data.corpus import make_manifest
    from llmcodec.data.manifest import read_manifest

    out = folder.parent / "layouts.jsonl"
    summary = make_manifest(str(folder), str(out))
    clips = read_manifest(out)
    assert summary.num_clips == len(clips) and str(summary)
    assert all(clip.path.is_file() and 0 < clip.duration < 1e6 for clip in clips)
    assert all(
        clip.start is None or clip.start + clip.duration <= audio.info(clip.path).seconds + 0.01 for clip in clips
    )
    return len(clips)


def read_clips(folder: Path) -> Any:
    from llmcodec.data.manifest import manifest_hash, read_manifest, write_manifest

    clips = read_manifest(folder / "train.jsonl")
    assert all(clip.duration > 0 and clip.id for clip in clips)
    write_manifest(folder.parent / "again.jsonl", clips)
    again = read_manifest(folder.parent / "again.jsonl")
    assert [vars(clip) | {"audio": "", "folder": ""} for clip in again] == [
        vars(clip) | {"audio": "", "folder": ""} for clip in clips
    ], "written and read, the clips are others"
    return manifest_hash(clips)


def make_recipe(folder: Path) -> None:
    for name in ("rate", "quickstart"):
        shutil.copy(Path(__file__).parents[2] / "recipes" / f"{name}.yaml", folder / f"{name}.yaml")


def read_recipe(folder: Path) -> Any:
    from llmcodec.cli.experiments import train_parser

    files = ["--config", str(folder / "rate.yaml"), "--config", str(folder / "quickstart.yaml")]
    try:
        return str(train_parser().read_recipe(files))
    except SystemExit as refused:  # by the parser, which has said why beside the usage
        assert refused.code == 2
        raise ValueError("refused by the parser") from refused


def read_run(folder: Path) -> Any:
    """The log as a resumed run and as a page reads it, and what run.json says."""
    from llmcodec.experiments.comparison import System, _log, run_facts
    from llmcodec.training.tracking import JSONLLog, read_log

    rows = read_log(folder / "log.jsonl")
    shutil.copy(folder / "log.jsonl", folder.parent / "log.jsonl")
    JSONLLog(folder.parent / "log.jsonl", 4)
    run_facts([System("run", str(folder))])
    _log(folder)
    return len(rows)


def read_checkpoint(folder: Path) -> Any:
    from llmcodec.training.checkpoint import load_checkpoint

    return sorted(load_checkpoint(folder))


def make_codec(folder: Path) -> None:
    miniature_codec(hidden_size=16, head_dim=16, ffn_mult=1, conv_kernel_size=3, codebook_size=32).save_pretrained(
        folder
    )


def read_codec(folder: Path) -> Any:
    import torch

    from llmcodec import LLMCodec

    codec = LLMCodec.from_pretrained(folder).eval()
    with torch.inference_mode():
        return codec.encode(torch.linspace(-0.5, 0.5, 3200)[None, None]).audio_codes.flatten().tolist()


def make_lm(folder: Path) -> None:
    from llmcodec.cli.main import main

    tokens = ["--data.tokens", f"[{ARTEFACTS / 'tokenized_arrow'}]", "--data.max_tokens", "64"]
    sizes = "{num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 24, max_positions: 128}"
    steps = ["--steps", "1", "--eval_every", "1", "--rows_per_batch", "2", "--bf16", "false", "--model.small", sizes]
    assert main(["lm", "train", *tokens, *steps, "--run", str(folder.parent / "lm_run")]) == 0
    shutil.copytree(folder.parent / "lm_run" / "lm", folder, dirs_exist_ok=True)


def read_lm(folder: Path) -> Any:
    import torch

    from llmcodec.lm.token_lm import load_token_lm

    lm = load_token_lm(str(folder))
    return [round(float(x), 4) for x in lm.token_log_likelihoods([torch.arange(6)])[0]]


def read_tokens(folder: Path) -> Any:
    from llmcodec.io.token_file import load_token_file

    clip, source = load_token_file(next(iter(sorted(folder.glob("*.safetensors")))))
    assert clip.codes.min() >= 0 and clip.codes.max() < source.codebook_size
    return clip.codes.tolist()


def read_shards(folder: Path) -> Any:
    from llmcodec.io.token_shards import open_token_shards

    provenance, rows = open_token_shards(folder)
    found = list(rows)
    assert all(row.codes.ndim == 3 and row.codes.min() >= 0 for row in found)
    return provenance, [row.id for row in found]


def make_hub(folder: Path) -> None:
    import datasets

    for ending in ("wav", "flac"):
        speak(folder / f"x.{ending}")
    cells = [{"bytes": (folder / f"x.{ending}").read_bytes(), "path": None} for ending in ("wav", "flac")]
    table = datasets.Dataset.from_dict({"id": ["a", "b"], "audio": cells, "text": ["x", None], "speaker_id": [0, 1]})
    table.cast_column("audio", datasets.Audio()).save_to_disk(folder / "saved")
    for ending in ("wav", "flac"):
        (folder / f"x.{ending}").unlink()


def read_hub(folder: Path) -> Any:
    from llmcodec.data.hub import make_hub_manifest

    return make_hub_manifest(str(folder / "saved"), str(folder.parent / "hub.jsonl")).num_clips


def make_rows(folder: Path) -> None:
    put(
        folder / "rows.json",
        json.dumps([{"id": i, "audio": {"array": [0.1] * 40, "sampling_rate": RATE}} for i in range(2)]),
    )


def read_rows(folder: Path) -> Any:
    """Rows as a script or a data set without types may give them."""
    from llmcodec.data import hub
    from llmcodec.data.manifest import read_manifest

    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8", errors="replace"))
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    chance = random.Random(len(str(rows)))
    rows += [{"id": chance.choice(NASTY), "audio": chance.choice(NASTY), "text": chance.choice(NASTY)}]
    load, hub._load = hub._load, lambda *_: rows
    try:
        summary = hub.make_hub_manifest("rows", str(folder.parent / "rows.jsonl"))
    finally:
        hub._load = load
    assert summary.num_clips + len(summary.skipped) == len(rows), "rows are lost without a word"
    return len(read_manifest(folder.parent / "rows.jsonl"))


def make_suite(folder: Path) -> None:
    for index in (0, 1):
        for side in (0, 1):
            speak(folder / "rir_consistency" / f"sample_{index}_{side}.wav")


def read_suite(folder: Path) -> Any:
    from llmcodec.salmon.suite import open_suite

    pairs = [pair for part in open_suite(folder).values() for pair in part]
    assert all(np.isfinite(side).all() for pair in pairs for side in pair.read(RATE))
    assert all(pair.fingerprint() for pair in pairs)
    return len(pairs)


def make_cache(folder: Path) -> None:
    from llmcodec.evaluation.cache import Journal, kept

    kept(folder, "key", result)
    Journal(folder / "rows.jsonl").add("a", result())


def result() -> Any:
    from llmcodec.salmon.score import PairScore, PartScore, SalmonResult

    return SalmonResult({"p": PartScore([PairScore(0, -1.25, -2.5, 5, 5)])})


def read_cache(folder: Path) -> Any:
    from llmcodec.evaluation.cache import Journal, kept, pack

    found = kept(folder, "key", result)
    known = Journal(folder / "rows.jsonl").known
    assert all(json.dumps(pack(one)) == json.dumps(pack(result())) for key, one in known.items() if key == "a")
    return json.dumps(pack(found))


def make_audio(folder: Path) -> None:
    for ending in ("wav", "flac", "ogg", "mp3", "opus"):
        speak(folder / f"x.{ending}", 0.5)
    import soundfile

    wav = 0.1 * np.random.default_rng(0).standard_normal((4000, 2))
    for ending, format in (("aiff", "AIFF"), ("au", "AU"), ("caf", "CAF"), ("w64", "W64"), ("rf64", "RF64")):
        soundfile.write(folder / f"x.{ending}", wav, RATE, format=format, subtype="PCM_16")
    soundfile.write(folder / "float.wav", wav, RATE, subtype="FLOAT")


def read_audio(folder: Path) -> Any:
    """Every file, whole and in a piece; those that cannot be read do not hide the others."""
    count = 0
    for path in sorted(folder.iterdir()):
        try:
            header = audio.info(path)
            wav_S, _ = audio.read(path)
            assert np.isfinite(wav_S).all() and wav_S.ndim == 1 and wav_S.dtype == np.float32
            audio.load(path, 8000, 100, 500)
            assert header.num_frames >= 0
            count += 1
        except ValueError as error:
            check_message(error)
    return count


def check_message(error: BaseException) -> None:
    """One line that says something."""
    message = str(error)
    assert 10 < len(message) < 1500 and "\n" not in message, f"not one line: {message!r}"


READERS = {
    "manifest": Reader(lambda folder: miniature_speech(folder) and None, read_clips, files="*.jsonl"),
    "layouts": Reader(make_layouts, read_layouts),
    "recipe": Reader(make_recipe, read_recipe),
    "run": Reader(golden("run"), read_run, files="*.json*"),
    "checkpoint": Reader(lambda folder: golden("run")(folder), lambda folder: read_checkpoint(newest(folder))),
    "codec": Reader(make_codec, read_codec, exact="*.safetensors"),
    "lm": Reader(make_lm, read_lm, exact="*.safetensors"),
    "tokens": Reader(golden("tokens"), read_tokens),
    "arrow": Reader(golden("shards_arrow"), read_shards),
    "parquet": Reader(golden("shards_parquet"), read_shards),
    "hub": Reader(make_hub, read_hub),
    "rows": Reader(make_rows, read_rows),
    "suite": Reader(make_suite, read_suite),
    "cache": Reader(make_cache, read_cache, exact="*"),
    "audio": Reader(make_audio, read_audio),
}


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step_*"))
