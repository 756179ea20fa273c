"""EnCodec, DAC, Mimi and BigCodec adapted at a scale of seconds: trained against a control, saved, loaded, measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.adapters.adaptable import AdaptableAdapter
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.random_weights import random_codec
from llmcodec.adapters.torchaudio_stub import torchaudio_stub
from llmcodec.cli import evaluate
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.training.run_folder import is_finished
from llmcodec.training.tracking import read_log
from llmcodec.training.trainer import Trainer

from ..adapters.tiny_codecs import TINY, noise
from ..evaluation.test_probe import TINY_LM
from ..miniature import miniature_lm, miniature_speech, recipe_of

CONTROL = ["--weights.rate", "0", "--weights.marginal_entropy", "0"]
SPLITS = ("train", "train", "train", "valid", "test", "test")
PAPER = [
    *("--weights.ftp", "0.2", "--weights.bridge_ce", "1", "--weights.generator", "0.1", "--weights.feature", "0.1"),
    *("--adversary", "{mpd: {periods: [2], channels: [4, 4]}, msd: null, stft: {n_ffts: [128], channels: 2}}"),
    *("--language.bridge", "{kind: projected}", "--optimizer.bridge.lr", "5e-2", "--optimizer.audio.lr", "1e-2"),
    *("--weights.mel", "0.1", "--adversary_seconds", "0.1"),
]
SIZES: dict[str, dict[str, Any]] = {  # some 50 frames a second in place of the hundreds of tiny_codecs
    "encodec": dict(upsampling_ratios=[8, 5, 4, 2], target_bandwidths=[1.35]),
    "dac": dict(downsampling_ratios=[2, 4, 5, 8], sampling_rate=24_000),
    "mimi": dict(upsampling_ratios=[8, 6, 5], num_quantizers=3),
    "bigcodec": dict(ngf=2),
}


@pytest.fixture
def small_bigcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's model is as its constructor has it, with a decoder of 1,536 channels; here that is made smaller."""
    with torchaudio_stub():
        package = pytest.importorskip("bigcodec")

    class Small(package.BigCodec):  # type: ignore[misc, name-defined]
        def __init__(self, ngf: int = 2, vq_num_quantizers: int = 1, **_: object) -> None:
            torch.nn.Module.__init__(self)
            self.encoder = package.CodecEncoder(ngf=ngf, rnn_num_layers=1, out_channels=16)
            self.decoder = package.CodecDecoder(16, 64, rnn_num_layers=1, vq_dim=16, codebook_size=64)

    monkeypatch.setattr(package, "BigCodec", Small)


def starting_codec(name: str) -> AdaptableAdapter:
    torch.manual_seed(0)
    family, sizes = ("bigcodec", {}) if name == "bigcodec" else TINY[name]
    codec = random_codec(family, sizes | SIZES[name])
    assert isinstance(codec, AdaptableAdapter)
    return codec


def options(folder: Path, run: str, *more: str) -> list[str]:
    small = "{hidden_size: 16, num_layers: 1, head_dim: 8, intermediate_size: 16, start_clips: 4}"
    return [
        *("--config", "rate", "--codec", str(folder / "start"), "--manifest", str(folder / "speech" / "train.jsonl")),
        *("-o", str(folder / run), "--steps", "6", "--log_every", "1", "--precision", "fp32"),
        *("--window_seconds", "0.3", "--data.clips_per_batch", "2", "--data.prefetch", "0"),
        *("--spectral.multi_mel.n_ffts", "[256, 512]", "--spectral.multi_mel.num_mels", "[10, 20]"),
        *("--language.rate.small_lm", small, "--language.rate_to_codec", "1.0", "--weights.rate", "0.5"),
        *("--optimizer.codec", "{kind: adamw, lr: 1.0e-3}"),
        *more,
    ]


@pytest.mark.parametrize(
    ("name", "more"),
    [("encodec", PAPER), *(pytest.param(name, [], marks=pytest.mark.slow) for name in ("dac", "mimi", "bigcodec"))],
)
def test_a_codec_of_others_learns_differs_from_its_control_and_loads_as_before(
    name: str, more: list[str], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "bigcodec":
        request.getfixturevalue("small_bigcodec")
    start = starting_codec(name)
    start.save_pretrained(tmp_path / "start")
    manifest = miniature_speech(tmp_path / "speech")
    if more:
        more = [*more, "--language.backbone", f"{{name: {miniature_lm(tmp_path / 'lm', layers=1)}, dtype: fp32}}"]
    trained = {}
    for run, extra in (("adapted", more), ("control", CONTROL)):
        trainer = Trainer(recipe_of(*options(tmp_path, run, *extra)), show_progress=False)
        folder = trainer.run()
        first, *_, last = read_log(tmp_path / run / "log.jsonl")
        for term in ["recon/multi_mel", *(["bridge/ce"] if "bridge/ce" in first else [])]:
            assert last[term] < 0.97 * first[term], (run, term, first[term], last[term])
        assert ("lm/rate" in last) == (run == "adapted") and last["skipped"] == 0
        trained[run] = load_codec(str(folder))
        trainer.codec.train(False)
        wav = noise(24_000)[None, None]
        codes = trained[run].encode(wav).audio_codes
        assert torch.equal(codes, trainer.codec.encode(wav).audio_codes)
        assert torch.equal(trained[run].decode(codes).audio_values, trainer.codec.decode(codes).audio_values)
        assert is_finished(trainer.recipe)
    clips = [replace(clip, split=split) for clip, split in zip(read_manifest(manifest), SPLITS, strict=True)]
    write_manifest(tmp_path / "speech" / "all.jsonl", clips)
    monkeypatch.setattr(evaluate, "LikelihoodConfig", lambda: TINY_LM)
    words = ["predictability", "--manifest", str(tmp_path / "speech" / "all.jsonl"), "-o", str(tmp_path / "bits")]
    for run in trained:
        words += ["--codec", str(tmp_path / run)]
    assert main(["evaluate", *words, "--seeds", "1", "--workers", "0", "--audio-seconds", "6"]) == 0
    systems = json.loads((tmp_path / "bits.json").read_text(encoding="utf-8"))["systems"]
    bits = {run: systems[run]["measures"]["lm_bits_per_second"]["value"] for run in trained}
    assert min(bits.values()) > 0  # untrained codecs of 64 codes may all come to use one
    weights = [dict(codec.state_dict()) for codec in (start, trained["adapted"], trained["control"])]
    moved = [key for key in weights[0] if weights[0][key].is_floating_point()]
    books = [key for key in moved if "codebook" in key and key.endswith(("embed", "weight", "embed_sum"))]
    assert books and all(not torch.equal(weights[1][key], weights[2][key]) for key in books)
    encoders = [key for key in moved if key.startswith("model.encoder") and "weight" in key]
    assert all(not torch.equal(weights[0][key], weights[2][key]) for key in encoders)
    assert all(not torch.equal(weights[1][key], weights[2][key]) for key in encoders)
