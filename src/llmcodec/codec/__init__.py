"""The deployable model: torch, transformers and the audio ground, nothing else of ours.

Importing it registers the codec with transformers' Auto classes (docs/huggingface.md).
"""

from .config import LLMCodecConfig
from .hub import register
from .model import LLMCodec
from .processor import LLMCodecFeatureExtractor

__all__ = ["LLMCodec", "LLMCodecConfig", "LLMCodecFeatureExtractor"]

register(LLMCodecConfig, LLMCodec)
