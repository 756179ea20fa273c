"""data/clip_table.py: a mapped table is the list of its clips, whatever is chosen from it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from llmcodec.data import clip_table
from llmcodec.data.clip_table import ClipTable, write_clips
from llmcodec.data.manifest import Clip, clips_by_split, find_blocks


@pytest.fixture
def clips(tmp_path, monkeypatch) -> list[Clip]:
    monkeypatch.setattr(clip_table, "ROWS", 7)  # several record batches
    names = [f"clip{number}" for number in range(40)]
    return [
        Clip(name, f"{name}.wav", 0.5 + number, split=("train", "", "valid")[number % 3], folder=str(tmp_path))
        for number, name in enumerate(names)
    ]


def test_a_table_is_the_list_of_its_clips(tmp_path, clips):
    assert write_clips(tmp_path / "t.arrow", clips) == 40
    table = ClipTable.open(tmp_path / "t.arrow")
    assert list(table) == clips and [table[at] for at in (0, 6, 7, 39, -1)] == [clips[at] for at in (0, 6, 7, 39, -1)]
    assert list(table[5:30:3]) == clips[5:30:3] and list(table[5:30][3:9][-2:]) == clips[5:30][3:9][-2:]
    with pytest.raises(IndexError):
        table[40]
    long = table.where(table.durations > 10)
    assert list(long) == [clip for clip in clips if clip.duration > 10]
    assert list(long.where(long.is_in("split", ["valid"]))) == [
        clip for clip in clips if clip.duration > 10 and clip.split == "valid"
    ]
    assert {name: list(part) for name, part in clips_by_split(table).items()} == clips_by_split(clips)
    assert list(clips_by_split(clips)) == ["", "train", "valid"]


def test_rows_in_any_order_and_more_than_once(tmp_path, clips):
    write_clips(tmp_path / "t.arrow", clips)
    table = ClipTable.open(tmp_path / "t.arrow")
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, 40, 60)
        assert list(table.take(rows)) == [clips[row] for row in rows]


def test_chosen_rows_are_read_without_a_copy_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_table, "ROWS", 100)
    write_clips(tmp_path / "t.arrow", (Clip(f"{n}", "a.wav", 1.0, text="x" * 1000) for n in range(5000)))
    table = ClipTable.open(tmp_path / "t.arrow")[3:]
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pool := pa.proxy_memory_pool(usual))
    try:
        assert sum(batch.num_rows for batch in table.batches(["text"])) == 4997
    finally:
        pa.set_memory_pool(usual)
    assert 0 < pool.max_memory() < 2_000_000  # all texts have 5 MB


def test_row_groups_of_chosen_rows(tmp_path, clips):
    rows = [
        Clip(clip.id, f"{number // 20}.parquet", 1.0, inside=f"{number % 20 // 5}/{number % 5}/audio")
        for number, clip in enumerate(clips)
    ]
    write_clips(tmp_path / "t.arrow", rows)
    table = ClipTable.open(tmp_path / "t.arrow")
    assert find_blocks(table).tolist() == list(range(0, 40, 5)) == find_blocks(rows).tolist()
    assert find_blocks(table[3:12]).tolist() == [0, 2, 7]


def test_what_no_table_of_clips_is(tmp_path, clips):
    with pytest.raises(ValueError, match=r"id 'clip3' stands twice: clip 4 \(clip3.wav\) and clip 41 \(clip3.wav\)"):
        write_clips(tmp_path / "t.arrow", [*clips, clips[3]])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="not Unicode, which Arrow cannot hold"):
        write_clips(tmp_path / "t.arrow", [Clip("a", "\udcff.wav", 1.0)])
    with pa.OSFile(str(tmp_path / "o.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("id", pa.string())])):
        pass
    with pytest.raises(ValueError, match="not a table of clips"):
        ClipTable.open(tmp_path / "o.arrow")
    write_clips(tmp_path / "t.arrow", clips)
    (tmp_path / "t.arrow").write_bytes((tmp_path / "t.arrow").read_bytes()[:-100])
    with pytest.raises(ValueError, match="t.arrow: not an Arrow file, or damaged"):
        ClipTable.open(tmp_path / "t.arrow")
    assert np.array_equal(ClipTable.open(_written(tmp_path, clips)).durations, [clip.duration for clip in clips])


def _written(folder, clips):
    write_clips(folder / "again.arrow", clips)
    return folder / "again.arrow"
