"""Codec tokens as text and back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcodec.io.token_text import BEGIN, END, codes_to_text, frames, parse_codec_text
from llmcodec.metrics.token_statistics import flatten_codes


@given(st.lists(st.lists(st.integers(0, 99), min_size=1), min_size=1, max_size=4), st.sampled_from(["", " ", "\n"]))
def test_there_and_back(stretches, blank):
    text = "hm ".join(codes_to_text(codes, markers=True).replace("><", f">{blank}<") for codes in stretches)
    assert parse_codec_text(text, 100) == stretches


def test_words_and_markers_part_stretches_but_blanks_do_not():
    assert parse_codec_text("well <CODEC_3> <CODEC_4>so<CODEC_5>" + END + "<CODEC_6>" + BEGIN, 10) == [[3, 4], [5], [6]]
    assert codes_to_text(torch.tensor([17, 4])) == "<CODEC_17><CODEC_4>"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("<CODEC_3><CODEC_10>", "<CODEC_10> at character 9, but this codec has 10 codes"),
        ("nothing here", "no token like <CODEC_17>"),
        (BEGIN + END, "no token like"),
        ("<CODEC_99999999999999999999>", "no token like"),
    ],
)
def test_bad_text_is_one_clear_line(text, line):
    with pytest.raises(ValueError, match=line):
        parse_codec_text(text, 10)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_frames_undo_flatten_codes(num_codebooks, length, seed):
    codes_QT = torch.randint(0, 50, (num_codebooks, length), generator=torch.Generator().manual_seed(seed))
    assert frames(flatten_codes(codes_QT, 50).tolist(), num_codebooks, 50) == codes_QT.tolist()


def test_frames_out_of_order_or_cut():
    with pytest.raises(ValueError, match="code 3 stands at place 1, where codebook 1"):
        frames([2, 3], 2, 10)
    with pytest.raises(ValueError, match="no whole frames"):
        frames([2, 13, 4], 2, 10)


def test_it_needs_neither_torch_nor_numpy():
    code = "import sys, llmcodec.io.token_text; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
