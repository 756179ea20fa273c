"""Live streams and audio of any length, coded piece by piece."""

from llmcodec._compat import forward

__getattr__ = forward(
    __name__,
    dict.fromkeys(("CodecStream", "open_encoder", "open_decoder"), "llmcodec.codec.streaming.api"),
)
