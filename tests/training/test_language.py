"""The language side: its terms, where their gradients go, alignment keys, and why the start embedding is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmcodec.data.clips import ClipBatch
from llmcodec.lm.backbone import BackboneConfig, FrozenCausalLM, text_key
from llmcodec.objectives.alignment import AlignmentConfig
from llmcodec.objectives.bridge import BridgeConfig
from llmcodec.objectives.prediction import PredictionConfig
from llmcodec.objectives.rate import RateConfig
from llmcodec.protocol import CodecEncoding
from llmcodec.schedule import Schedule
from llmcodec.training.language import LanguageConfig, LanguageObjective

from ..miniature import NUM_CODES, miniature_batch, miniature_codec, miniature_lm

SMALL_LM = replace(RateConfig().small_lm, hidden_size=16, num_layers=1, head_dim=8, intermediate_size=16)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> FrozenCausalLM:
    folder = miniature_lm(tmp_path_factory.mktemp("lm"))
    return FrozenCausalLM.from_pretrained(BackboneConfig(str(folder), dtype="fp32"))


@pytest.fixture
def codec():
    return miniature_codec().eval()


def language_of(backbone: FrozenCausalLM | None, terms: set[str], **config: Any) -> LanguageObjective:
    config.setdefault("rate", RateConfig(model="backbone"))
    config.setdefault("alignment", AlignmentConfig(bank_size=4))
    config.setdefault("prediction", PredictionConfig(num_heads=2))
    if isinstance(mode := config.pop("mode", None), str):
        config["bridge"] = BridgeConfig(kind=config.pop("kind", "native"), mode=mode)  # type: ignore[arg-type]
    config |= {"backbone": None} if backbone is None else {}
    return LanguageObjective(LanguageConfig(**config), NUM_CODES, 32, 0, frozenset(terms), backbone).train()


def run(language: LanguageObjective, codec: nn.Module, batch: ClipBatch, active: set[str], step: int = 0):
    encoding = codec.encode_latents(batch.wav_BS, batch.lengths_B)
    return language(encoding, codec.codebook_VC, batch, step, frozenset(active))


def gradient(value: Tensor, module: nn.Module) -> float:
    """Norm of the gradient of all parameters of a module; 0 where the graph does not reach it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.norm() for g in found if g is not None] or [torch.zeros(())]).norm())


def test_terms_are_those_that_are_active_and_the_rest_is_logged(backbone, codec):
    everything = {"lm/ftp", "lm/rate", "align/cosine", "align/contrast", "bridge/ce"}
    language = language_of(backbone, everything, mode="gumbel", kind="projected")
    terms, logged = run(language, codec, miniature_batch(), everything)
    assert set(terms) == everything and all(value.ndim == 0 for value in terms.values())
    assert set(logged) == {"bridge/agreement", "lm/ftp_1", "lm/ftp_2", "lm/rate_bits"}
    assert not any(value.requires_grad for value in logged.values())
    terms, logged = run(language, codec, miniature_batch(), {"lm/ftp"})
    assert set(terms) == {"lm/ftp"} and "bridge/ce" in logged and "align/cosine" not in logged
    groups = language.parameter_groups()
    assert {name: len(group) for name, group in groups.items()} == {"bridge": 2, "audio": 4, "audio_lm": 0}


def test_the_bridges_own_loss_does_not_run_the_language_model(backbone, codec, monkeypatch):
    language = language_of(backbone, {"lm/ftp", "bridge/ce"}, mode="gumbel", kind="projected")
    batch = miniature_batch()
    both, _ = run(language, codec, batch, {"lm/ftp", "bridge/ce"})

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pass that nothing reads")

    monkeypatch.setattr(language.backbone, "forward", refuse)
    alone, logged = run(language, codec, batch, {"bridge/ce"})
    assert torch.equal(alone["bridge/ce"], both["bridge/ce"]) and set(logged) == {"bridge/agreement"}
    with pytest.raises(AssertionError, match="nothing reads"):
        run(language, codec, batch, {"lm/ftp", "bridge/ce"})


def test_no_backbone_is_loaded_for_a_small_lm_alone(codec):
    rate = RateConfig(model="small_lm", small_lm=SMALL_LM)
    language = language_of(None, {"lm/rate"}, rate=rate)
    terms, logged = run(language, codec, miniature_batch(), {"lm/rate"})
    assert language.backbone is None and set(terms) == {"lm/rate"} and set(logged) == {"lm/rate_bits"}
    with pytest.raises(ValueError, match=r"language.backbone is null, but \['lm/ftp'\] need"):
        language_of(None, {"lm/ftp"})


