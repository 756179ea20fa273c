"""Token files: what encoding writes and decoding, language models and other programs read.

A safetensors file with the tensor `codes` (C, Q, T) and everything needed to decode it in the metadata; for a corpus in
few files see token_shards.py.

    save_token_file("a.safetensors", TokenClip(codes_CQT, num_samples=16000), provenance)
    clip, provenance = load_token_file("a.safetensors")

Shapes: C coded channels (1 after a down-mix), Q codebooks, T frames. Sizes are checked before memory is taken, codes
against the codebook. Imports neither torch nor transformers. Test: tests/io/test_token_file.py.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcodec.io.atomic import AnyPath
from llmcodec.io.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from llmcodec.io.tensor_file import read_arrays, read_header, write_arrays

FORMAT = "llmcodec-tokens-1"
MAX_FILE_BYTES = 1 << 32  # a day of 200 tokens a second is 35 MB: more than 4 GiB is no token file
MAX_SAMPLES = 1 << 48
SIZES = ("sample_rate", "hop_samples", "num_codebooks", "codebook_size")


class NotTokens(ValueError):
    """A file that is whole, but none of ours."""


SEARCHED = re.compile(r"search(?:@(?P<weight>[\d.]+))?:.+?(?:\?effort=(?P<effort>[\w,]+))?")
"""Name of a codec that searched; before 0.2 without weight and effort."""


def difference_of_search(codec: str, other: str) -> str:
    """How the tokens of `other` were chosen differently, in words; empty if alike, as far as both names say.

    Search changes which tokens a codec writes, not the codec: `search@WEIGHT:NAME?effort=EFFORT[,lm]`, docs/search.md.
    """
    mine, theirs = SEARCHED.fullmatch(codec), SEARCHED.fullmatch(other)
    parts = [(mine[name], theirs[name]) for name in ("weight", "effort")] if mine and theirs else []
    if bool(mine) == bool(theirs) and not any(ours and its and ours != its for ours, its in parts):
        return ""
    return f"its tokens were chosen by {other!r}, not by {codec!r}"


def search_of(codec: str) -> str:
    """Weight and effort of a codec's search by its name, e.g. `0.1 fast,lm`; `none` for one that does not search."""
    found = SEARCHED.fullmatch(codec)
    return " ".join(filter(None, found.groups())) if found else "none"


@dataclass(frozen=True)
class TokenProvenance:
    """Which codec makes or made tokens. Equal `weights_sha256` means equal tokens, whatever the name or the runtime."""

    codec: str
    """Name for people: `bundled`, a hub id, a folder's name."""
    weights_sha256: str
    """64 hex digits over names, shapes and float32 values of all weights: the same in fp16 files and fp32 memory."""
    sample_rate: int
    """Samples per second that the codec reads and writes."""
    hop_samples: int
    """Samples per frame."""
    num_codebooks: int
    """Q, tokens per frame."""
    codebook_size: int
    """V, codes in each codebook."""
    manifest_hash: str = ""
    """`data.manifest.manifest_hash` of the corpus, where there was one."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    def metadata(self) -> dict[str, str]:
        """As strings, for the header of a token file or shard."""
        fields = {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"format": FORMAT, "frame_rate": repr(self.frame_rate), **fields}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], where: object) -> TokenProvenance:
        """Read what `metadata` wrote. Raises ValueError naming `where` for a file that is not ours or is damaged."""
        if metadata.get("format") != FORMAT:
            found = f"its format is {metadata['format'][:40]!r}" if "format" in metadata else "it names no format"
            raise NotTokens(f"{where}: not a token file of llmcodec ({found}; {FORMAT} is known)")
        sizes = {name: number_in(metadata, name, where, low=1, high=1 << 31) for name in SIZES}
        rate = sizes["sample_rate"] / sizes["hop_samples"]
        if metadata.get("frame_rate", repr(rate)) != repr(rate):
            raise ValueError(
                f"{where}: frame_rate is {metadata['frame_rate'][:40]!r}, by its other sizes it is {rate!r}"
            )
        sha = metadata.get("weights_sha256", "")
        if not re.fullmatch(r"[0-9a-f]{64}", sha):
            raise ValueError(f"{where}: weights_sha256 is not 64 hex digits")
        return cls(metadata.get("codec", ""), sha, manifest_hash=metadata.get("manifest_hash", ""), **sizes)

    def refuse_others(self, other: TokenProvenance, where: object) -> None:
        """Raise ValueError where the tokens `where` were made by another codec than this."""
        if other.weights_sha256 != self.weights_sha256:
            raise ValueError(
                f"{where}: tokens of codec {other.codec!r} (weights {other.weights_sha256[:12]}), not of "
                f"{self.codec!r} ({self.weights_sha256[:12]}); name the right one with --codec"
            )
        for name in SIZES:
            theirs, ours = getattr(other, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"{where}: {name} {theirs}, but codec {self.codec!r} has {ours}; a damaged file?")

    def difference_of_sizes(self, other: TokenProvenance) -> str:
        """In which sizes `other`, of the same weights, differs (it may use fewer codebooks); empty if in none."""
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in SIZES)
        return ", ".join(f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours)

    def check_codes(self, codes: np.ndarray, where: object) -> None:
        """Raise ValueError where `codes` (..., Q, T) have another number of codebooks or leave the codebook."""
        if codes.ndim < 2 or codes.shape[-2] != self.num_codebooks:
            raise ValueError(f"{where}: codes of shape {codes.shape}, but the codec has {self.num_codebooks} codebooks")
        if codes.size == 0:
            raise ValueError(f"{where}: no tokens")
        if codes.dtype.kind not in "iu":
            raise ValueError(f"{where}: codes must be integers, got {codes.dtype}")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise ValueError(
                f"{where}: code {low if low < 0 else high} is outside [0, {self.codebook_size}) of codec {self.codec!r}"
            )


@dataclass(frozen=True)
class TokenClip:
    """The tokens of one recording and what the recording was."""

    codes: np.ndarray
    """(C, Q, T) int64; C = 1 after a down-mix, else one per channel."""
    num_samples: int
    """Length at the codec's sample rate."""
    original_sample_rate: int = 0
    """Of the file that was encoded; 0: the codec's own."""
    original_num_samples: int = 0
    """Frames of the file that was encoded; 0: unknown."""
    original_channels: int = 1
    """Channels of the file that was encoded, also where they were mixed down."""


