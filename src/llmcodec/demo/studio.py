"""What the demo does, without a page: a recording through several codecs, tokens changed, speech continued.

    studio = Studio.open(["dac=random:dac_16khz"], lm="runs/lm_small")
    take = studio.take(*studio.read("question.wav"), "nearest codes")       # codes and sound
    take.track()                                                            # for report.player
    studio.change(take, frame=12, codebook=0, code=7)
    studio.go_on(take, seconds=3)

Shapes: S samples, Q codebooks, T frames. Test: tests/demo/test_studio.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmcodec.adapters.load import folder_of_codec
from llmcodec.assets import BUNDLED
from llmcodec.codec.token_prior import PRIOR_FILE
from llmcodec.experiments.comparison import named_systems
from llmcodec.io import audio
from llmcodec.lm.sampling import SamplingConfig, sample, speech_prompt
from llmcodec.lm.scoring import find_small_lm, token_bits
from llmcodec.lm.small_lm_scorer import load_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.lm.speech import check_codec, frames_of, own_codec
from llmcodec.lm.token_lm import TokenLM, load_token_lm
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.protocol import TokenScorer
from llmcodec.report.player import Tokens, Track
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.opening import open_runtime, pick_device

MOST_SECONDS = 60.0
NEAREST, SEARCHED = "nearest codes", "search"
NO_LM = "continuing speech needs a token LM: start with --lm FOLDER (`llmcodec lm train` makes one)"


@dataclass(frozen=True)
class Version:
    """A codec of the demo, and the language model that its tokens surprise; None where there is none for it."""

    name: str
    runtime: Runtime
    scorer: TokenScorer | None


@dataclass(frozen=True)
class Take:
    """A recording as one codec has it: its tokens and their sound."""

    version: Version
    codes_QT: np.ndarray
    wav_S: np.ndarray
    name: str

    def track(self) -> Track:
        """For the player; with a strip if there is a language model."""
        identity, scorer = self.version.runtime.identity, self.version.scorer
        tokens = None
        if scorer is not None:
            bits_QT = token_bits(scorer, self.codes_QT, identity.codebook_size)
            tokens = Tokens(self.codes_QT, bits_QT, identity.frame_rate)
        return Track(self.name, self.wav_S, identity.sample_rate, tokens)


@dataclass(frozen=True)
class Studio:
    """The codecs of the demo, and a token LM if there is one."""

    versions: Mapping[str, Version]
    lm: TokenLM | None = None
    speaker: str = ""
    """Name of the version whose tokens the LM speaks."""

    @staticmethod
    def open(codecs: Sequence[str] = (), lm: str | None = None, device: str = "cpu") -> Studio:
        """Load everything: the bundled codec (or the LM's own), its search, and further codecs.

        Args:
            codecs: further ones, `NAME=PLACE` or a place.
            lm: folder of a token LM, or a hub id; None: no continuation.
            device: where models run.

        Raises:
            ValueError: a codec or LM that cannot be loaded, or two of one name.
        """
        device = pick_device(device)
        loaded = load_token_lm(lm, device) if lm is not None else None
        main = BUNDLED if loaded is None else own_codec(loaded)
        places = {NEAREST: main}
        if _prior_of(main):
            places[SEARCHED] = f"search:{main}"
        for system in named_systems(codecs) if codecs else ():
            if system.name in (*places, "original", "edited"):
                raise ValueError(f"--codec {system.name}: the demo has a version of this name; call it NAME=PLACE")
            places[system.name] = system.place
        versions = {name: _open(name, place, loaded, device) for name, place in places.items()}
        return Studio(versions, loaded, NEAREST)

    @property
    def names(self) -> list[str]:
        """Names of all versions."""
        return list(self.versions)

    def read(self, path: str) -> tuple[np.ndarray, int]:
        """A recording, mono (S,), and its sample rate.

        Raises:
            ValueError: it cannot be read, is empty, or is longer than `MOST_SECONDS`.
        """
        most = math.floor(MOST_SECONDS * audio.info(path).sample_rate)
        wav_S, sample_rate = audio.read(path, num_frames=most + 1)  # a header may claim another length
        if len(wav_S) > most:
            raise ValueError(
                f"the recording is longer than the {MOST_SECONDS:.0f} s that the demo takes: cut it with the scissors"
            )
        return wav_S, sample_rate

    def take(self, wav_S: np.ndarray, sample_rate: int, name: str) -> Take:
        """The recording through one codec and back."""
        version = self.versions[name]
        own_S = audio.resample(wav_S, sample_rate, version.runtime.identity.sample_rate)
        (codes_QT,) = version.runtime.encode_batch([own_S])
        (decoded_S,) = version.runtime.decode_batch([codes_QT], [len(own_S)])
        return Take(version, codes_QT, decoded_S, name)

    def change(self, take: Take, frame: int, codebook: int, code: int) -> Take:
        """The same with one token changed; frames and codebooks count from 0.

        Raises:
            ValueError: there is no such token or code.
        """
        size, (num_codebooks, num_frames) = take.version.runtime.identity.codebook_size, take.codes_QT.shape
        for what, value, count in (
            ("frame", frame, num_frames),
            ("codebook", codebook, num_codebooks),
            ("code", code, size),
        ):
            if not 0 <= value < count:
                raise ValueError(f"there is no {what} {value}: {take.version.name} has 0 to {count - 1} here")
        codes_QT = take.codes_QT.copy()
        codes_QT[codebook, frame] = code
        (wav_S,) = take.version.runtime.decode_batch([codes_QT], [len(take.wav_S)])
        return Take(take.version, codes_QT, wav_S, "edited")

    def go_on(self, take: Take, seconds: float, temperature: float = 0.9, seed: int = 0) -> Take:
        """The recording and what the LM says next; the LM may end earlier.

        Raises:
            ValueError: no LM, tokens of another codec, a prompt that fills its context, or it has nothing to add.
        """
        if self.lm is None:
            raise ValueError(NO_LM)
        runtime = take.version.runtime
        check_codec(self.lm, runtime.identity, take.version.name)
        flat = flatten_codes(torch.from_numpy(take.codes_QT), runtime.identity.codebook_size)
        num_codebooks = len(take.codes_QT)
        wanted = max(1, round(seconds * runtime.identity.frame_rate)) * num_codebooks
        room = (self.lm.context - 2) // num_codebooks * num_codebooks - wanted
        if room < num_codebooks:
            raise ValueError(
                f"the token LM was trained on {self.lm.context} tokens, too few for {seconds:g} s more: ask for less"
            )
        heard = flat[-room:]
        least = min(wanted, round(runtime.identity.frame_rate) * num_codebooks)  # a second, lest it end at once
        config = SamplingConfig(temperature, max_codes=wanted, min_codes=least, seed=seed)
        (drawn,) = sample(self.lm, [speech_prompt(self.lm, heard)], config)
        drawn = drawn[: len(drawn) // num_codebooks * num_codebooks]
        if not len(drawn):
            raise ValueError("the token LM ends the recording here and adds nothing: try another seed")
        codes_QT = frames_of(torch.cat([flat, drawn]), runtime)
        (wav_S,) = runtime.decode_batch([codes_QT])
        new = len(drawn) / num_codebooks / runtime.identity.frame_rate
        return Take(take.version, codes_QT, wav_S, f"continued by {new:.1f} s")


def _open(name: str, place: str, lm: TokenLM | None, device: str) -> Version:
    runtime = open_runtime(place, device=device)
    return Version(name, runtime, _scorer(runtime, place, lm))


def _scorer(runtime: Runtime, place: str, lm: TokenLM | None) -> TokenScorer | None:
    """The token LM if it speaks this codec's tokens, else the small LM that was trained along with the codec."""
    if lm is not None:
        try:
            check_codec(lm, runtime.identity, place)
            return lm
        except ValueError:  # it speaks another codec's
            pass
    if (found := find_small_lm(place)) is None:
        return None
    identity = runtime.identity
    return load_scorer(found, LikelihoodConfig().max_tokens(identity.frame_rate * identity.num_codebooks))


def _prior_of(place: str) -> bool:
    return (folder_of_codec(place) / PRIOR_FILE).is_file()
