"""Neural audio codecs whose tokens a language model can predict.

The public names are resolved on first use, so that `import llmcodec` loads neither torch nor transformers:

    import llmcodec

    codec = llmcodec.load("bundled")                # or a folder, a hub id, "search:bundled"
    heard = codec.reconstruct("speech.wav")         # players and tokens in a notebook
    bits = llmcodec.surprisal(heard)                # of each token, under a small language model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmcodec._compat import install

if TYPE_CHECKING:
    from llmcodec.adapters.load import load_codec as load
    from llmcodec.codec.config import LLMCodecConfig
    from llmcodec.codec.model import LLMCodec
    from llmcodec.lm.scoring import surprisal

__version__ = "0.2.0.dev0"  # the only version string; pyproject.toml reads it
__all__ = ["LLMCodec", "LLMCodecConfig", "__version__", "load", "surprisal"]

_HOMES = {
    "LLMCodec": ("llmcodec.codec.model", "LLMCodec"),
    "LLMCodecConfig": ("llmcodec.codec.config", "LLMCodecConfig"),
    "load": ("llmcodec.adapters.load", "load_codec"),
    "surprisal": ("llmcodec.lm.scoring", "surprisal"),
}


install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
