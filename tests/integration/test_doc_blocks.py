"""Every Python block of docs/ runs, the blocks of a page in one fresh process; one that cannot says why, on its page.

Commands in the pages are checked by tests/test_docs.py; those of the tutorial run in test_outsider.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmcodec import assets
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.io import audio

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "# not run in tests: "
BLOCKS = {
    page: re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for page in sorted(DOCS.rglob("*.md"))
}
RUN = {page: [block for block in blocks if not block.startswith(NOT_RUN)] for page, blocks in BLOCKS.items()}
BEFORE = {
    "coding.md": "import numpy as np\nsamples = np.zeros(44100, np.float32)\n",
    "export.md": "import numpy as np\nwav_a, wav_b = np.zeros((2, 8000), np.float32)\nblocks = [wav_a]\n",
    "longform.md": "import numpy as np\nmicrophone = np.zeros((3, 4000), np.float32)\n",
    "speed.md": "import torch\ninput_values, padding_mask = torch.zeros(1, 1, 8000), torch.ones(1, 8000)\n",
}
"""What a page takes for granted."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files under the names that the pages use, with a few seconds of speech."""
    home = tmp_path_factory.mktemp("reader")
    clips = read_manifest(assets.speech_manifest())
    some = [clip for split in ("train", "valid") for clip in [one for one in clips if one.split == split][:2]]
    write_manifest(home / "corpus/manifest.jsonl", some)
    for name in ("speech.flac", "three_hours.flac"):
        audio.write(home / name, some[0].load(16000)[:32000], 16000)
    shutil.copytree(assets.codec_folder(), home / "runs/rate/codec")
    shutil.copytree(assets.codec_folder(), home / "exported")
    command = [sys.executable, "-m", "llmcodec", "encode", "speech.flac", "-o", "tokens/a.safetensors"]
    subprocess.run(command, cwd=home, check=True, capture_output=True)
    return home


@pytest.mark.parametrize("page", [page for page, blocks in RUN.items() if blocks], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, folder: Path) -> None:
    code = BEFORE.get(page.name, "") + "\n".join(RUN[page])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page.name}\n{done.stderr[-1500:]}"
