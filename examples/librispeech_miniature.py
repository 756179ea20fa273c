"""A folder in the shape of LibriSpeech from the bundled speech, to try recipes and commands without the corpus.

    python examples/librispeech_miniature.py LibriSpeech
    llmcodec data manifest LibriSpeech --source-by folder --language en -o librispeech/manifest.jsonl

Speakers are numbered by name, `speakers.txt` says who is who; clips are FLAC at 16 kHz. The three training subsets get
a third of the training clips each; they say nothing about LibriSpeech. Test: tests/examples/test_librispeech.py.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import soundfile

from llmcodec.data.manifest import read_manifest

SUBSETS = {
    "train": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean"],
    "test": ["test-clean"],
}

ALL = [subset for subsets in SUBSETS.values() for subset in subsets]


def write_miniature(root: Path, most_seconds: float = 8.0, most_clips: int | None = None) -> list[Path]:
    """Write the folder and return the audio files.

    Args:
        root: made if it is not there.
        most_seconds: longer clips are left out.
        most_clips: of every split; None: all.
    """
    written: list[Path] = []
    numbers: dict[str, int] = {}
    for split, subsets in SUBSETS.items():
        clips = [clip for clip in read_manifest("bundled", split, max_seconds=most_seconds) if clip.text][:most_clips]
        texts: dict[Path, list[str]] = defaultdict(list)
        for index, clip in enumerate(clips):
            reader = numbers.setdefault(clip.speaker or clip.source, len(numbers) + 1)
            subset = subsets[index % len(subsets)]
            chapter = ALL.index(subset) + 1
            folder = root / subset / str(reader) / str(chapter)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{reader}-{chapter}-{len(texts[folder]):04d}"
            soundfile.write(folder / f"{name}.flac", clip.load(16_000), 16_000)
            texts[folder].append(f"{name} {clip.text.upper()}")
            written.append(folder / f"{name}.flac")
        for folder, lines in texts.items():
            (folder / f"{folder.parent.name}-{folder.name}.trans.txt").write_text(
                "\n".join(lines) + "\n", encoding="utf-8"
            )
    readers = "".join(f"{number} | {name}\n" for name, number in numbers.items())
    (root / "speakers.txt").write_text(readers, encoding="utf-8")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(f"{len(write_miniature(Path(sys.argv[1])))} clips in {sys.argv[1]}")
