"""io/model_config.py: what a configuration may ask for."""

from __future__ import annotations

import json

import pytest

from llmcodec.io.model_config import check_config, read_configs


def refused(tmp_path, settings: dict, said: str, num_weights: int = 10**8, num_tensors: int = 40) -> None:
    with pytest.raises(ValueError, match=said) as failure:
        check_config(tmp_path / "config.json", settings, num_weights, num_tensors)
    assert "\n" not in str(failure.value) and "config.json" in str(failure.value)


def test_sizes_that_the_weights_cannot_have(tmp_path):
    refused(tmp_path, {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, but there are only 40 tensors")
    refused(tmp_path, {"text_config": {"n_layer": 41}}, "n_layer is 41")
    refused(tmp_path, {"parts": [{"encoder_layers": 99}]}, "encoder_layers is 99")
    refused(tmp_path, {"hidden_size": 10**9}, "contains the number 1000000000, more than the 100000000 weights in all")
    refused(tmp_path, {"hidden_size": 10**3000}, "contains the number more than 2")
    refused(tmp_path, {"a": -(10**9)}, "contains the number -1000000000")
    plausible = {
        "num_hidden_layers": 40,
        "rope_theta": 10**9,
        "max_window_layers": 28,
        "sizes": [1, 10**6],
        "tied": True,
    }
    check_config(tmp_path / "config.json", plausible, 1000, 40)


def test_files_that_transformers_would_read(tmp_path):
    assert read_configs(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_configs(tmp_path) == {"model_type": "llama"}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        before = (tmp_path / name).read_text() if (tmp_path / name).exists() else "{}"
        (tmp_path / name).write_text('{"a": ' + "[" * 100_000)
        with pytest.raises(ValueError, match=f"{name}.*nested too deeply") as failure:
            read_configs(tmp_path)
        assert "\n" not in str(failure.value)
        (tmp_path / name).write_text(before)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("config.json", {"transformers_weights": "other.safetensors"}, "transformers_weights names other weights"),
        ("config.json", {"attn_implementation": "somebody/kernel"}, "'somebody/kernel' is code from a hub, never run"),
        ("adapter_config.json", {"megatron_config": {"a": 1}}, "megatron_config imports a module of its choice"),
    ],
)
def test_settings_that_reach_beyond_the_folder(tmp_path, name, settings, said):
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=said):
        read_configs(tmp_path)