def code_dtype(codebook_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and int32 that holds every code."""
    return np.dtype(np.uint16 if codebook_size <= 1 << 16 else np.int32)


def save_token_file(path: AnyPath, clip: TokenClip, provenance: TokenProvenance, durable: bool = True) -> None:
    """Write one clip as safetensors, atomically; `durable` waits for the disk (`atomic.atomic_file`).

    Raises:
        ValueError: codes that do not fit the provenance.
    """
    if clip.codes.ndim != 3:
        raise ValueError(f"{path}: codes are (channels, codebooks, frames), not {clip.codes.shape}")
    provenance.check_codes(clip.codes, path)
    facts = {name: str(getattr(clip, name)) for name in CLIP_FACTS}
    codes = clip.codes.astype(code_dtype(provenance.codebook_size))
    write_arrays(path, {"codes": codes}, provenance.metadata() | facts, durable)


def load_token_file(path: AnyPath) -> tuple[TokenClip, TokenProvenance]:
    """Read what `save_token_file` wrote.

    Raises:
        ValueError: not a token file, sizes that do not add up, a code outside the codebook. One line, naming the file.
    """
    arrays, metadata = read_arrays(path, MAX_FILE_BYTES)
    shapes = {name: array.shape for name, array in arrays.items()}
    facts, provenance = checked_facts(path, metadata, shapes)
    codes = arrays["codes"]
    if codes.dtype.kind not in "ui" or codes.dtype == np.uint64:
        raise ValueError(f"{path}: codes are {codes.dtype}, which no codec writes")
    provenance.check_codes(codes, path)
    return TokenClip(codes.astype(np.int64), **facts), provenance


def read_token_facts(path: AnyPath) -> tuple[dict[str, int], TokenProvenance]:
    """What the header of a token file says, no codes read: the fields of `TokenClip` and `channels`, the provenance.

    Raises ValueError as `load_token_file`, but for the codes themselves.
    """
    header = read_header(path, max_header_bytes=1 << 20)
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    facts, provenance = checked_facts(path, header.metadata, shapes)
    return {**facts, "channels": shapes["codes"][0]}, provenance


def checked_facts(
    path: AnyPath, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, int], TokenProvenance]:
    """Checked facts of a token file: what they claim fits the number of frames."""
    provenance = TokenProvenance.from_metadata(metadata, path)
    facts = {name: number_in(metadata, name, path, low=low, high=MAX_SAMPLES) for name, low in CLIP_FACTS.items()}
    shape = shapes.get("codes", ())
    if len(shapes) != 1 or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{path}: not a token file of llmcodec (one tensor `codes` of shape (C, Q, T) is expected)")
    most = (shape[2] + 1) * provenance.hop_samples
    if facts["num_samples"] > most:
        raise ValueError(f"{path}: {facts['num_samples']} samples claimed, {shape[2]} frames cover at most {most}")
    if shape[2] > max(1, -(-facts["num_samples"] // provenance.hop_samples)):
        raise ValueError(f"{path}: {shape[2]} frames for {facts['num_samples']} samples, more than they can have")
    rate, original = facts["original_sample_rate"], facts["original_num_samples"]
    if rate and not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"{path}: an original sample rate of {rate} Hz cannot be right")
    drift = original * provenance.sample_rate - facts["num_samples"] * rate
    if rate and original and abs(drift) > 2 * max(rate, provenance.sample_rate):
        raise ValueError(f"{path}: {original} original samples at {rate} Hz are not its {facts['num_samples']} samples")
    return facts, provenance


CLIP_FACTS = {"num_samples": 1, "original_sample_rate": 0, "original_num_samples": 0, "original_channels": 1}


def number_in(metadata: dict[str, str], name: str, where: object, low: int, high: int) -> int:
    text = metadata.get(name, "")
    if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
        raise ValueError(f"{where}: {name} in its metadata is {text[:40]!r}, not a number from {low} to {high}")
    return int(text)
