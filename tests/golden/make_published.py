"""Writes published.json: codes and samples that other projects' own code gives on made-up weights.

    git clone https://github.com/jishengpeng/WavTokenizer      # 5cf440d; and so on, see ORIGINS
    OMP_NUM_THREADS=1 python -m tests.golden.make_published FOLDER_OF_THE_CLONES

Their code does not import beside a CPU build of PyTorch (torchaudio, fairseq, trainers), so the tests compare with
this file. Weights are drawn by `made_up` from names and shapes, which are in the file; the tests draw
them again. Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

import llmcodec.adapters.load  # noqa: F401  transformers looks for the real torchaudio while it is imported

ORIGINS = {
    "wavtokenizer": "github.com/jishengpeng/WavTokenizer 5cf440d",
    "unicodec": "github.com/Jiang-Yidi/UniCodec 8f90335",
    "speechtokenizer": "github.com/ZhangXInFD/SpeechTokenizer 30c96fb (PyPI speechtokenizer 1.0.1)",
    "soundstream": "github.com/kaiidams/soundstream-pytorch 3c574fc",
    "s3tokenizer_v1": "github.com/xingchensong/S3Tokenizer 2abe1c5 (PyPI s3tokenizer 0.3.0)",
    "s3tokenizer_v2": "github.com/xingchensong/S3Tokenizer 2abe1c5 (PyPI s3tokenizer 0.3.0)",
}
PLACE = Path(__file__).parent / "published.json"
UNUSED = ("discriminator", "encodec.decoder.", "window", "running_mean", "inited", "cluster_size", "embed_avg")
UNUSED += (".linear1.", ".linear2.", "layer_scale_2", "mask_emb", "transform.")


def made_up(shapes: dict[str, list[int]], spread: dict[str, float] | None = None) -> dict[str, Tensor]:
    """Weights by name and shape: normal, at the scale that keeps a signal's level; norms a little above one."""
    drawn = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        values = np.random.RandomState(number).standard_normal(shape).astype(np.float32)
        last = name.rpartition(".")[2]
        norm = len(shape) == 1 and last == "weight" or name.endswith(("norm.scale.weight", "weight_g"))
        if norm or last in ("scale", "gamma"):
            drawn[name] = torch.from_numpy(1 + 0.2 * values)
        elif last == "bias" or len(shape) == 1 or name.endswith("shift.weight"):
            drawn[name] = torch.from_numpy(0.1 * values)
        else:
            fan_in = max(1, int(np.prod(shape[1:])))
            drawn[name] = torch.from_numpy(values * np.float32(1.5 / np.sqrt(fan_in)))
        for ending, factor in (spread or {}).items():
            if name.endswith(ending):
                drawn[name] = torch.from_numpy(values * np.float32(factor))
    return drawn


def made_up_wav(num_samples: int, seed: int) -> Tensor:
    """(S,) noise of changing level."""
    random = np.random.RandomState(seed)
    level = random.rand(num_samples // 400 + 1).repeat(400)[:num_samples]
    return torch.from_numpy((0.5 * level * random.standard_normal(num_samples)).astype(np.float32))


def shapes_of(state: dict[str, Tensor]) -> dict[str, list[int]]:
    kept = {name: value for name, value in state.items() if not any(word in name for word in UNUSED)}
    return {name: list(value.shape) for name, value in kept.items()}


def filled(model: nn.Module, spread: dict[str, float]) -> dict[str, list[int]]:
    """Give a model made-up weights; returns their shapes."""
    shapes = shapes_of(model.state_dict())
    model.load_state_dict(made_up(shapes, spread), strict=False)
    for module in model.modules():
        if hasattr(module, "inited"):
            module.inited.fill_(1)
    model.eval()
    return shapes


class Package(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return {"FairseqDataclass": object, "ChoiceEnum": lambda *_: str}.get(name) or MagicMock()


class Alias:
    """UniCodec's files call each other by names that its repository does not have."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        for old, new in (("encodec_edit", "encoder"), ("vocos", "decoder")):
            if name.split(".")[0] == old:
                loader: Any = types.SimpleNamespace(
                    create_module=lambda spec, new=new, old=old: importlib.import_module(new + spec.name[len(old) :]),
                    exec_module=lambda module: None,
                )
                return importlib.machinery.ModuleSpec(name, loader)
        return None


def open_clone(folder: Path, *packages: str) -> None:
    """Import from a clone; its packages' own __init__ files are passed over."""
    fakes = ["torchaudio", "torchaudio.transforms", "torchaudio.functional", "torchaudio.functional.functional"]
    fakes += ["fairseq", "fairseq.models", "fairseq.models.wav2vec", "fairseq.models.wav2vec.wav2vec2", "omegaconf"]
    fakes += ["fairseq.dataclass", "fairseq.data", "fairseq.data.data_utils", "fairseq.modules"]
    for name in fakes:
        sys.modules[name] = Package(name)
        sys.modules[name].__path__ = []  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.split(".")[0] in ("encoder", "decoder", "vocos", "encodec_edit")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    for package in packages:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder / package)]  # type: ignore[attr-defined]


