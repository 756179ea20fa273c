"""LibriSpeech's folder in miniature: one command makes the manifest, recipes and the 500 h rule find their subsets."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from llmcodec.data.corpus import make_manifest
from llmcodec.data.manifest import read_manifest

from ..miniature import recipe_of

CLEAN_100, CLEAN_360, OTHER_500 = "train-clean-100", "train-clean-360", "train-other-500"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    written = importlib.import_module("librispeech_miniature").write_miniature(root, 2.0, most_clips=6)
    summary = make_manifest(str(root), str(root.parent / "librispeech" / "manifest.jsonl"), source_by="folder")
    assert summary.num_clips == summary.num_with_text == len(written) == 18 and not summary.skipped
    assert summary.splits == {"train": 6, "valid": 6, "test": 6}
    return summary.path


def test_texts_speakers_and_subsets_are_those_of_the_folders(manifest: Path) -> None:
    clips = read_manifest(manifest)
    for clip in clips:
        subset, speaker, chapter, name = clip.path.parts[-4:]
        assert (clip.source, clip.speaker) == (subset, speaker) and name == f"{clip.id}.flac"
        assert clip.text.isupper() and clip.id.startswith(f"{speaker}-{chapter}-")
    assert {clip.source for clip in clips if clip.held_out} == {"dev-clean", "test-clean"}


@pytest.mark.parametrize(
    ("arguments", "subsets"),
    [
        (["--config", "librispeech_100"], {CLEAN_100}),
        (["--config", "librispeech_960"], {CLEAN_100, CLEAN_360, OTHER_500}),
        (["--config", "librispeech_960", "--sources", "train-other-500"], {OTHER_500}),
    ],
)
def test_recipes_read_their_subsets(arguments: list[str], subsets: set[str], manifest: Path) -> None:
    data = recipe_of("--config", "paper", *arguments).data
    assert data.manifest == "librispeech/manifest.jsonl"
    clips = read_manifest(manifest, data.split, sources=data.sources)
    assert {clip.source for clip in clips} == subsets and len(clips) == 2 * len(subsets)
