"""Codecs by name or path, as everything that measures or codes takes them.

    load_codec("bundled")                    # the codec in the package
    load_codec("runs/rate")                  # a run folder, or a folder that `save_pretrained` wrote
    load_codec("facebook/encodec_24khz")     # a Hugging Face hub id
    load_codec("kyutai/mimi:16")             # with 16 of its codebooks; also load_codec(..., num_codebooks=16)
    load_codec("random:dac_16khz")           # a published shape with random weights (random_weights.py)
    load_codec("opus:6")                     # Opus at 6 kbit/s: to measure its sound, without tokens
    load_codec("auv:downloads/auv.pt")       # AUV through its own package; auv:SWivid/AUV fetches it
    load_codec("search:bundled")             # ours, searching for cheap codes while it encodes (docs/search.md)
    load_codec("search@0.2:FOLDER")          # twice the usual weight on the rate; FOLDER: of `llmcodec prior`
    load_codec("search:bundled?effort=fast") # or path, balanced, thorough (the default): how much is tried
    load_codec("search:bundled?lm")          # trials priced by the small LM beside the codec; also ?effort=fast,lm
    load_codec("hubert500?deduplicate")      # units of `llmcodec units`, measured without repeats

What a folder holds is read from its config.json. Supported families, their sizes and defaults: docs/codecs.md.
Test: tests/adapters/test_load.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from llmcodec.adapters.adaptable import ADAPTED_CODEBOOKS, PREPROCESSOR
from llmcodec.adapters.base import check_num_codebooks
from llmcodec.adapters.catalogue import nearest
from llmcodec.adapters.features.units import UnitsCodec
from llmcodec.adapters.opus import OpusCodec
from llmcodec.adapters.registry import FAMILIES, WEIGHTLESS, family_of, supported
from llmcodec.assets import CODECS, codec_folder
from llmcodec.codec import LLMCodec
from llmcodec.codec.folder import CONFIG, MAX_JSON_BYTES, check_foreign_folder
from llmcodec.codec.neural_prior import AUDIO_LM, NeuralPrior, find_audio_lm, load_neural_prior
from llmcodec.codec.search import EFFORTS, SearchConfig, SearchingCodec
from llmcodec.codec.token_prior import PRIOR_FILE, load_prior
from llmcodec.io.hub_names import find_cached, hub_answers, one_line, refuse_lost_path
from llmcodec.io.structured import read_object
from llmcodec.protocol import Codec, RateScorer

RANDOM = "random:"
AUV, AUV_HUB = "auv:", "SWivid/AUV"
DEDUPLICATE = "?deduplicate"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SEARCH = re.compile(r"search(?:@(\d*\.?\d+))?:(.+?)(?:\?(.*))?")
NAMED = re.compile(r"(search(?:@\d*\.?\d+)?:|auv:|random:)?(.+?)(:\d+|\?[\w=,]+)?")
OPUS = re.compile(r"opus:(\d{1,4})")
CODEBOOKS = re.compile(r"(.+):(\d+)")
# What a model needs; hub repositories often hold the same weights a second and third time in other formats.
FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "digests.json",
    PREPROCESSOR,  # an adapted codec is saved with it
)
PICKLED = "pytorch_model.bin"
NO_CODEC = (
    f"; llmcodec reads folders that `save_pretrained` writes (and AUV's own checkpoint: {AUV}{AUV_HUB}); `llmcodec "
    "convert hf://OWNER/NAME/FILE -o FOLDER` makes one of other published checkpoints"
)


def load_codec(
    name: str | os.PathLike[str], device: str = "cpu", *, num_codebooks: int | None = None, seed: int = 0
) -> Codec:
    """The codec called `name`, in evaluation mode, in float32.

        codec = llmcodec.load("bundled")
        codec.reconstruct("speech.wav")                    # players and tokens in a notebook
        codec.encode(samples[None, None]).audio_codes      # (B, 1, S) at codec.sample_rate -> (B, Q, T)

    Args:
        name: `bundled`; `search:bundled`, which looks for cheaper tokens; the folder of a run or of `save_pretrained`;
            a Hugging Face id such as `facebook/encodec_24khz` or `kyutai/mimi:16`, where `:N` is `num_codebooks`;
            `random:mimi`, a published shape with random weights. `llmcodec codecs` lists all.
        device: where its weights go.
        num_codebooks: use the first N codebooks; default: as the codec is usually run (docs/codecs.md).
        seed: of the weights of a `random:` codec.

    Raises:
        ValueError: there is no such codec, it is of a family that llmcodec cannot drive, a package is missing, the hub
            cannot be reached, or the codec cannot use that many codebooks. One line.
    """
    codec: Any
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"load: name a codec (bundled, a folder, a hub id), not {name!r:.60}")
    name = os.fspath(name)
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"load: device {device!r} is not there ({str(error).partition(chr(10))[0]})") from error
    if search := SEARCH.fullmatch(name):
        weight = None if search[1] is None else float(search[1])
        return _searching(search[2], weight, *_search_options(name, search[3]), device, num_codebooks)
    if opus := OPUS.fullmatch(name):
        check_num_codebooks("Opus", num_codebooks, 1, 1)
        return OpusCodec(int(opus[1]))
    if name.endswith(DEDUPLICATE):
        codec = load_codec(name.removesuffix(DEDUPLICATE), device, num_codebooks=num_codebooks, seed=seed)
        if not isinstance(codec, UnitsCodec):
            raise ValueError(f"codec {name}: {DEDUPLICATE} is for the units of `llmcodec units`")
        codec.deduplicate = True
        return codec
    place, asked = _split_codebooks(name)
    if asked is not None and num_codebooks is not None and asked != num_codebooks:
        raise ValueError(f"codec {name}: num_codebooks={num_codebooks} contradicts the name")
    num_codebooks = num_codebooks if asked is None else asked
    if place.startswith(RANDOM):
        from llmcodec.adapters.random_weights import build_random

        codec = build_random(place.removeprefix(RANDOM), num_codebooks, seed)
    elif place.startswith(AUV):
        codec = _load_auv(place.removeprefix(AUV), num_codebooks)
    elif place in WEIGHTLESS and not Path(place).exists():
        codec = WEIGHTLESS[place].build_codec({}, num_codebooks)
    else:
        codec = _load_folder(_folder(place), place, num_codebooks)
    codec.to(device=device)
    return codec.eval()


def local_name(name: str, said_by: object) -> str:
    """The codec that a file of ours calls `name`, as a name that `load_codec` opens without asking the hub.

    Args:
        said_by: the file, for messages.

    Raises:
        ValueError: it is neither here nor a repository that this machine has downloaded before.
    """
    match = NAMED.fullmatch(name)
    kind, place, count = match.groups(default="") if match else ("", name, "")
    if kind == RANDOM or place in CODECS or place in WEIGHTLESS or (kind == AUV and Path(place).is_file()):
        return name
    found = find_cached(place, "codec", said_by)
    return f"{kind}{found / 'auv.pt' if kind == AUV else found}{count}"


def title_of_search(name: str, codec: SearchingCodec) -> str:
    """`name` with weight, effort and scorer spelt out, as token files keep it: defaults may change."""
    search = SEARCH.fullmatch(name)
    place, _ = _split_codebooks(search[2] if search else name)  # of ours: there is one codebook
    lm = ",lm" if isinstance(codec.prior, NeuralPrior) else ""
    return f"search@{codec.config.weight:g}:{place}?effort={codec.config.effort}{lm}"


def _search_options(name: str, options: str | None) -> tuple[str | None, bool]:
    """Effort of a name, and whether a language model prices the trials. ValueError: options that there are not."""
    effort, lm = None, False
    for option in options.split(",") if options is not None else []:
        if option == "lm":
            lm = True
        elif option.removeprefix("effort=") in EFFORTS and option.startswith("effort="):
            effort = option.removeprefix("effort=")
        else:
            raise ValueError(
                f"codec {name}: after the ? stands effort=NAME ({', '.join(EFFORTS)}), lm, or both with a comma"
            )
    if lm and effort == "path":
        raise ValueError(f"codec {name}: effort=path goes by pairs of codes; leave out lm or take another effort")
    return effort, lm


def _searching(
    place: str, weight: float | None, effort: str | None, lm: bool, device: str, num_codebooks: int | None
) -> SearchingCodec:
    codec = load_codec(place, device, num_codebooks=num_codebooks)
    if not isinstance(codec, LLMCodec):
        raise ValueError(f"codec search:{place}: a {type(codec).__name__}; only llmcodec's own codecs can search")
    place, _ = _split_codebooks(place)
    folder = _folder(place)
    file = folder / PRIOR_FILE
    if not file.is_file():
        raise ValueError(f"codec search:{place}: no {PRIOR_FILE} beside it; `llmcodec prior {place} -o DIR` makes it")
    prior: RateScorer = load_prior(file, codec)
    if lm:
        if (found := find_audio_lm(folder)) is None:
            raise ValueError(
                f"codec search:{place}: no {AUDIO_LM} beside it; `llmcodec train --config audio_lm "
                f"--codec.start {place}` trains one, and `llmcodec prior` of that run takes it along"
            )
        prior = load_neural_prior(found, prior)
    return SearchingCodec(codec, prior, SearchConfig.of(effort, weight))


def folder_of_codec(place: str) -> Path:
    """Folder of a codec's files; one that does not exist for a hub id."""
    search = SEARCH.fullmatch(place)
    place, _ = _split_codebooks(search[2] if search else place)
    folder = codec_folder(place) if place in CODECS else Path(place)
    return folder / "codec" if (folder / "codec" / "config.json").is_file() else folder


