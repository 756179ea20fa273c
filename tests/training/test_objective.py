"""The objective: fake and real are the same stretch, masks hold, what weighs nothing is not computed, sums add up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.adapters.features.load import load_encoder
from llmcodec.data.clips import ClipBatch
from llmcodec.data.sampler import clip_seed
from llmcodec.objectives.adversary import Adversary, AdversaryConfig
from llmcodec.objectives.discriminators import MPDConfig
from llmcodec.objectives.distillation import Distillation, TeacherConfig
from llmcodec.objectives.spectral import MelLossConfig, MultiScaleMelLossConfig, SpectralConfig, STFTLossConfig
from llmcodec.training.objective import CodecObjective
from llmcodec.training.recipe import CodecConfig, Recipe, Weights

from ..miniature import NUM_CODES, miniature_batch, miniature_codec, miniature_teacher

SMALL = SpectralConfig(
    MelLossConfig(256, 64, 20),
    MultiScaleMelLossConfig((128, 256), (8, 12)),
    STFTLossConfig((256,)),
    STFTLossConfig((256,)),
)
GAN = AdversaryConfig(mpd=MPDConfig(periods=(2,), channels=(4,)), msd=None)
NOTHING = {name: 0.0 for name in vars(Weights())}


def objective_of(weights: dict[str, float], partition: tuple[int, int] | None = None, **recipe: Any) -> CodecObjective:
    """Miniature codec and tiny losses; the adversary is built when one is asked for."""
    recipe.setdefault("precision", "fp32")
    made = Recipe(weights=Weights(**NOTHING | weights), spectral=SMALL, **recipe)
    adversary = None if made.adversary is None else Adversary(made.adversary)
    return CodecObjective(made, miniature_codec(), adversary=adversary, partition=partition).train()


def select(batch: ClipBatch, *clips: int) -> ClipBatch:
    """Some clips of a batch as a batch of their own, without the padding they do not need."""
    rows = list(clips)
    lengths = batch.lengths_B[rows]
    texts, ids = [batch.texts[i] for i in rows], [batch.ids[i] for i in rows]
    return ClipBatch(batch.wav_BS[rows, : int(lengths.max())], lengths, texts, ids)


def test_the_window_is_the_same_stretch_of_codes_and_samples():
    objective, batch = objective_of({"mel": 1.0}, window_seconds=0.2), miniature_batch((16000, 9001, 1000))
    encoding = objective.codec.encode_latents(batch.wav_BS, batch.lengths_B)
    seen = set()
    for step in range(8):
        window = objective.cut_window(encoding, batch, step)
        for clip, (frames, length) in enumerate(((50, 16000), (29, 9001), (4, 1000))):
            start = clip_seed(0, step, batch.ids[clip], "window") % max(1, frames - 10 + 1)
            real = min(10, frames - start)
            assert torch.equal(window.quantized_BWD[clip, :real], encoding.quantized_BTD[clip, start : start + real])
            assert window.mask_BW[clip].tolist() == [True] * real + [False] * (10 - real)
            samples = min(length - 320 * start, 3200)
            assert window.lengths_B[clip] == samples
            assert torch.equal(window.real_BS[clip, :samples], batch.wav_BS[clip, 320 * start :][:samples])
            assert not window.real_BS[clip, samples:].any()
            seen.add((clip, start))
    assert len(seen) > 12, "the place changes from step to step"


def test_a_window_decodes_to_what_the_whole_decodes_to_inside_the_receptive_field():
    objective, batch = objective_of({"mel": 1.0}, window_seconds=1.6), miniature_batch((48000, 36000))
    codec = objective.codec
    reach = math.ceil(codec.context_frames[1])
    with torch.no_grad():
        encoding = codec.encode_latents(batch.wav_BS, batch.lengths_B)
        whole_BS = codec.decode_latents(encoding.quantized_BTD, encoding.mask_BT)
        window_BS = objective.decode_window(objective.cut_window(encoding, batch, 3))
    for clip, frames in enumerate((150, 113)):
        start = clip_seed(0, 3, batch.ids[clip], "window") % (frames - 80 + 1)
        inside = slice(reach * 320, (80 - reach) * 320)
        expected = whole_BS[clip, start * 320 :][: 80 * 320][inside]
        assert expected.numel() > 5000 and torch.allclose(window_BS[clip][inside], expected, atol=1e-5)
        assert not torch.allclose(window_BS[clip, :3200], whole_BS[clip, start * 320 :][:3200], atol=1e-5)


def test_without_a_window_all_is_decoded_and_silent_behind_each_clip():
    objective, batch = objective_of({"mel": 1.0}), miniature_batch((8000, 5000))
    terms = objective(batch, 0)
    assert terms.fake_BS is not None and terms.real_BS is not None and terms.fake_BS.shape == (2, 8000)
    assert torch.equal(terms.real_BS, batch.wav_BS)
    assert not terms.fake_BS[1, 5000:].any() and terms.fake_BS[1, 4900:5000].abs().min() > 0


def test_waveform_terms_of_a_clip_do_not_depend_on_its_company():
    weights = {"mel": 1.0, "multi_mel": 1.0, "mrstft": 1.0, "complex_stft": 1.0, "generator": 1.0, "feature": 1.0}
    objective = objective_of(weights, adversary=GAN, window_seconds=0.2, adversary_seconds=0.1)
    batch = miniature_batch((16000, 9001, 1000))
    together = objective(batch, 5)
    alone = [objective(select(batch, clip), 5) for clip in range(3)]
    assert together.fake_BS is not None and together.fake_BS.shape == (3, 1600)
    for clip, one in enumerate(alone):
        assert torch.allclose(together.fake_BS[clip], one.fake_BS[0], atol=1e-5)
        assert torch.equal(together.real_BS[clip], one.real_BS[0])
    full_windows = objective(select(batch, 0, 1), 5)  # terms that weigh clips by their frames need equal windows
    for term, value in full_windows.raw.items():
        assert torch.isclose(value, torch.stack([one.raw[term] for one in alone[:2]]).mean(), rtol=1e-4), term


def test_the_discriminators_see_real_sound_at_the_same_place_of_fake_and_real():
    objective = objective_of({"generator": 1.0}, adversary=GAN, window_seconds=0.3, adversary_seconds=0.1)
    batch = miniature_batch((16000, 2500))
    batch = replace(batch, wav_BS=torch.arange(1, 16001).float().expand(2, -1) * (batch.wav_BS != 0))
    encoding = objective.codec.encode_latents(batch.wav_BS, batch.lengths_B)
    starts = set()
    for step in range(6):
        window = objective.cut_window(encoding, batch, step)
        fake_BS, real_BS = objective.adversary_window(-window.real_BS, window, batch.ids, step)
        assert torch.equal(fake_BS, -real_BS) and real_BS.shape == (2, 1600)
        assert torch.equal(real_BS[:, 1:] - real_BS[:, :-1], torch.ones(2, 1599)), "consecutive samples inside the clip"
        starts |= {float(real_BS[1, 0])}
    assert len(starts) > 3
    short = objective.cut_window(encoding, batch, 0)
    objective.recipe = replace(objective.recipe, adversary_seconds=0.5)
    fake_BS, real_BS = objective.adversary_window(short.real_BS, short, batch.ids, 0)
    assert real_BS.shape == (2, 8000) and not real_BS[:, 4800:].any()


def test_total_is_the_weighted_sum_of_the_raw_terms():
    weights = {"mel": 1.5, "mrstft": 0.5, "commit": 0.25, "codebook": 2.0, "marginal_entropy": 0.1, "feature": 3.0}
    terms = objective_of(weights | {"generator": 0.7}, adversary=GAN)(miniature_batch(), 0)
    expected = sum(
        weight * terms.raw[name].double()
        for name, weight in {
            "recon/mel": 1.5, "recon/mrstft": 0.5, "vq/commit": 0.25, "vq/codebook": 2.0,
            "codes/marginal_entropy": 0.1, "adv/feature": 3.0, "adv/generator": 0.7,
        }.items()
    )  # fmt: skip
    assert len(terms.raw) == 7 and torch.isclose(terms.total.double(), expected, rtol=1e-6)
    assert terms.total.dtype == torch.float32


def test_only_the_total_carries_the_graph_beside_the_raw_terms():
    terms = objective_of({"mel": 1.0, "commit": 1.0})(miniature_batch(), 0)
    assert terms.total.requires_grad and not terms.fake_BS.requires_grad
    encoding = terms.encoding
    assert not any(x.requires_grad for x in (encoding.query_BTC, encoding.quantized_BTD, encoding.latent_BTD))


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this costs time and weighs nothing")


def test_a_term_of_weight_0_is_not_computed(monkeypatch):
    objective = objective_of({"commit": 1.0}, adversary=GAN, window_seconds=0.1)
    monkeypatch.setattr(type(objective.codec), "decode_latents", never)
    monkeypatch.setattr("llmcodec.training.objective.marginal_entropy_term", never)
    terms = objective(miniature_batch(), 0)
    assert set(terms.raw) == {"vq/commit"} and terms.fake_BS is None
    monkeypatch.undo()
    objective = objective_of({"mel": 1.0}, adversary=GAN)
    for term in ("recon/multi_mel", "recon/mrstft", "recon/complex_stft"):
        monkeypatch.setattr(objective.spectral.losses[term], "forward", never)
    monkeypatch.setattr(objective._adversary[0], "judge", never)
    assert set(objective(miniature_batch(), 0).raw) == {"recon/mel"}


def test_padding_changes_no_term():
    objective = objective_of({"mel": 1.0, "mrstft": 1.0, "commit": 1.0, "codebook": 1.0, "marginal_entropy": 1.0})
    batch = miniature_batch((5000,))
    longer = replace(batch, wav_BS=torch.nn.functional.pad(batch.wav_BS, (0, 4000)))
    tight, padded = objective(batch, 0), objective(longer, 0)
    for name, value in tight.raw.items():
        assert torch.isclose(value, padded.raw[name], rtol=1e-4), name


def test_batch_norm_statistics_move_only_when_the_recipe_says_so():
    for frozen in (True, False):
        objective = objective_of({"commit": 1.0}, codec=CodecConfig(freeze_batch_norm=frozen))
        before = {name: value.clone() for name, value in objective.named_buffers()}
        objective(miniature_batch(), 0)
        moved = {name for name, value in objective.named_buffers() if not torch.equal(value, before[name])}
        assert bool(moved) != frozen


def test_a_partition_keeps_codes_and_entropy_to_itself():
    objective = objective_of({"marginal_entropy": 1.0}, partition=(16, 32))
    terms = objective(miniature_batch(), 0)
    codes = terms.encoding.codes_BT[terms.encoding.mask_BT]
    assert int(codes.min()) >= 16 and int(codes.max()) < 32
    assert 0 < terms.raw["codes/marginal_entropy"].item() <= math.log(16)
    whole = objective_of({"marginal_entropy": 1.0})(miniature_batch(), 0)
    assert torch.unique(whole.encoding.codes_BT).numel() > 1 and int(whole.encoding.codes_BT.max()) < NUM_CODES


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_reaches_every_part_of_the_codec(precision):
    weights = {"mel": 1.0, "complex_stft": 1.0, "commit": 1.0, "codebook": 1.0}
    objective = objective_of(weights, precision=precision, window_seconds=0.3)
    objective(miniature_batch(), 0).total.backward()
    without = [name for name, p in objective.codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


class Recorder(SpeechEncoder):
    """Remembers what it heard; its features are frames' mean and mean square."""

    def __init__(self):
        super().__init__(16000, 320, 2, torch.device("cpu"), torch.float32)
        self.heard: list[torch.Tensor] = []

    def features_of(self, wav_BS: torch.Tensor) -> torch.Tensor:
        self.heard.append(wav_BS)
        frames_BTN = wav_BS.reshape(len(wav_BS), -1, 320)
        return torch.stack([frames_BTN.mean(-1), frames_BTN.square().mean(-1)], -1)


