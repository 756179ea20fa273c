"""examples/build_corpus.py on synthetic recordings: deterministic, deduplicated, split without shared texts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def build_corpus():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("build_corpus")
    sys.path.remove(str(EXAMPLES))


def recordings(count: int):
    def decode(number: int) -> np.ndarray:
        if number == 3:
            raise OSError("empty file")
        speech = 0.3 * np.random.default_rng(number % 20).standard_normal(12000)
        silence = np.zeros(8000)
        return np.concatenate([silence, speech[: 12000 if number != 4 else 4000], silence]).astype(np.float32)

    for number in range(count):
        row = {"id": f"x/{number:03d}", "speaker": "x", "language": "en", "text": f"text {number % 15}."}
        yield {**row, "source": "fillets-ng", "license": "any"}, lambda number=number: decode(number)


def test_building_twice_gives_the_same_bytes(build_corpus, tmp_path):
    for out in ("one", "two"):
        rows, dropped = build_corpus.build(recordings(40), tmp_path / out)
        assert dict(dropped) == {"undecodable": 1, "short or silent": 1, "identical audio": 18}
        assert len(rows) == 20
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two and len(one) == 20 + 5
    clips = read_manifest(tmp_path / "one")
    assert {clip.duration for clip in clips} == {0.95}, "0.1 s of silence is kept on both sides of 0.75 s"
    assert audio.info(clips[0].path).sample_rate == 16000
    assert "Fish Fillets NG" in (tmp_path / "one" / "LICENSES.md").read_text()


def test_splits_are_by_id_and_repeated_texts_stay_in_train(build_corpus):
    listing = importlib.import_module("corpus.listing")
    rows = [{"id": f"c/{n}", "language": "en", "text": f"Once {n}!" if n % 2 else "Again, again."} for n in range(2000)]
    listing.split_rows(rows)
    assert {row["split"] for row in rows if row["text"].startswith("Again")} == {"train"}
    once = [row["split"] for row in rows if row["text"].startswith("Once")]
    assert 30 <= once.count("valid") <= 75 and 30 <= once.count("test") <= 75