@pytest.mark.parametrize("kind", ["native", "projected"])
@pytest.mark.parametrize("mode", ["gumbel", "straight_through", "detach"])
def test_the_gradient_of_ftp_reaches_the_encoder_unless_detached(kind, mode, backbone, codec):
    language = language_of(backbone, {"lm/ftp", "bridge/ce"}, mode=mode, kind=kind)
    value = run(language, codec, miniature_batch(), {"lm/ftp"})[0]["lm/ftp"]
    reaches = gradient(value, codec.encoder)
    assert reaches == 0.0 if mode == "detach" else reaches > 1e-7
    assert gradient(value, language.prediction) > 0 and gradient(value, language.vocabulary) > 0
    assert all(not p.requires_grad and p.grad is None for p in backbone.model.parameters())


@pytest.mark.parametrize("mode", ["gumbel", "straight_through", "detach"])
def test_alignment_reaches_the_encoder_through_the_bridge_alone(mode, backbone, codec):
    language = language_of(backbone, {"align/cosine"}, mode=mode)
    value = run(language, codec, miniature_batch(), {"align/cosine"})[0]["align/cosine"]
    assert (gradient(value, codec.encoder) > 1e-7) == (mode != "detach")


def encoding_of(codes: Tensor, query: Tensor) -> CodecEncoding:
    mask = torch.ones_like(codes, dtype=torch.bool)
    zeros = torch.zeros(*codes.shape, 32, dtype=query.dtype)
    return CodecEncoding(codes, mask, query, zeros, zeros)


def query_gradient(language: LanguageObjective, codec: nn.Module, query: Tensor, num_frames: int) -> Tensor:
    """Gradient (T, C) of the summed rate of the first frames with respect to their queries."""
    query = query[:, :num_frames].detach().requires_grad_()
    codebook = codec.codebook_VC.detach()
    encoding = encoding_of((query @ codebook.T).argmax(-1), query)
    batch = ClipBatch(torch.zeros(1, 1), torch.tensor([1]), [""], ["clip"])
    terms, _ = language(encoding, codebook, batch, 0, frozenset({"lm/rate"}))
    return torch.autograd.grad(terms["lm/rate"] * num_frames, query)[0][0]


