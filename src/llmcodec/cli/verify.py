"""`llmcodec verify`: check files that llmcodec wrote for damage.

Test: tests/cli/test_verify.py.
"""

from __future__ import annotations

from llmcodec.cli.summary import Failed


def verify(inputs: list[str], write_digests: bool = False) -> None:
    """Check files and folders that llmcodec wrote; prints a line for each file, codec, language model, ...

    Weights are compared with the digests that were stored when they were saved; a tensor that differs is named. The
    exit code is 1 if anything is damaged.

      llmcodec verify runs/rate
      llmcodec verify old-codec --write-digests

    Args:
        inputs: codec, LM, adapter, ONNX or run folders, checkpoints, token files, shards, or folders of them.
        write_digests: first store the digests of the current weights, for folders of llmcodec 0.1 or after another
            program has changed them.
    """
    from llmcodec.experiments.verification import note_digests
    from llmcodec.experiments.verification import verify as verify_place

    if write_digests:
        for place in inputs:
            note_digests(place)
    damaged = []
    for place in inputs:
        for finding in verify_place(place):
            print(finding, flush=True)
            damaged += [finding.path] if finding.is_damaged else []
    if damaged:
        raise Failed(f"{len(damaged)} damaged: {', '.join(map(str, damaged[:5]))}{', ...' if damaged[5:] else ''}")
