"""Files of audio, tensors, tokens and JSON, read with limits and written whole; the cache, digests, progress.

Knows no codec and imports no torch. Test: tests/io.
"""