@pytest.mark.parametrize("model", ["backbone", "small_lm"])
def test_the_rate_reaches_the_encoder_as_target_and_as_context(model, backbone, codec):
    rate = RateConfig(model=model, small_lm=SMALL_LM)
    language = language_of(backbone, {"lm/rate"}, rate=rate, mode="straight_through")
    query = nn.functional.normalize(torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    one, two = query_gradient(language, codec, query, 1), query_gradient(language, codec, query, 2)
    assert two[1].norm() > 1e-4, "the last frame is nobody's context: this is its gradient as a target"
    assert one[0].norm() > 1e-4 and (two[0] - one[0]).norm() > 1e-5, "the second frame's cost reaches the first"
    if model == "backbone":
        detached = language_of(backbone, {"lm/rate"}, rate=rate, mode="detach")
        assert torch.allclose(query_gradient(detached, codec, query, 2)[0], one[0], atol=1e-6), "only as a target"
    value = run(language, codec, miniature_batch(), {"lm/rate"})[0]["lm/rate"]
    assert gradient(value, codec.encoder) > 1e-6


def test_the_share_of_the_rate_that_reaches_the_codec_follows_its_schedule(codec):
    rate = RateConfig(model="small_lm", small_lm=SMALL_LM)
    share = Schedule(1.0, delay=2, warmup=1)
    language = language_of(None, {"lm/rate"}, rate=rate, rate_to_codec=share)
    norms = []
    for step in (0, 2, 3):
        value = run(language, codec, miniature_batch(), {"lm/rate"}, step)[0]["lm/rate"]
        norms.append(gradient(value, codec.encoder))
        assert gradient(value, language.audio_lm) > 0
    assert norms[0] == 0.0 and norms[1] == pytest.approx(norms[2] / 2, rel=1e-4) and norms[2] > 0


def test_alignment_compares_each_clip_with_its_own_text_and_leaves_out_clips_without(backbone, codec):
    language = language_of(backbone, {"align/cosine", "align/contrast"}, mode="straight_through").eval()
    batch = miniature_batch((8000, 5000, 6000))
    encoding = codec.encode_latents(batch.wav_BS, batch.lengths_B)
    terms, _ = language(encoding, codec.codebook_VC, batch, 0, frozenset({"align/cosine"}))
    rows, start = language.vocabulary.embedding_VH, language.vocabulary.start_H
    expected = []
    for clip in (0, 1):
        codes = encoding.codes_BT[clip][encoding.mask_BT[clip]]
        states = backbone(torch.cat([start[None], rows[codes]])[None], None, language.layers).layers
        text = backbone.text_states([batch.texts[clip]], language.layers)
        expected += [1 - nn.functional.cosine_similarity(states[i][0, -1], text[i][0], dim=0) for i in language.layers]
    assert torch.isclose(terms["align/cosine"], torch.stack(expected).mean(), atol=1e-5)


def test_the_bank_keeps_texts_by_key_in_training_and_never_an_empty_one(backbone, codec):
    language = language_of(backbone, {"align/contrast"}, mode="straight_through")
    batch = miniature_batch((4000, 5000, 3000))
    for _ in range(3):
        run(language, codec, batch, {"align/contrast"})
    keys = {text_key(text) for text in batch.texts[:2]}
    assert len(keys) == 2 and -1 not in keys and text_key(" ") == -1
    assert set(language.alignment.bank_keys_Q.tolist()) == keys
    assert int(language.alignment.position) == 6 > language.config.alignment.bank_size, "it has wrapped"
    language.eval()
    run(language, codec, batch, {"align/contrast"})
    assert int(language.alignment.position) == 6


class Capture(nn.Module):
    """In the place of the heads: one head, which keeps the states from which it should predict the codes."""

    num_heads = 1

    def head(self, k: int, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        self.states = hidden_NH.detach()  # head 1 predicts code t from hidden[t]
        return hidden_NH, torch.zeros(NUM_CODES, hidden_NH.shape[1])


def head_accuracy(backbone: FrozenCausalLM, released: bool) -> float:
    """Held-out accuracy of the best linear head 1 (ridge regression) on codes drawn independently of each other."""
    language = language_of(backbone, {"lm/ftp"}, mode="straight_through", released_no_start=released)
    language.prediction = Capture()
    codebook = nn.functional.normalize(torch.randn(NUM_CODES, 8), dim=-1)
    codes = torch.randint(0, 16, (80, 25), generator=torch.Generator().manual_seed(2))
    batch = ClipBatch(torch.zeros(80, 1), torch.ones(80, dtype=torch.int64), [""] * 80, [str(i) for i in range(80)])
    language(encoding_of(codes, codebook[codes]), codebook, batch, 0, frozenset({"lm/ftp"}))
    states, targets = language.prediction.states.double(), codes.flatten()
    states = torch.cat([states, torch.ones_like(states[:, :1])], 1)
    train, test = slice(0, 1000), slice(1000, None)
    gram = states[train].T @ states[train] + 1e-3 * torch.eye(states.shape[1], dtype=torch.float64)
    wanted = nn.functional.one_hot(targets[train], 16).double()
    head = torch.linalg.solve(gram, states[train].T @ wanted)
    return float(((states[test] @ head).argmax(-1) == targets[test]).double().mean())


def test_head_1_can_copy_only_without_the_start_embedding(backbone):
    """Pitfall 1: on random codes nobody predicts better than chance (1 in 16), unless the target has been read."""
    assert head_accuracy(backbone, released=True) > 0.9
    assert head_accuracy(backbone, released=False) < 0.15


def test_noise_belongs_to_the_clip_and_the_step(backbone, codec):
    language = language_of(backbone, {"lm/ftp", "bridge/ce"}, mode="gumbel", kind="projected").eval()
    batch = miniature_batch((8000, 8000))
    swapped = ClipBatch(batch.wav_BS.flip(0), batch.lengths_B, batch.texts[::-1], batch.ids[::-1])
    values = [
        run(language, codec, b, {"lm/ftp"}, step)[0]["lm/ftp"] for b, step in ((batch, 4), (swapped, 4), (batch, 5))
    ]
    assert torch.isclose(values[0], values[1], rtol=1e-6) and not torch.isclose(values[0], values[2], rtol=1e-6)