def taught(weights: dict[str, float], **recipe: Any) -> tuple[CodecObjective, Recorder]:
    config, teacher = TeacherConfig("recorder"), Recorder()
    objective = objective_of(weights, teacher=config, **recipe)
    objective.distillation = Distillation(teacher, config, 32, 1)
    return objective, teacher


def test_a_teacher_hears_the_window_and_compares_the_decoders_layer():
    objective, teacher = taught({"distill_l1": 1.0, "distill_cosine": 0.5}, window_seconds=0.2)
    batch = miniature_batch((16000, 9001, 1000))
    terms = objective(batch, 2)
    assert set(terms.raw) == {"distill/l1", "distill/cosine"}
    expected = terms.raw["distill/l1"] + 0.5 * terms.raw["distill/cosine"]
    assert torch.isclose(terms.total, expected)
    encoding = objective.codec.encode_latents(batch.wav_BS, batch.lengths_B)
    window = objective.cut_window(encoding, batch, 2)
    heard = {len(wav_S) // 320: wav_S for wav_BS in teacher.heard for wav_S in wav_BS}
    assert torch.equal(heard[4][:1000], window.real_BS[2, :1000]), "the short clip, padded to whole frames"
    decoder = objective.codec.decoder.conformer
    kept: list[torch.Tensor] = []
    again = decoder(window.quantized_BWD, window.mask_BW, layer_outputs=kept)
    assert len(kept) == 1 and torch.equal(again, decoder.layer_norm(kept[0]))
    student = objective.distillation.projection(kept[0])
    assert torch.equal(terms.fake_BS, objective.decode_window(window)), "listening in changes nothing"
    features = Recorder()(window.real_BS, window.lengths_B, 16000, 320, 10)
    distances = [
        (student[clip, frame] - features[clip, frame]).abs().mean() for clip, frame in window.mask_BW.nonzero()
    ]
    assert len(distances) == 24 and torch.isclose(terms.raw["distill/l1"], torch.stack(distances).mean())


def test_the_teacher_hears_the_clean_target_and_the_encoder_what_was_altered():
    objective, teacher = taught({"distill_l1": 1.0})
    batch = miniature_batch((3200, 3200))
    clean_BS = batch.wav_BS.clone()
    altered = replace(batch, wav_BS=batch.wav_BS + 0.1, target_BS=clean_BS)
    terms = objective(altered, 0)
    assert torch.equal(torch.cat(teacher.heard), clean_BS)
    codes = objective.codec.encode_latents(altered.wav_BS, altered.lengths_B).codes_BT
    assert torch.equal(terms.encoding.codes_BT, codes)


def test_teacher_terms_do_not_depend_on_company_or_padding():
    objective, _ = taught({"distill_l1": 1.0, "distill_cosine": 1.0}, window_seconds=0.2)
    batch = miniature_batch((16000, 9001))
    together = objective(batch, 5)
    alone = [objective(select(batch, clip), 5) for clip in range(2)]
    padded = objective(replace(batch, wav_BS=torch.nn.functional.pad(batch.wav_BS, (0, 4000))), 5)
    for term, value in together.raw.items():
        assert torch.isclose(value, torch.stack([one.raw[term] for one in alone]).mean(), rtol=1e-4), term
        assert torch.isclose(value, padded.raw[term], rtol=1e-4), term


def test_a_teacher_trains_projection_encoder_and_the_decoder_up_to_its_layer():
    objective, teacher = taught({"distill_l1": 1.0, "distill_cosine": 1.0}, precision="bf16")
    objective(miniature_batch(), 0).total.backward()
    with_gradient = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"distillation.projection.weight", "distillation.projection.bias"} < with_gradient
    assert any(name.startswith("codec.encoder.") for name in with_gradient)
    assert any(name.startswith("codec.decoder.conformer.layers.0.") for name in with_gradient)
    assert not any(
        name.startswith(("codec.decoder.head", "codec.decoder.conformer.layer_norm")) for name in with_gradient
    )
    assert teacher.heard


