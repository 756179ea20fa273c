"""Codec tokens as text, the form in which a language model prints them: `<CODEC_BEGIN><CODEC_17><CODEC_4><CODEC_END>`.

    text = codes_to_text([17, 4])                    # "<CODEC_17><CODEC_4>"
    parse_codec_text(text, num_codes=4096)           # [[17, 4]]: one list per stretch of audio
    frames(parse_codec_text(text, 4096)[0], num_codebooks=1)   # [[17, 4]]: one list per codebook

Id i is code i of a codec with one codebook. With Q codebooks of V codes, code v of codebook q is i = q V + v, and the
codes of a frame follow each other (as `metrics.token_statistics.flatten_codes` orders them). Imports the standard
library alone.
Test: `pytest tests/io/test_token_text.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

BEGIN = "<CODEC_BEGIN>"
"""Audio starts behind this token."""
END = "<CODEC_END>"
"""Audio ends here; sampling stops."""

_TOKEN = re.compile(r"<CODEC_(?:(\d{1,9})|(BEGIN)|(END))>")


def codec_token(code: int) -> str:
    """Text of one code."""
    return f"<CODEC_{code}>"


def codes_to_text(codes: Iterable[int], markers: bool = False) -> str:
    """Flattened codes as one string; `markers` puts begin and end of audio around them."""
    body = "".join(codec_token(int(code)) for code in codes)
    return f"{BEGIN}{body}{END}" if markers else body


def parse_codec_text(text: str, num_codes: int) -> list[list[int]]:
    """Stretches of audio in a text, as flattened codes; words and blanks between the tokens are skipped.

    A begin or an end marker, and any text but blanks between two tokens, starts a new stretch.

    Args:
        num_codes: all codes of the codec, Q V.

    Raises:
        ValueError: no codec token in the text, or one that the codec does not have.
    """
    stretches: list[list[int]] = [[]]
    behind = 0
    for match in _TOKEN.finditer(text):
        if match[2] or match[3] or text[behind : match.start()].strip():
            stretches.append([])
        behind = match.end()
        if match[1] is None:
            continue
        code = int(match[1])
        if code >= num_codes:
            raise ValueError(
                f"codec text: {match[0]} at character {match.start()}, but this codec has {num_codes} codes "
                f"(0..{num_codes - 1}); decode it with the codec that its language model was trained on"
            )
        stretches[-1].append(code)
    found = [stretch for stretch in stretches if stretch]
    if not found:
        raise ValueError("codec text: no token like <CODEC_17> in it; let the model print special and added tokens")
    return found


def frames(codes: Sequence[int], num_codebooks: int, codebook_size: int | None = None) -> list[list[int]]:
    """Flattened codes -> one list per codebook, Q of T, without the shift of the codebooks.

    Args:
        codebook_size: V; may stay None for one codebook.

    Raises:
        ValueError: the codes do not go through the codebooks in order, or stop inside a frame.
    """
    if num_codebooks == 1:
        return [list(codes)]
    if codebook_size is None:
        raise ValueError("codec text: several codebooks need codebook_size")
    for place, code in enumerate(codes):
        if code // codebook_size != place % num_codebooks:
            raise ValueError(
                f"codec text: code {code} stands at place {place}, where codebook {place % num_codebooks} "
                f"({codebook_size} codes each) is due; the order is frame by frame"
            )
    if len(codes) % num_codebooks:
        raise ValueError(f"codec text: {len(codes)} codes are no whole frames of {num_codebooks} codebooks")
    return [[code - q * codebook_size for code in codes[q::num_codebooks]] for q in range(num_codebooks)]
