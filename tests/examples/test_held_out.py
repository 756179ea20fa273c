"""The committed lists of held-out clips: consistent with the splits, people only, and never trained on."""

from __future__ import annotations

import importlib
import json

import pytest

from llmcodec.data.manifest import read_manifest
from llmcodec.data.splits import hashed_split

held_out = importlib.import_module("corpus.held_out")
catalogue = importlib.import_module("corpus.catalogue")
listing = importlib.import_module("corpus.listing")

PREFIXES = {"asterisk": "ast_", "festvox_ru": "fvru/", "tuxpaint": "tux_", "fillets": "fil_", "amazon_queen": "faq_"}
GROUPS = held_out.read_groups()


def source_of(clip: str) -> str:
    [name] = [name for name, prefix in PREFIXES.items() if clip.startswith(prefix)]
    return name


def test_the_groups_and_their_sizes():
    assert {name: len(ids) for name, ids in GROUPS.items()} == {
        "amazon_queen": 352,
        "english_words": 170,
        "fillets": 232,
        "own_reader_ru": 73,
        "own_readers": 245,
        "tuxpaint": 233,
    }


@pytest.mark.parametrize("group", GROUPS)
def test_every_clip_is_held_out_by_the_rule_of_its_source(group):
    ids = GROUPS[group]
    assert ids == sorted(set(ids))
    for clip in ids:
        source = catalogue.SOURCES[source_of(clip)]
        assert not source.synthetic
        split = hashed_split(clip, 0.05, 0.05) if source.split == "id" else source.split
        assert split in ("valid", "test"), clip


def test_each_group_holds_its_own_source():
    for group in ("tuxpaint", "fillets", "amazon_queen"):
        assert {source_of(clip) for clip in GROUPS[group]} == {group}
    assert {source_of(clip) for clip in GROUPS["own_readers"]} == {"asterisk"}
    assert {source_of(clip) for clip in GROUPS["own_reader_ru"]} == {"festvox_ru"}
    assert {clip.split("/")[0] for clip in GROUPS["english_words"]} == {"ast_en", "tux_en", "faq_en"}


def test_the_bundled_held_out_clips_are_among_the_own_readers():
    bundled = [clip.id for clip in read_manifest("bundled", ["valid", "test"], sources=["asterisk-core-sounds"])]
    assert bundled and set(bundled) <= set(GROUPS["own_readers"])
    assert not {clip.id for clip in read_manifest("bundled", "train")} & set(sum(GROUPS.values(), []))


def rows():
    """Two sources, five readers of ten clips in the first, one in the second."""
    made = [{"id": f"tux_{n % 5}/{n}", "speaker": f"s{n % 5}", "source": "tuxpaint-stamps"} for n in range(50)]
    made += [{"id": f"ast_en/{n}", "speaker": "reader", "source": "asterisk-core-sounds"} for n in range(100)]
    common = {"text": "one two three", "language": "en", "duration": 2.0, "synthetic": False}
    made = [
        {**row, "text": f"{row['id']} two three", **{k: v for k, v in common.items() if k != "text"}} for row in made
    ]
    listing.split_rows(made[:50], "test")
    listing.split_rows(made[50:], "id")
    return made


def test_choosing_groups_is_a_function_of_the_clips(monkeypatch):
    monkeypatch.setattr(held_out, "STRANGERS", {"tuxpaint": ("tuxpaint-stamps", 4)})
    made = rows()
    groups = held_out.choose_groups(made)
    assert groups == held_out.choose_groups(made[::-1])
    assert len(groups["tuxpaint"]) == 20, "four clips of each of five readers"
    held = {row["id"] for row in made[50:] if row["split"] != "train"}
    assert set(groups["own_readers"]) == held and held
    assert len(groups["english_words"]) == 50 + len(held)
    made[0]["duration"] = made[1]["duration"] = 0.4
    shorter = held_out.choose_groups(made)
    assert not {made[0]["id"], made[1]["id"]} & set(shorter["tuxpaint"])


def test_a_build_writes_a_manifest_for_each_group_and_refuses_a_clip_in_train(tmp_path):
    made = rows()
    for row in made:
        row["audio"] = f"audio/{row['id']}.flac"
    groups = {"strangers": ["tux_0/0", "tux_1/1", "tux_9/nowhere"], "others": ["fil_cs/none"]}
    assert held_out.write_group_manifests(made, tmp_path, groups) == ["held out, strangers: 2 of 3 clips"]
    assert [clip.id for clip in read_manifest(tmp_path / "held_out_strangers.jsonl")] == ["tux_0/0", "tux_1/1"]
    assert json.loads((tmp_path / "held_out_strangers.jsonl").read_text().splitlines()[0])["split"] == "test"
    assert not (tmp_path / "held_out_others.jsonl").exists()
    trained = next(row["id"] for row in made if row["split"] == "train")
    with pytest.raises(ValueError, match=f"1 held-out clips are in train or synthetic, first {trained}"):
        held_out.write_group_manifests(made, tmp_path, {"own": [trained]})
    made[0]["synthetic"] = True
    with pytest.raises(ValueError, match="first tux_0/0"):
        held_out.write_group_manifests(made, tmp_path, groups)
