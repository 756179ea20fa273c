"""`llmcodec tokens`: parts of a run with `--shard` put together, token folders checked; `data manifest`, `data hub`.

Test: tests/cli/test_tokens.py, tests/data/test_corpus.py, tests/data/test_hub.py.
"""

from __future__ import annotations

from pathlib import Path

from llmcodec.cli.options import OutputOptions
from llmcodec.cli.summary import Failed
from llmcodec.data.corpus import make_manifest
from llmcodec.data.hub import make_hub_manifest
from llmcodec.io.lm_card import remember_codec, remembered_codec
from llmcodec.transcode.index import INDEX, check_index
from llmcodec.transcode.merge import check_parts, merge_parts, totals
from llmcodec.transcode.sharding import parts_in

__all__ = ["make_hub_manifest", "make_manifest", "merge", "verify"]


def merge(inputs: list[str], output: OutputOptions = OutputOptions(), remove_parts: bool = False) -> None:
    """Put the parts of `tokenize --shard` or `encode --shard` together: the result is that of one run without --shard.

      llmcodec tokens merge tokens/

    Missing, doubled and unfinished parts are named, as are parts of another codec, corpus or setting; nothing is
    written then. A folder that is merged already stays as it is.

    Args:
        inputs: the folder with the parts, or parts from several machines.
        output: folder for the result; default: the one with the parts.
        remove_parts: delete the parts once the result is complete.
    """
    places = [Path(one) for one in inputs]
    if output.output is None and (len(places) != 1 or places[0].name.startswith("part-")):
        raise ValueError("several parts: name the folder for the result with --output")
    codec = next(filter(None, (remembered_codec(folder) for place in places for folder in parts_in(place))), "")
    target = places[0] if output.output is None else output.place
    index = merge_parts(places, target, remove_parts)
    remember_codec(target, codec)
    print(*totals(index), sep="\n")


def verify(inputs: list[str]) -> None:
    """Compare token folders with their index, or say which parts of a sharded run are still missing.

      llmcodec tokens verify tokens/

    The exit code is 1 if a shard is missing, damaged, doubled, or not in the index.

    Args:
        inputs: folders of `tokenize`, of `encode`, or of parts that are not merged yet.
    """
    places = [Path(one) for one in inputs]
    merged = [place for place in places if (place / INDEX).is_file()]
    parts = [place for place in places if place not in merged]
    wrong = 0
    for found in [*map(check_index, merged), *([check_parts(parts)] if parts else [])]:
        for path, said, is_damaged in found:
            print(f"WRONG {said}" if is_damaged else f"{path}: {said}", flush=True)
            wrong += is_damaged
    if wrong:
        raise Failed(f"{wrong} of these are wrong")
