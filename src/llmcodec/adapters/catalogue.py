"""Every codec that has a name here: where its weights come from, its rates, their licence. `llmcodec codecs` shows it.

The table of docs/codecs.md is made of it (`markdown_table`), and an unknown name is answered from it (`nearest`).
Rates are those of the published checkpoints; a test compares them with the architectures.
Test: tests/adapters/test_catalogue.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Literal

from llmcodec.adapters.opus import KBITS, OpusCodec
from llmcodec.assets import CODECS
from llmcodec.io.hub_names import find_cached

State = Literal["works offline", "needs the hub", "random only"]
CARD = "see the card"


@dataclass(frozen=True)
class Entry:
    """One codec."""

    title: str
    """What people call it."""
    name: str
    """What `--codec` takes: `random:NAME`, or a name that needs no weights."""
    weights: str
    """What `--codec` takes for the published weights, a `convert` command's argument, or where they are."""
    package: str
    """What has to be installed."""
    sample_rate: int
    frame_rate: float
    num_codebooks: int
    """Tokens per frame by default."""
    codebook_size: int
    licence: str
    """Of the weights."""
    possible: str = ""
    """Numbers of codebooks that can be asked for, where there are several; said behind the default."""
    bits_per_second: float | None = None
    """Where it is not that of all codes of all frames."""
    decodes: bool = True
    hears: int | None = None
    """Rate of its input, where it is another."""
    has_tokens: bool = True

    @property
    def nominal_bits_per_second(self) -> float:
        whole = self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)
        return whole if self.bits_per_second is None else self.bits_per_second


def _published(
    title: str,
    name: str,
    weights: str,
    rates: tuple[int, float, int, int],
    licence: str,
    package: str = "transformers",
    possible: str = "",
    decodes: bool = True,
    hears: int | None = None,
    bits: float | None = None,
) -> Entry:
    return Entry(title, f"random:{name}", weights, package, *rates, licence, possible, bits, decodes, hears)


OURS, MIT, APACHE = "as its card says", "MIT", "Apache-2.0"
BY_SA = "CC BY-SA 3.0"
WAV, WAV_40 = "hf://novateur/WavTokenizer/WavTokenizer_small_", "hf://novateur/WavTokenizer-large-unify-40token/..."
SPEECH = "hf://fnlp/SpeechTokenizer/speechtokenizer_hubert_avg/SpeechTokenizer.pt"
STREAM = "soundstream_16khz-*.ckpt (github.com/kaiidams/soundstream-pytorch)"
COSY = "speech_tokenizer_v{}.onnx (modelscope.cn/models/iic/{})"
ENTRIES: tuple[Entry, ...] = (
    *(Entry(name, name, name, "llmcodec", 16_000, 50, 1, 8192, BY_SA) for name in CODECS),
    *(
        Entry(f"Opus {kbits} kbit/s", f"opus:{kbits}", f"opus:{kbits}", "soundfile", OpusCodec.sample_rate, 50, 1, 256,
              "free (RFC 6716)", bits_per_second=1000 * kbits, has_tokens=False)
        for kbits in KBITS
    ),
    _published("EnCodec", "encodec_24khz", "facebook/encodec_24khz", (24_000, 75, 8, 1024),
               "none named on the card; MIT on the 48 kHz one", possible="(1-32)"),
    _published("EnCodec 32 kHz", "encodec_32khz", "facebook/encodec_32khz", (32_000, 50, 4, 2048),
               "MusicGen's: CC BY-NC 4.0", possible="(1-4)"),
    _published("EnCodec 48 kHz", "encodec_48khz", "facebook/encodec_48khz", (48_000, 150, 4, 1024), MIT,
               possible="(1-16) + 1 level", bits=6010),
    _published("DAC 16 kHz", "dac_16khz", "descript/dac_16khz", (16_000, 50, 12, 1024), MIT, possible="(1-12)"),
    _published("DAC 24 kHz", "dac_24khz", "descript/dac_24khz", (24_000, 75, 32, 1024), MIT, possible="(1-32)"),
    _published("DAC 44.1 kHz", "dac_44khz", "descript/dac_44khz", (44_100, 44_100 / 512, 9, 1024), MIT,
               possible="(1-9)"),
    _published("Mimi", "mimi", "kyutai/mimi", (24_000, 12.5, 8, 2048), "CC BY 4.0", possible="(1-32)"),
    _published("X-codec", "xcodec", "hf-audio/xcodec-hubert-librispeech", (16_000, 50, 8, 1024), CARD,
               possible="(1-8)"),
    _published("X-codec 2", "xcodec2", "HKUSTAudio/xcodec2-hf", (16_000, 50, 1, 65_536), "CC BY-NC 4.0"),
    _published("NeuCodec", "neucodec", "neuphonic/neucodec", (24_000, 50, 1, 65_536), APACHE, hears=16_000),
    _published("SNAC 24 kHz", "snac_24khz", "hubertsiuzdak/snac_24khz", (24_000, 24_000 / 2048, 7, 4096), MIT, "snac"),
    _published("SNAC 32 kHz", "snac_32khz", "hubertsiuzdak/snac_32khz", (32_000, 32_000 / 3072, 15, 4096), MIT, "snac"),
    _published("SNAC 44.1 kHz", "snac_44khz", "hubertsiuzdak/snac_44khz", (44_100, 44_100 / 3072, 15, 4096), MIT,
               "snac"),
    _published("AUV", "auv", "auv:SWivid/AUV", (16_000, 50, 1, 20_480), MIT, "auv"),
    _published("BigCodec", "bigcodec", "a folder of the package's save_pretrained", (16_000, 80, 1, 8192),
               "the package names none", "bigcodec"),
    _published("WavTokenizer 75 Hz", "wavtokenizer_75", f"{WAV}320_24k_4096.ckpt", (24_000, 75, 1, 4096), MIT,
               "llmcodec"),
    _published("WavTokenizer 40 Hz", "wavtokenizer_40", f"{WAV}600_24k_4096.ckpt", (24_000, 40, 1, 4096), MIT,
               "llmcodec"),
    _published("UniCodec", "unicodec", "hf://Yidiii/UniCodec_ckpt/...", (24_000, 75, 1, 16_384), CARD, "llmcodec"),
    _published("SpeechTokenizer", "speechtokenizer", SPEECH, (16_000, 50, 8, 1024), CARD, "llmcodec",
               possible="(1-8)"),
    _published("SoundStream", "soundstream_16khz", STREAM, (16_000, 50, 8, 1024), MIT, "llmcodec", possible="(1-8)"),
    _published("S3Tokenizer v1", "s3tokenizer_v1", COSY.format(1, "CosyVoice-300M"), (16_000, 50, 1, 4096), CARD,
               "llmcodec", decodes=False),
    _published("S3Tokenizer v1, 25 Hz", "s3tokenizer_v1_25hz", COSY.format(1, "CosyVoice-300M-25Hz"),
               (16_000, 25, 1, 4096), CARD, "llmcodec", decodes=False),
    _published("S3Tokenizer v2", "s3tokenizer_v2_25hz", COSY.format(2, "CosyVoice2-0.5B"), (16_000, 25, 1, 6561), CARD,
               "llmcodec", decodes=False),
    _published("HuBERT units", "hubert_units", "a folder of `llmcodec units`", (16_000, 50, 1, 500), "the encoder's",
               decodes=False),
    _published("llmcodec, tiny", "llmcodec_tiny", "a folder or a hub id", (16_000, 50, 1, 4096), OURS, "llmcodec"),
    _published("llmcodec, AUV's size", "llmcodec_auv", "a folder or a hub id", (16_000, 50, 1, 20_480), OURS,
               "llmcodec"),
)  # fmt: skip
UNAVAILABLE: dict[str, str] = {
    "SoundStream (Google)": "neither code nor weights were published; `random:soundstream_16khz` is another's version",
    "AUV, training": "only the model was published; its teachers and losses are not in the package",
    "SpeechTokenizer, snake": "the AnyGPT variant with another activation: `convert` refuses it, naming a tensor",
}
"""Name -> why it is not here."""
Download = Callable[[str], bool]


