"""docs/codecs.md: the example of an adapter runs and is right, and the table says what the presets say."""

import re
from pathlib import Path

import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.adapters.random_weights import OURS, PRESETS
from llmcodec.adapters.registry import WEIGHTLESS
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


def test_the_table_names_every_preset_with_its_numbers():
    rows = {name: row for row in PAGE.splitlines() for name in re.findall(r"`random:(\w+)` \|", row)}
    assert set(rows) == {*PRESETS, *OURS}
    for name, row in rows.items():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 9, name
        rate, frames, tokens, codes, bits = cells[3:8]
        frames_per_second = float(frames)
        count = sum(int(n) for n in re.findall(r"(\d+)(?:$| \(| level)", tokens))
        log2 = torch.tensor(float(codes.replace(",", ""))).log2().item()
        nominal = float(bits.replace(",", ""))
        if name != "encodec_48khz":  # its level is sent once a second
            assert nominal == pytest.approx(frames_per_second * count * log2, rel=0.006), name
        assert int(rate.split()[0].replace(",", "")) >= 16_000


def test_the_table_names_every_codec_without_weights_with_its_numbers():
    rows = {name: row for row in PAGE.splitlines() for name in re.findall(r"^\| [^|`]+ `(\w+)` \|", row)}
    assert set(rows) == set(WEIGHTLESS)
    for name, row in rows.items():
        numbers = [float(cell.replace(",", "")) for cell in row.strip("|").split("|")[3:8]]
        codec = load_codec(name)
        rates = [codec.sample_rate, codec.frame_rate, codec.num_codebooks, codec.codebook_size, codec.bitrate]
        assert numbers == pytest.approx(rates), name