def _split_codebooks(name: str) -> tuple[str, int | None]:
    match = CODEBOOKS.fullmatch(name)
    if match is None or Path(name).exists():
        return name, None
    return match[1], int(match[2])


def _folder(place: str) -> Path:
    """Name -> a folder with config.json."""
    if place in CODECS:
        return codec_folder(place)
    path = Path(place)
    if path.is_dir():
        for folder in (path, path / "codec"):
            if (folder / "config.json").is_file():
                return folder
        raise ValueError(f"codec {place}: the folder has no config.json, nor has a folder codec/ in it")
    if path.is_file():
        if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
            raise ValueError(
                f"codec {place}: a checkpoint file; make a folder of it (llmcodec convert {place} -o FOLDER), "
                f"or say {AUV}{place} to run it with the auv package"
            )
        raise ValueError(f"codec {place}: a file, not a folder with config.json and weights")
    if HUB_ID.fullmatch(place):
        refuse_lost_path(place, "codec")
        return _download(place)
    near = nearest(place)
    raise ValueError(
        f"no codec {place!r}{f' (near: {near})' if near else ''}: give {', '.join((*CODECS, *WEIGHTLESS))}, a folder, "
        f"a Hugging Face id (owner/name) or {RANDOM}NAME; supported: {supported()}"
    )


