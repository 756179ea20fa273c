"""Neural audio codecs whose tokens a language model can predict.

The public names are resolved on first use, so that `import llmcodec` loads neither torch nor transformers:

    from llmcodec import LLMCodec, LLMCodecConfig
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmcodec._compat import install

if TYPE_CHECKING:
    from llmcodec.codec.config import LLMCodecConfig
    from llmcodec.codec.model import LLMCodec

__version__ = "0.2.0.dev0"  # the only version string; pyproject.toml reads it
__all__ = ["LLMCodec", "LLMCodecConfig", "__version__"]

_HOMES = {"LLMCodec": "llmcodec.codec.model", "LLMCodecConfig": "llmcodec.codec.config"}


install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
