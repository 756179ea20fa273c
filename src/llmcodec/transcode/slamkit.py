"""Token shards as JSONL for slamkit: `llmcodec tokenize --format slamkit`. Test: `pytest tests/cli/test_lm.py`."""

from __future__ import annotations

import json
from pathlib import Path

from llmcodec.io.atomic import atomic_file
from llmcodec.transcode.flat_rows import FlatRow, flat_rows


def export_slamkit(path: str | Path, target: Path) -> int:
    """Write a folder of shards as JSONL for slamkit; returns the number of clips.

    One object per clip: `file_name`, `units` (flattened codes, repeats kept), `duration` (frames of each unit, all 1),
    `audio_repr` (`<Un17><Un4>..`, slamkit's unit tokens), `text`, `speaker`.
    """
    _, rows = flat_rows(path)
    count = 0
    with atomic_file(target, durable=True) as file:
        for row in rows:
            file.write((json.dumps(slamkit_row(row), ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def slamkit_row(row: FlatRow) -> dict[str, object]:
    """One line of the export."""
    units = [int(code) for code in row.codes]
    return {
        "file_name": row.id,
        "units": units,
        "duration": [1] * len(units),
        "audio_repr": "".join(f"<Un{unit}>" for unit in units),
        "text": row.text,
        "speaker": row.speaker,
    }
