"""Modules of build_corpus.py: where speech comes from, how it is decoded, and how it is listed."""
