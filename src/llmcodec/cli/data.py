"""`llmcodec data manifest` and `data hub`: the commands are the library functions themselves.

Test: tests/data/test_corpus.py, tests/data/test_hub.py.
"""

from llmcodec.data.corpus import make_manifest
from llmcodec.data.hub import make_hub_manifest

__all__ = ["make_hub_manifest", "make_manifest"]
