"""The command line: parses arguments, makes one library call, prints."""

from llmcodec._compat import forward

__getattr__ = forward(__name__, {"shipped_recipe": "llmcodec.assets"})
