"""io/digests.py: values that stand in files stay as they are; versions of what is installed."""

from __future__ import annotations

import hashlib

import numpy as np

import llmcodec
from llmcodec.io.digests import digest, digest_all, digest_number, package_versions, source_commit


def test_digests_are_those_of_the_bytes_one_behind_the_other():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    joined = "für".encode() + array.tobytes() + b"x"
    assert digest("für", array, b"x") == hashlib.blake2b(joined, digest_size=8).hexdigest()
    assert digest_all(iter(["für", array, b"x"]), 12) == hashlib.blake2b(joined, digest_size=12).hexdigest()
    assert digest("für", array, b"x", algorithm="sha256") == hashlib.sha256(joined).hexdigest()
    assert digest_number("a") == int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "big")


def test_versions_of_what_is_installed():
    found = package_versions("llmcodec", "python", "numpy", "no-such-package")
    assert list(found) == ["llmcodec", "python", "numpy"]
    assert found["llmcodec"] == llmcodec.__version__ and found["numpy"] == np.__version__


def test_the_commit_is_that_of_the_source_tree():
    commit = source_commit()
    assert commit is None or (len(commit) == 40 and int(commit, 16) > 0)
