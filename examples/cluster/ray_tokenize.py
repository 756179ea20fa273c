"""Tokenize a corpus on a Ray cluster from Python, in a pipeline that uses Ray already.

    python examples/cluster/ray_tokenize.py --manifest corpus/manifest.jsonl --codec bundled -o tokens --workers 64

`llmcodec tokenize --engine ray` does this and more (splits, views, URLs). `make_job` is called in every actor: what you
change there (filters, another codec, texts) must give the same clips and codec on every machine.
Test: tests/examples/test_cluster.py.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from llmcodec.data.manifest import read_manifest
from llmcodec.io.bad_rows import BadRows
from llmcodec.runtime.opening import open_runtime
from llmcodec.transcode.ray_parts import tokenize_on_ray
from llmcodec.transcode.tokenize import TokenJob, describe


def make_job(manifest: str, codec: str) -> TokenJob:
    """The codec and the clips that last half a second or longer."""
    return TokenJob.of(open_runtime(codec, only="encoder"), read_manifest(manifest, min_seconds=0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--codec", default="bundled")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    make = partial(make_job, str(Path(options.manifest).absolute()), options.codec)
    job = make()
    bad = BadRows("1%", job.num_clips)
    made = tokenize_on_ray(job, make, Path(options.output), workers=options.workers, bad=bad)
    print(*describe(made), *bad.lines(), sep="\n")


if __name__ == "__main__":
    main()
