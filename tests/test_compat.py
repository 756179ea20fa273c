"""_compat.py: every module path of 0.1 gives the module that took its place, and says so once."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from llmcodec._compat import MOVED

SOURCE = Path(__file__).parents[1] / "src" / "llmcodec"
FORWARDING = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if "= forward(" in path.read_text(encoding="utf-8")
}
"""Modules with old names in them."""


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_is_the_new_module(old):
    new = import_module(f"llmcodec.{MOVED[old]}")
    sys.modules.pop(f"llmcodec.{old}", None)
    with pytest.warns(FutureWarning, match=f"llmcodec.{old} is llmcodec.{MOVED[old]} now"):
        assert import_module(f"llmcodec.{old}") is new
    assert new.__name__ == new.__spec__.name == f"llmcodec.{MOVED[old]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert import_module(f"llmcodec.{old}") is new


def test_names_of_modules_that_became_packages():
    from llmcodec.codec import streaming
    from llmcodec.codec.streaming.api import CodecStream

    with pytest.warns(FutureWarning, match="streaming.api"):
        assert streaming.CodecStream is CodecStream
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = streaming.nothing


def test_names_that_changed_inside_a_module():
    from llmcodec.adapters import base
    from llmcodec.codec import search, token_prior

    with pytest.warns(FutureWarning, match="adapters.base:CodecAdapterWithFeatures"):
        assert base.PeerCodecWithFeatures is base.CodecAdapterWithFeatures
    with pytest.warns(FutureWarning, match="codec.token_prior"):
        assert search.BigramPrior is token_prior.BigramPrior


def imported_names(path: Path) -> Iterator[str]:
    """Modules and names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_new_paths_do_not_warn():
    """Nothing of ours imports an old path, or an old name of a module."""
    for path in SOURCE.rglob("*.py"):
        for name in imported_names(path):
            assert name.removeprefix("llmcodec.") not in MOVED or not name.startswith("llmcodec."), (path, name)
            module, _, inside = name.rpartition(".")
            place = SOURCE.parent.joinpath(*name.split("."))
            if module in FORWARDING and not place.is_dir() and not place.with_suffix(".py").is_file():
                with warnings.catch_warnings():
                    warnings.simplefilter("error", FutureWarning)
                    getattr(import_module(module), inside)


def test_functions_that_docs_of_0_1_named_give_what_their_successors_give(clips):
    from llmcodec.evaluation import reconstruction
    from llmcodec.evaluation.encoded_corpus import EncodedCorpus

    from .miniature import miniature_codec

    codec = miniature_codec().eval()
    with pytest.warns(FutureWarning, match="llmcodec._compat"):
        encode_clip, evaluate = reconstruction.encode_clip, reconstruction.evaluate_reconstruction
    with EncodedCorpus(codec) as encoded:
        tokens = encoded.tokens(clips[:1])[0]
        row = reconstruction.measure_reconstruction(encoded, clips[:1], metrics=("mel",), num_workers=0).rows[0]
    assert encode_clip(codec, clips[0]).tolist() == tokens.tolist()
    assert evaluate(codec, clips[:1], metrics=("mel",), num_workers=0).rows[0].metrics == row.metrics
    make_manifest = import_module("llmcodec.data.build").make_manifest
    assert make_manifest.__module__ == "llmcodec.data.corpus"
