"""The deployable model. It needs torch, transformers and `llmcodec.io`, nothing else of the package.

Importing it registers the codec with transformers' Auto classes (docs/huggingface.md).
"""

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.feature_extractor import LLMCodecFeatureExtractor
from llmcodec.codec.hub import register
from llmcodec.codec.model import LLMCodec

__all__ = ["LLMCodec", "LLMCodecConfig", "LLMCodecFeatureExtractor"]

register(LLMCodecConfig, LLMCodec)