class VocosKind(nn.Module):
    """WavTokenizer or UniCodec of small size, put together from their own modules."""

    def __init__(self, uni: bool):
        super().__init__()
        from decoder.feature_extractors import EncodecFeatures
        from decoder.heads import ISTFTHead
        from decoder.models import VocosBackbone

        more = {"use_transformer": True} if uni else {}
        width, bins = 64 if uni else 32, 256 if uni else 64
        if uni:
            from encoder.modules import mimi_transformer, seanet

            mimi_transformer.ModelArgs.dim, mimi_transformer.ModelArgs.moe_inter_dim = width, 48
            sizes = {"d_model": width, "num_heads": 1, "num_layers": 1, "dim_feedforward": 32}
            seanet._transformer_kwargs.update(sizes | {"input_dimension": width, "output_dimensions": [width]})
        ratios = [4, 2] if uni else [5, 4]
        self.feature_extractor = EncodecFeatures("encodec_24khz", [6.6] * 4, True, 1, ratios, bins, 10, **more)
        encodec = self.feature_extractor.encodec
        kind = type(encodec.encoder)
        args = {"n_filters": 4, "dimension": width, "ratios": ratios, **more}
        encodec.encoder = kind(lstm=2, norm="weight_norm", causal=False, **args)
        encodec.quantizer = type(encodec.quantizer)(dimension=width, n_q=1, bins=bins)
        self.backbone = VocosBackbone(width, 32, 48, 1, adanorm_num_embeddings=4)
        hop = int(np.prod(ratios))
        self.head = ISTFTHead(32, 4 * hop, hop)
        self.hop = hop

    def run(self, wav_BS: Tensor, *domain: Any) -> tuple[Tensor, Tensor]:
        bandwidth = torch.tensor([0])
        features, codes, _ = self.feature_extractor.infer(wav_BS, *domain, bandwidth_id=bandwidth)
        return codes.transpose(0, 1), self.head(self.backbone(features, bandwidth_id=bandwidth))


def wavtokenizer(root: Path) -> dict[str, Any]:
    open_clone(root / "WavTokenizer")
    model = VocosKind(uni=False)
    spread = {"_codebook.embed": 0.3}
    return facts(model, spread, 24 * model.hop, lambda wav: model.run(wav))


def unicodec(root: Path) -> dict[str, Any]:
    sys.meta_path.insert(0, Alias())  # type: ignore[arg-type]
    open_clone(root / "UniCodec", "decoder")
    model = VocosKind(uni=True)
    spread = {"embedding.weight": 0.7, "gate.weight": 1.0}
    return facts(model, spread, 24 * model.hop, lambda wav: model.run(wav, ["0"]))


