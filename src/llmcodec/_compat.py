"""Module paths of llmcodec 0.1: they import the module that took their place, with a warning, for one release.

    from llmcodec.codecs.load import load_codec     # FutureWarning: llmcodec.codecs.load is llmcodec.adapters.load now

`install` puts a finder before Python's own; it handles only the names of this table. Two old modules are packages
today, so their names are looked up one by one (`forward`). Test: tests/test_compat.py.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "audio": "io.audio",
    "codec.auv": "codec.interop.auv",
    "codec.card": "codec.model_card",
    "codec.causal": "codec.streaming.causal",
    "codec.convert": "adapters.convert",
    "codec.fast_attention": "codec.fast.attention",
    "codec.fast_conformer": "codec.fast.conformer",
    "codec.fast_ends": "codec.fast.ends",
    "codec.fast_linear": "codec.fast.linear",
    "codec.inference": "codec.fast.engine",
    "codec.latency": "codec.streaming.latency",
    "codec.longform": "codec.streaming.blocks",
    "codec.native": "codec.fast.cpu_kernels",
    "codec.native_conformer": "codec.fast.cpu_conformer",
    "codec.native_linear": "codec.fast.cpu_linear",
    "codec.onnx_export": "codec.interop.onnx_export",
    "codec.onnx_graph": "codec.interop.onnx_graph",
    "codec.processor": "codec.feature_extractor",
    "codec.safe_load": "codec.folder",
    "codec.sessions": "codec.streaming.sessions",
    "codec.spectral": "codec.stft",
    "codec.torch_file": "codec.interop.checkpoints",
    "codecs": "adapters",
    "codecs.auv_package": "adapters.auv",
    "codecs.bigcodec": "adapters.bigcodec",
    "codecs.dac": "adapters.dac",
    "codecs.encodec": "adapters.encodec",
    "codecs.fbank": "adapters.networks.kaldi_fbank",
    "codecs.kinds": "adapters.registry",
    "codecs.load": "adapters.load",
    "codecs.mimi": "adapters.mimi",
    "codecs.peer": "adapters.base",
    "codecs.protocol": "protocol",
    "codecs.random_weights": "adapters.random_weights",
    "codecs.select": "adapters.base",
    "codecs.snac": "adapters.snac",
    "codecs.stand_in": "adapters.torchaudio_stub",
    "codecs.xcodec": "adapters.xcodec",
    "codecs.xcodec2": "adapters.xcodec2",
    "coding": "transcode",
    "coding.command": "cli.transcode",
    "coding.export": "runtime.export",
    "coding.inputs": "transcode.inputs",
    "coding.loading": "runtime.opening",
    "coding.onnx_config": "runtime.onnx_config",
    "coding.onnx_runtime": "runtime.onnx_runtime",
    "coding.outputs": "transcode.outputs",
    "coding.pipeline": "transcode.pipeline",
    "coding.prior": "transcode.prior",
    "coding.progress": "cli.summary",
    "coding.runtime": "runtime.base",
    "coding.session": "transcode.files",
    "coding.standard_streams": "cli.standard_streams",
    "coding.tokenize": "transcode.tokenize",
    "coding.torch_runtime": "runtime.torch_runtime",
    "coding.work": "transcode.work",
    "data.build": "data.corpus",
    "data.noise": "data.backgrounds",
    "data.room": "data.reverberation",
    "data.salmon": "salmon.build",
    "data.salmon_pairs": "salmon.pairs",
    "data.salmon_plan": "salmon.plan",
    "data.shards": "io.token_shards",
    "data.splice": "salmon.splice",
    "data.tokens": "io.token_file",
    "evaluation.codes": "metrics.token_statistics",
    "evaluation.command": "cli.compare",
    "evaluation.comparison": "experiments.comparison",
    "evaluation.consistency_command": "cli.evaluate",
    "evaluation.cut_check": "salmon.cut_check",
    "evaluation.figures": "report.figures",
    "evaluation.intelligibility": "metrics.stoi",
    "evaluation.kept": "evaluation.cache",
    "evaluation.likelihood": "evaluation.predictability",
    "evaluation.measured": "metrics.base",
    "evaluation.measuring": "evaluation.workers",
    "evaluation.metrics": "metrics.registry",
    "evaluation.ngrams": "lm.ngrams",
    "evaluation.output": "io.progress",
    "evaluation.p862": "metrics.pesq.wideband",
    "evaluation.p862_activity": "metrics.pesq.activity",
    "evaluation.p862_alignment": "metrics.pesq.alignment",
    "evaluation.p862_delays": "metrics.pesq.delays",
    "evaluation.p862_model": "metrics.pesq.model",
    "evaluation.p862_tables": "metrics.pesq.tables",
    "evaluation.page": "report.page",
    "evaluation.perceptual": "metrics.learned",
    "evaluation.pitch": "metrics.pitch",
    "evaluation.plots": "report.figures",
    "evaluation.predictability_command": "cli.evaluate",
    "evaluation.reconstruction_command": "cli.evaluate",
    "evaluation.report": "report.page",
    "evaluation.report_parts": "report.page",
    "evaluation.requests": "report.files",
    "evaluation.salmon": "salmon.score",
    "evaluation.salmon_suite": "salmon.suite",
    "evaluation.scorers": "lm.small_lm_scorer",
    "evaluation.stability": "evaluation.consistency",
    "evaluation.stats": "metrics.statistics",
    "evaluation.summary": "report.tables",
    "evaluation.systems": "evaluation.system",
    "evaluation.token_model": "lm.small_lm",
    "evaluation.token_training": "lm.small_lm_training",
    "lm.codec_text": "io.token_text",
    "lm.cooccurrence": "lm.embeddings",
    "lm.rows": "lm.embeddings",
    "lm_commands": "cli.lm",
    "objectives.reduction": "distributed",
    "objectives.schedule": "schedule",
    "quickstart": "experiments.quickstart",
    "salmon_commands": "cli.salmon",
    "score": "cli.lm",
    "speak": "lm.speech",
    "sweep": "experiments.sweep",
    "tensorfile": "io.tensor_file",
}
"""Old path -> new path, both inside llmcodec."""


class MovedModules(MetaPathFinder, Loader):
    """Finds old paths; the module they give is the new one itself, so that classes and state exist once."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        home, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if home == "llmcodec" and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"llmcodec.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is {new} now; the old name goes with the next release", FutureWarning, stacklevel=2)
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # importing has put the old name's there


