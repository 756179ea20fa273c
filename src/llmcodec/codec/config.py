"""The architecture of the codec and nothing else: `LLMCodecConfig`. Test: tests/codec/test_model.py."""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import Any

from transformers import PreTrainedConfig

AUV_PARTITIONS = {
    "speech": (0, 8192),
    "vocal": (0, 12288),
    "music": (0, 20480),
    "audio": (0, 20480),
    "other": (12288, 20480),
}


def scaled_partitions(codebook_size: int) -> dict[str, list[int]]:
    """AUV's nested codebook partitions scaled from 20,480 to `codebook_size` codes."""
    scale = codebook_size / 20480
    return {name: [round(low * scale), round(high * scale)] for name, (low, high) in AUV_PARTITIONS.items()}


def edit_distance(first: str, second: str) -> int:
    """Letters to insert, delete or replace (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


class LLMCodecConfig(PreTrainedConfig):
    """Architecture of an AUV-style codec (arXiv 2509.21968): STFT, conformer, one codebook, conformer, iSTFT.

    The defaults are AUV's: 16 kHz, 50 Hz, 20,480 codes, 716 bit/s.

    Args:
        sample_rate: samples per second of the audio the codec reads and writes.
        hop_samples: samples per frame. `n_fft` must be a multiple of it.
        n_fft: STFT and iSTFT window in samples (Hann, as long as the transform).
        hidden_size: width D of both conformers.
        encoder_layers, decoder_layers: conformer layers on each side.
        ffn_mult: feed-forward width as a multiple of `hidden_size`.
        head_dim: width of one attention head (rotary).
        conv_kernel_size: taps of the depthwise convolution, odd.
        attention_window: frames that a frame sees on each side (`causal`: before it); None sees the whole clip (AUV).
        causal: attention and convolution look back only, so that a stream is coded with a look-ahead of
            `(n_fft - hop_samples) / 2` samples per side (docs/longform.md). Needs `attention_window`.
        codebook_size, codebook_dim: number V of codes and their dimension C.
        codebook_partitions: name -> [first, last + 1] codes that a kind of audio may use; a name not listed uses all.
        commitment: weight of the commitment term inside the VQ loss.
        log_floor: added to the magnitude before the logarithm.
        max_magnitude: upper clip of the decoder's spectral magnitude.
        auv_floor_frames: frames = floor(S / hop) without padding, as the published AUV (needs S > (n_fft - hop) / 2).
        kwargs: settings of transformers and of other tools, kept and written back.

    Raises:
        ValueError: a setting that makes no sense, or one in `kwargs` that is a setting of ours misspelt.
    """

    model_type = "llmcodec"
    attribute_map = {"sampling_rate": "sample_rate", "hop_length": "hop_samples"}

    def __init__(
        self,
        sample_rate: int = 16000,
        hop_samples: int = 320,
        n_fft: int = 1280,
        hidden_size: int = 512,
        encoder_layers: int = 8,
        decoder_layers: int = 12,
        ffn_mult: int = 4,
        head_dim: int = 64,
        conv_kernel_size: int = 31,
        attention_window: int | None = None,
        codebook_size: int = 20480,
        codebook_dim: int = 8,
        codebook_partitions: dict[str, list[int]] | None = None,
        commitment: float = 0.25,
        log_floor: float = 1e-5,
        max_magnitude: float = 1e2,
        auv_floor_frames: bool = False,
        causal: bool = False,
        **kwargs: Any,
    ):
        self.sample_rate = sample_rate
        self.hop_samples = hop_samples
        self.n_fft = n_fft
        self.hidden_size = hidden_size
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.ffn_mult = ffn_mult
        self.head_dim = head_dim
        self.conv_kernel_size = conv_kernel_size
        self.attention_window = attention_window
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.codebook_partitions = codebook_partitions or scaled_partitions(codebook_size)
        self.commitment = commitment
        self.log_floor = log_floor
        self.max_magnitude = max_magnitude
        self.auv_floor_frames = auv_floor_frames
        self.causal = causal
        for name in kwargs:
            self.refuse_misspelt(name, "codec config")
        # Out of the sight of transformers, which would quantise weights that the file holds as floats.
        self._written_quantization = kwargs.pop("quantization_config", None)
        super().__init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; settings that replace those of the file are checked like them.

        Raises:
            ValueError: as the constructor.
        """
        for name in kwargs:
            cls.refuse_misspelt(name, "codec config")
        made: Any = super().from_dict(config_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).check()  # a tuple with `return_unused_kwargs`
        return made

    def check(self) -> None:
        """Raise ValueError for a setting that makes no sense."""
        sizes = ("sample_rate", "hop_samples", "n_fft", "hidden_size", "encoder_layers", "decoder_layers", "ffn_mult")
        for name in (*sizes, "head_dim", "conv_kernel_size", "codebook_size", "codebook_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"codec config: {name} must be a positive integer, got {value!r}")
        for name in ("log_floor", "max_magnitude"):  # logarithms are taken of them
            if not getattr(self, name) > 0:
                raise ValueError(f"codec config: {name} must be positive, got {getattr(self, name)!r}")
        if self.n_fft % self.hop_samples or self.n_fft % 2 or self.hop_samples % 2:
            raise ValueError(
                f"codec config: n_fft ({self.n_fft}) must be a multiple of hop_samples ({self.hop_samples}), both even"
            )
        if self.hidden_size % self.head_dim or self.head_dim % 2:
            raise ValueError(
                f"codec config: head_dim must be even and divide hidden_size {self.hidden_size}, got {self.head_dim}"
            )
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"codec config: conv_kernel_size must be odd, got {self.conv_kernel_size}")
        if self.attention_window is not None and (self.attention_window < 1 or self.attention_window % 1):
            raise ValueError(
                f"codec config: attention_window must be at least 1 frame or null, got {self.attention_window}"
            )
        if self.causal and self.attention_window is None:
            raise ValueError(
                "codec config: causal needs attention_window (frames to look back), or its cache would grow without end"
            )
        for name, (low, high) in self.codebook_partitions.items():
            if not 0 <= low < high <= self.codebook_size:
                raise ValueError(
                    f"codec config: partition {name!r} [{low}, {high}) is not inside the {self.codebook_size} codes"
                )

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; what the file said of a quantisation is written back."""
        settings: dict[str, Any] = super().to_dict()
        written = settings.pop("_written_quantization", None)
        if written is not None:
            settings.setdefault("quantization_config", written)
        return settings

    @classmethod
    @lru_cache(maxsize=1)
    def own_settings(cls) -> dict[str, Any]:
        """Settings of the architecture with their defaults."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}

    @classmethod
    def refuse_misspelt(cls, name: str, where: object) -> None:
        """Raise ValueError where `name` is no setting of ours but one or two letters away from one."""
        if name not in cls.own_settings() and len(name) < 40:
            meant = next((own for own in cls.own_settings() if edit_distance(name, own) <= 2), None)
            if meant is not None:
                raise ValueError(f"{where}: unknown setting {name!r}; did you mean {meant}?")

    @property
    def frame_rate(self) -> float:
        """Frames (tokens) per second."""
        return self.sample_rate / self.hop_samples

    @property
    def attention_reach(self) -> tuple[int, int] | None:
        """Frames before and after itself that a frame sees in one layer; None: the whole clip."""
        window = self.attention_window
        return None if window is None else (window, 0 if self.causal else window)

    @property
    def encoder_context(self) -> tuple[float, float]:
        """Frames before and after a frame that influence its code; inf for global attention."""
        return self._context(self.encoder_layers)

    @property
    def decoder_context(self) -> tuple[float, float]:
        """Frames before and after a frame that influence its samples; inf for global attention."""
        return self._context(self.decoder_layers)

    def _context(self, num_layers: int) -> tuple[float, float]:
        if self.attention_reach is None:
            return math.inf, math.inf
        back, ahead = self.attention_reach
        overlap = -(-(self.n_fft - self.hop_samples) // (2 * self.hop_samples))  # of the STFT or iSTFT windows
        taps_back = self.conv_kernel_size - 1 if self.causal else self.conv_kernel_size // 2
        taps_ahead = 0 if self.causal else self.conv_kernel_size // 2
        return num_layers * (back + taps_back) + overlap, num_layers * (ahead + taps_ahead) + overlap

    @classmethod
    def auv(cls, **overrides: Any) -> LLMCodecConfig:
        """The published AUV architecture (124 M parameters)."""
        return cls(**overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> LLMCodecConfig:
        """The same architecture for a laptop: 600 bit/s, under 8 MB in half precision, bounded attention."""
        sizes = dict(hidden_size=144, encoder_layers=3, decoder_layers=4, head_dim=48)
        return cls(**(sizes | dict(attention_window=32, codebook_size=4096) | overrides))

    @classmethod
    def causal_tiny(cls, **overrides: Any) -> LLMCodecConfig:
        """`tiny` for live streams: every layer looks 64 frames back, none ahead; 50 ms to a token."""
        return cls.tiny(**(dict(causal=True, attention_window=64) | overrides))