def _download(repo: str) -> Path:
    """Hub id -> local copy of its config.json and weights."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with hub_answers(f"codec {repo}", NO_CODEC):
        config = Path(hf_hub_download(repo, "config.json"))
        family = FAMILIES.get(family_of(_read_config(config.parent, repo)) or "")
        pickled = (PICKLED,) if family is not None and family.marks else ()
        return Path(snapshot_download(repo, allow_patterns=[*FILES, *pickled]))


def _load_folder(folder: Path, place: str, num_codebooks: int | None) -> Codec:
    config = _read_config(folder, place)
    if config.get("model_type") == LLMCodec.config_class.model_type:
        check_num_codebooks("LLMCodec", num_codebooks, 1, 1)
        with _readable(place):
            return LLMCodec.from_pretrained(str(folder))
    name = family_of(config)
    if name is None:
        raise ValueError(f"codec {place}: a model of type {config.get('model_type')!r}; supported: {supported()}")
    check_foreign_folder(folder)
    num_codebooks = config.get(ADAPTED_CODEBOOKS) if num_codebooks is None else num_codebooks
    with _readable(place):
        return FAMILIES[name].load_codec(folder, num_codebooks)


def _load_auv(where: str, num_codebooks: int | None) -> Codec:
    place, checkpoint = f"{AUV}{where}", Path(where)
    if not checkpoint.is_file():
        if not HUB_ID.fullmatch(where) or checkpoint.suffix == ".pt":
            raise ValueError(f"codec {place}: there is no such file; its authors' is {AUV}{AUV_HUB} on the hub")
        from huggingface_hub import hf_hub_download

        with hub_answers(f"codec {where}", NO_CODEC):
            checkpoint = Path(hf_hub_download(where, "auv.pt"))
    with _readable(place):
        return FAMILIES["auv"].load_codec(checkpoint, num_codebooks)


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """What can be wrong with files that somebody made elsewhere, as one line."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    wrong = (OSError, RuntimeError, EOFError, TypeError, KeyError, UnpicklingError)
    try:
        yield
    except (*wrong, SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"codec {place}: its configuration or weights cannot be read ({one_line(error)})") from error


def _read_config(folder: Path, place: str) -> dict[str, Any]:
    try:
        return read_object(folder / CONFIG, MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(f"codec {place}: config.json cannot be read ({one_line(error)})") from error
