"""Peers on files of any length: pieces joined have the right lengths; where a model only looks nearby, equal tokens."""

import pytest
import torch

from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks

from .tiny_codecs import noise, tiny_codec


@pytest.mark.parametrize(
    ("name", "lookahead"), [("encodec", 0.1), ("dac", 0.1), ("mimi", 0.2), ("snac", 0.2), ("neucodec", 0.1)]
)
def test_pieces_of_a_long_file(name, lookahead):
    codec = tiny_codec(name)
    num_samples = int(0.8 * codec.sample_rate) + 5
    wav = noise(num_samples, sample_rate=codec.sample_rate)
    whole = codec.encode(wav[None, None]).audio_codes[0]
    options = dict(chunk_seconds=0.25, lookahead_seconds=lookahead)
    codes = torch.cat(list(encode_blocks(codec, wav.split(999), **options)), -1)
    again = torch.cat(list(decode_blocks(codec, whole.split(7, -1), length=num_samples, **options)))
    assert codes.shape == whole.shape and again.shape == (num_samples,) and torch.isfinite(again).all()
    if name != "neucodec":  # it looks at the whole clip
        assert (codes == whole).float().mean() > 0.99
    if name in ("encodec", "dac", "mimi"):  # SNAC's noise begins anew in each piece
        reference = codec.decode(whole[None], length=num_samples).audio_values[0, 0]
        assert (again - reference).norm() < 1e-3 * reference.norm()
