#!/usr/bin/env python3
"""Make English speech in many voices with Kokoro-82M, for `build_corpus.py --sources kokoro`.

    python examples/synthesize_speech.py -o corpus_work/kokoro --voices 128 --minutes 360

It takes about 0.65 seconds of one core for a second of speech, and can be stopped at any time: the same command goes
on. Two cores: two processes, with `--part 0/2` and `--part 1/2`. Sentences are read in turn by all voices, so that
few minutes have many voices already. They are in the public domain: The Devil's Dictionary and the Jargon File, from
Debian's packages dict-devil and dict-jargon, or your own (`--texts FILE`, one sentence a line).

Synthetic speech is for training. It is never in an evaluation, and its voices are not people.
Needs apt-get, dpkg, npm, pip, and from PyPI: numpy scipy soundfile onnxruntime. Test:
tests/examples/test_synthesize_speech.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

from corpus.debian import fetch
from corpus.journal import Journal
from corpus.kokoro import STAMP, Kokoro, fetch_models, name_voices
from corpus.speech import SAMPLE_RATE
from corpus.texts import DICTIONARIES, read_sentences
from llmcodec.io.atomic import atomic_path
from llmcodec.io.digests import digest

Speak = Callable[[str, str, float], np.ndarray]


def plan(texts: Sequence[str], voices: Sequence[str], part: int, parts: int) -> Iterator[dict[str, object]]:
    """What is said: sentence `number` by voice `number` modulo their count, at a speed of 0.85 to 1.2.

    After the last sentence the first comes again, in another voice each time, until each voice has read everything.
    The id is a function of what is said and how, so that other texts never take the place of a clip that is there.
    """
    for number in range(len(texts) * len(voices)):
        if number % parts == part:
            again, index = divmod(number, len(texts))
            voice = voices[(index + again) % len(voices)]
            speed = round(np.random.default_rng(number).uniform(0.85, 1.2), 3)
            clip = f"kok_en/{voice.replace(':', '_')}/{digest(texts[index], f'|{speed}', size=6)}"
            yield {"id": clip, "voice": voice, "text": texts[index], "speed": speed}


def synthesize(
    planned: Iterator[dict[str, object]], speak: Speak, folder: Path, journal: Journal, seconds: float
) -> float:
    """Make what `planned` names until `seconds` of speech are there, and say now and then how far it is.

    Returns:
        Seconds of speech in the journal, those of earlier runs included.
    """
    done = 0.0
    for number, clip in enumerate(planned):
        if done >= seconds:
            break
        entry = journal.entries.get(str(clip["id"]))
        if entry is None or not (folder / entry["audio"]).is_file():
            wav_S = speak(str(clip["text"]), str(clip["voice"]), float(str(clip["speed"])))
            audio = f"audio/{clip['id']}.flac"
            with atomic_path(folder / audio) as temporary:
                sf.write(temporary, wav_S, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
            entry = journal.add({**clip, "audio": audio, "duration": round(len(wav_S) / SAMPLE_RATE, 3)})
        done += entry["duration"]
        if number % 100 == 99:
            print(f"{number + 1} clips, {done / 60:.1f} of {seconds / 60:.0f} minutes", flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("corpus_work/kokoro"), help="folder of the speech")
    parser.add_argument("--work", type=Path, default=Path("corpus_work"), help="downloaded and unpacked packages")
    parser.add_argument("--models", type=Path, help="folder of the models (WORK/models)")
    parser.add_argument("--texts", type=Path, help="sentences to read, one a line, in place of the two dictionaries")
    parser.add_argument("--voices", type=int, default=128, help="28 voices, then mixtures of two (131 in all)")
    parser.add_argument("--minutes", type=float, default=360, help="minutes of speech, of all parts together")
    parser.add_argument("--part", default="0/1", help="I/N: this process makes every Nth clip from the Ith on")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    if not 0 <= part < parts:
        raise ValueError(f"--part {arguments.part}: I/N with I from 0 to N-1")
    models = arguments.models or arguments.work / "models"
    fetch_models(models)
    if arguments.texts:
        texts = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        fetch(DICTIONARIES, arguments.work / "debs", arguments.work / "x")
        texts = read_sentences(arguments.work / "x")
    kokoro = Kokoro(models)
    voices = name_voices(kokoro.voices, arguments.voices)
    journal = Journal(arguments.output / f"clips.{part}of{parts}.jsonl", STAMP)
    seconds = arguments.minutes * 60 / parts
    done = synthesize(plan(texts, voices, part, parts), kokoro.say, arguments.output, journal, seconds)
    print(f"{done / 60:.1f} minutes, {len(voices)} voices, in {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