def speechtokenizer(root: Path) -> dict[str, Any]:
    open_clone(root / "SpeechTokenizer", "speechtokenizer")
    from speechtokenizer.model import SpeechTokenizer

    config = {"n_filters": 4, "strides": [5, 4], "dimension": 32, "semantic_dimension": 48, "bidirectional": True}
    config |= {"dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 2}
    config |= {"activation": "ELU", "codebook_size": 16, "n_q": 3, "sample_rate": 16_000}
    model = SpeechTokenizer(config)

    def run(wav_BS: Tensor) -> tuple[Tensor, Tensor]:
        codes = model.encode(wav_BS[:, None])
        return codes.transpose(0, 1), model.decode(codes)[:, 0]

    return facts(model, {"_codebook.embed": 0.3}, 24 * 20, run)


def soundstream(root: Path) -> dict[str, Any]:
    open_clone(root / "soundstream-pytorch")
    from hubconf import EncoderDecoder

    model = EncoderDecoder(n_channels=2, num_quantizers=3, num_embeddings=16)

    def run(wav_BS: Tensor) -> tuple[Tensor, Tensor]:
        books = model.quantizer.weight.clone()
        codes = model.encode(wav_BS)
        model.quantizer.weight.copy_(books)  # it learns while it encodes, even in evaluation mode
        return codes.transpose(1, 2), model.decode(codes)

    return facts(model, {"quantizer.weight": 0.2}, 5314 + 23 * 320, run)


def s3tokenizer(root: Path, version: int) -> dict[str, Any]:
    open_clone(root / "S3Tokenizer", "s3tokenizer")
    from s3tokenizer.model import ModelConfig, S3Tokenizer
    from s3tokenizer.model_v2 import ModelConfig as ModelConfig2
    from s3tokenizer.model_v2 import S3TokenizerV2
    from s3tokenizer.utils import log_mel_spectrogram, padding

    sizes = {"n_mels": 80, "n_audio_state": 128, "n_audio_head": 2, "n_audio_layer": 1}
    if version == 1:
        model = S3Tokenizer("speech_tokenizer_v1", ModelConfig(n_codebook_size=64, **sizes))
    else:
        model = S3TokenizerV2("speech_tokenizer_v2_25hz", ModelConfig2(**sizes))

    def run(wav_BS: Tensor) -> tuple[Tensor, Tensor]:
        codes, _ = model.quantize(*padding([log_mel_spectrogram(wav_BS[0], 80)]))
        return codes[:, None], torch.zeros(1, 0)

    return facts(
        model, {"_codebook.embed": 1 / 12, "positional_embedding": 0.7, "project_down.weight": 0.15}, 16_000 * 2, run
    )


def facts(model: nn.Module, spread: dict[str, float], num_samples: int, run: Any) -> dict[str, Any]:
    """Fill, run on one clip, and note what came out."""
    shapes = filled(model, spread)
    with torch.no_grad():
        codes_BQT, wav_BS = run(made_up_wav(num_samples, 1)[None])
    used = [len(codes_T.unique()) for codes_T in codes_BQT[0]]
    print(
        type(model).__name__, codes_BQT.shape, used, wav_BS.shape, float(wav_BS.abs().max()) if wav_BS.numel() else ""
    )
    assert min(used) > 2, used  # else the file shows little
    audio = [float(f"{value:.7g}") for value in wav_BS[0].tolist()][::7]
    return {
        "spread": spread,
        "num_samples": num_samples,
        "shapes": shapes,
        "codes": codes_BQT[0].tolist(),
        "audio": audio,
    }


if __name__ == "__main__":
    root = Path(sys.argv[1])
    made = {
        "wavtokenizer": wavtokenizer(root),
        "unicodec": unicodec(root),
        "speechtokenizer": speechtokenizer(root),
        "soundstream": soundstream(root),
        "s3tokenizer_v1": s3tokenizer(root, 1),
        "s3tokenizer_v2": s3tokenizer(root, 2),
    }
    lines = [f" {json.dumps(name)}: {json.dumps({'origin': ORIGINS[name], **fact})}" for name, fact in made.items()]
    PLACE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