def is_cached(repo: str) -> bool:
    """Whether this machine has downloaded a hub repository."""
    try:
        find_cached(repo, "codec", "llmcodec codecs")
    except ValueError:
        return False
    return True


def state_of(entry: Entry, cached: Download = is_cached) -> State:
    """Whether its weights are here, can be fetched, or are nowhere."""
    if entry.name == entry.weights:
        return "works offline"
    if entry.weights.startswith("a folder"):
        return "random only"
    repo = entry.weights.removeprefix("auv:")
    return "works offline" if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) and cached(repo) else "needs the hub"


def missing_package(entry: Entry) -> str:
    """The package that it needs and that is not installed, or nothing."""
    return "" if find_spec(entry.package) is not None else entry.package


def origin_of(entry: Entry) -> str:
    """Where weights come from, as a command's argument: `--codec facebook/encodec_24khz`, `convert hf://...`."""
    if entry.name == entry.weights:
        return f"--codec {entry.name}"
    if re.fullmatch(r"(auv:)?[\w.-]+/[\w.-]+", entry.weights):
        return f"--codec {entry.weights}"
    return entry.weights if entry.weights.startswith("a folder") else f"convert {entry.weights}"


def nearest(name: str, count: int = 3) -> str:
    """Codecs with names like `name`, and where their weights come from; nothing if none is near."""
    plain = {_plain(key): entry for entry in ENTRIES for key in (entry.title, entry.name, entry.weights)}
    wanted = _plain(name)
    near = [key for key in plain if wanted and (key.startswith(wanted) or wanted.startswith(key))]
    near += get_close_matches(wanted, plain, count, 0.7)
    found = list(dict.fromkeys(plain[key] for key in near))[:count]
    names = {entry.title: origin_of(entry).removeprefix("--codec ") for entry in found}
    return "; ".join(title if title == name else f"{title}: {name}" for title, name in names.items())


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("random:"))


def rows(entries: Sequence[Entry] = ENTRIES) -> list[list[str]]:
    """Cells of the table: what it is called, weights, package, rates, licence."""
    found = []
    for entry in entries:
        heard = f" (hears {entry.hears:,})" if entry.hears else ""
        tokens = f"{entry.num_codebooks} {entry.possible}".strip() if entry.has_tokens else "-"
        found.append(
            [
                f"{entry.title} `{entry.name}`",
                f"`{origin_of(entry)}`" if not entry.weights.startswith("a folder") else entry.weights,
                entry.package if entry.package in ("llmcodec", "transformers", "soundfile") else f"`{entry.package}`",
                f"{entry.sample_rate:,}{heard}",
                f"{entry.frame_rate:.3g}",
                tokens + ("" if entry.decodes else ", encode only"),
                f"{entry.codebook_size:,}" if entry.has_tokens else "-",
                f"{entry.nominal_bits_per_second:,.0f}",
                entry.licence,
            ]
        )
    return found


HEAD = (
    "codec",
    "weights",
    "package",
    "Hz",
    "frames/s",
    "tokens per frame, default (possible)",
    "codes",
    "nominal bit/s",
    "licence of the weights",
)


def markdown_table() -> str:
    """The table of docs/codecs.md."""
    lines = [HEAD, ["---"] * len(HEAD), *rows()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
