"""docs/codecs.md: the example of an adapter runs and is right, and the table says what the presets say."""

import re
from pathlib import Path

import torch

from llmcodec.adapters.catalogue import markdown_table
from llmcodec.protocol import Codec, HasFeatures

PAGE = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text(encoding="utf-8")


def test_the_example_of_an_adapter_runs_and_is_g711s_curve():
    (code,) = re.findall(r"## Add one.*?```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.splitlines()) <= 45
    names: dict = {}
    exec(compile(code, "docs/codecs.md", "exec"), names)
    codec = names["codec"]
    assert isinstance(codec, Codec) and isinstance(codec, HasFeatures) and codec.bitrate == 64_000
    assert names["codes"].shape == (1, 8, 501) and names["wav"].shape == (1, 1, 4001)
    wav = torch.sin(torch.arange(4001) / 7)[None, None]
    again = codec.decode(codec.encode(wav).audio_codes, length=4001).audio_values
    step = 1 / 127.5 / 2 * torch.log(torch.tensor(256.0)) * (1 / 255 + wav.abs())  # half a step of the compressed scale
    assert ((again - wav).abs() <= 1.05 * step + 1e-6).all()


def test_the_table_is_that_of_the_catalogue():
    """`python -c "from llmcodec.adapters.catalogue import markdown_table; print(markdown_table())"` makes it again."""
    assert markdown_table() in PAGE
