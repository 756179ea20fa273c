"""Evaluation: how faithful a codec is, how predictable its tokens are, at what bitrate, with what uncertainty.

Every number is explained in `docs/evaluation.md`. Submodules are imported by name; nothing heavy happens here.
Tests: `pytest tests/evaluation`.
"""
