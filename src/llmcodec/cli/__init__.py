"""The command line: parses arguments, makes one library call, prints."""

from llmcodec._compat import forward

__getattr__ = forward(
    __name__,
    dict.fromkeys(("train_parser", "shipped_recipe"), "llmcodec.cli.main"),
)