def test_a_teacher_without_weight_is_not_asked(monkeypatch):
    objective, teacher = taught({"mel": 1.0})
    monkeypatch.setattr(objective.distillation, "forward", never)
    assert set(objective(miniature_batch(), 0).raw) == {"recon/mel"} and not teacher.heard


def test_twenty_steps_bring_the_decoder_nearer_to_a_random_teacher(tmp_path):
    """Codec and projection learn, the teacher does not; the codec of a control without the terms is another."""
    teacher = load_encoder(f"hubert:{miniature_teacher(tmp_path / 'hubert', 'hubert')}:1")
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    config, codecs, found = TeacherConfig("hubert"), [], []
    for weights in ({"mel": 1.0, "distill_l1": 1.0, "distill_cosine": 1.0}, {"mel": 1.0}):
        objective = objective_of(weights, teacher=config, window_seconds=0.4)
        objective.distillation = Distillation(teacher, config, 32, 1)
        optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
        for _ in range(20):
            terms = objective(miniature_batch((6400, 6400)), 0)
            found += [terms.raw["distill/l1"].item()] if "distill_l1" in weights else []
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        codecs.append(objective.codec.decoder.conformer.state_dict())
    assert len(found) == 20 and found[-1] < 0.8 * found[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert any(not torch.allclose(value, codecs[1][name]) for name, value in codecs[0].items())
