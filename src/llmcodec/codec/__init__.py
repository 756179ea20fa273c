"""The deployable model: torch, transformers and the audio ground, nothing else of ours."""

from .config import LLMCodecConfig
from .model import LLMCodec

__all__ = ["LLMCodec", "LLMCodecConfig"]