def install() -> None:
    """Make the old paths importable, once a process."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())


def forward(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for old names of a module: `homes` says where they live, `module` or `module:new name`."""

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} is in {homes[name]} now", FutureWarning, stacklevel=2)
        module, _, new_name = homes[name].partition(":")
        return getattr(import_module(module), new_name or name)

    return look_up


# -- functions that docs of 0.1 named and that read from an encoded corpus today ---------------------------------------
def encode_clip(codec: Any, clip: Any) -> Any:
    """Codes of one clip, flattened to 1-D int64; today `EncodedCorpus.tokens`."""
    with import_module("llmcodec.evaluation.encoded_corpus").EncodedCorpus(codec) as encoded:
        return encoded.tokens([clip])[0]


def evaluate_reconstruction(
    codec: Any, clips: Any, *, slow_metrics: bool = True, metrics: Any = None, fingerprint: str = "", **options: Any
) -> Any:
    """Today `measure_reconstruction` of an encoded corpus, which finds the fingerprint itself."""
    registry = import_module("llmcodec.metrics.registry")
    measure = import_module("llmcodec.evaluation.reconstruction").measure_reconstruction
    with import_module("llmcodec.evaluation.encoded_corpus").EncodedCorpus(codec) as encoded:
        return measure(
            encoded, clips, metrics=metrics or (registry.SUPERB if slow_metrics else registry.FAST), **options
        )
