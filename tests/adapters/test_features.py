"""Teachers: each against its model called directly, frames of the codec, clips that do not depend on their company."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, WhisperFeatureExtractor

from llmcodec.adapters.features.base import SpeechEncoder, alignment
from llmcodec.adapters.features.load import load_encoder
from llmcodec.io.audio import resample

from ..miniature import miniature_teacher

SELF_SUPERVISED = ("wav2vec2", "hubert", "wavlm")
TRANSFORMERS = (*SELF_SUPERVISED, "whisper")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("teachers")
    return {kind: miniature_teacher(place / kind, kind) for kind in TRANSFORMERS}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Ruler(SpeechEncoder):
    """Features are the times of frame centres in seconds, and the frame's mean sample."""

    def __init__(self, sample_rate: int = 16000, hop_samples: int = 320):
        super().__init__(sample_rate, hop_samples, 2, torch.device("cpu"), torch.float64)
        self.heard: list[Tensor] = []

    def features_of(self, wav_BS: Tensor) -> Tensor:
        self.heard.append(wav_BS)
        frames_BUN = wav_BS.reshape(len(wav_BS), -1, self.hop_samples)
        times_U = (torch.arange(frames_BUN.shape[1]).double() + 0.5) * self.hop_samples / self.sample_rate
        return torch.stack([times_U.expand(len(wav_BS), -1), frames_BUN.mean(-1)], -1)


def test_equal_frame_rates_need_no_alignment():
    teacher, wav = Ruler(), noise(3, 1600).double()
    features = teacher(wav, torch.tensor([1600, 1281, 320]), 16000, 320, 7)
    assert features.shape == (3, 7, 2) and features.dtype == torch.float64
    for clip, (frames, length) in enumerate(((5, 1600), (5, 1281), (1, 320))):
        own = torch.nn.functional.pad(wav[clip, :length], (0, frames * 320 - length))
        assert torch.equal(features[clip, :frames, 1], own.reshape(frames, 320).mean(1)), "zeros behind the clip's end"
        assert not features[clip, frames:].any()
    assert [len(heard) for heard in teacher.heard] == [1, 2], "clips of as many frames are heard together"


@pytest.mark.parametrize(("hop", "rate"), [(640, 16000), (160, 16000), (480, 24000), (320, 24000), (200, 16000)])
def test_features_are_those_at_the_centre_of_the_codecs_frame(hop, rate):
    teacher = Ruler()
    frames = 40
    features = teacher(noise(1, frames * hop), torch.tensor([frames * hop]), rate, hop, frames)
    centres = (torch.arange(frames).double() + 0.5) * hop / rate
    inside = (centres > 0.03) & (centres < frames * hop / rate - 0.03)
    assert int(inside.sum()) > 15
    torch.testing.assert_close(features[0, inside, 0], centres[inside], atol=1e-12, rtol=0)


def test_alignment_interpolates_up_and_averages_down():
    assert torch.equal(alignment(4, 4, 1.0), torch.eye(4, dtype=torch.float64))
    up = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(alignment(4, 2, 0.5), up)
    down = alignment(3, 6, 2.0)
    expected = torch.tensor([0, 1, 3, 3, 1, 0], dtype=torch.float64) / 8
    torch.testing.assert_close(down[1], expected)
    assert torch.allclose(down.sum(1), torch.ones(3, dtype=torch.float64))


def test_another_sample_rate_is_resampled():
    teacher, wav = Ruler(), noise(2, 4800)
    features = teacher(wav, torch.tensor([4800, 4800]), 24000, 480, 10)
    for clip in range(2):
        own = torch.from_numpy(resample(wav[clip].numpy(), 24000, 16000)).double()
        torch.testing.assert_close(features[clip, :, 1], own.reshape(10, 320).mean(1))


def called_directly(kind: str, folder: Path, wav_S: Tensor, layer: int | None) -> Tensor:
    """Features (T, H) of a clip of whole frames as its authors' extractor and model give them."""
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        if kind == "whisper":
            mel = extractor(wav_S[160:].numpy(), sampling_rate=16000, return_tensors="pt").input_features
            assert mel.shape[2] == 3000
            output = model.encoder(mel, output_hidden_states=True)
            states = output.last_hidden_state if layer is None else output.hidden_states[layer]
            return states[0, : len(wav_S) // 320]
        normalised = extractor(wav_S.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        output = model(torch.nn.functional.pad(normalised, (40, 40)), output_hidden_states=True)
        return (output.last_hidden_state if layer is None else output.hidden_states[layer])[0]


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_teacher_gives_what_its_model_gives(kind, layer, folders):
    name = f"{kind}:{folders[kind]}" + ("" if layer is None else f":{layer}")
    teacher = load_encoder(name)
    assert (teacher.sample_rate, teacher.hop_samples, teacher.width) == (16000, 320, 24)
    wav = noise(2, 9600, seed=3)
    wav[1, 6400:] = 0
    features = teacher(wav, torch.tensor([9600, 6400]), 16000, 320, 30)
    assert features.shape == (2, 30, 24) and not features.requires_grad and not features[1, 20:].any()
    torch.testing.assert_close(features[0], called_directly(kind, folders[kind], wav[0], layer), atol=1e-5, rtol=1e-4)
    alone = called_directly(kind, folders[kind], wav[1, :6400], layer)
    torch.testing.assert_close(features[1, :20], alone, atol=1e-5, rtol=1e-4)
    assert features[0].std() > 1e-3


@pytest.mark.parametrize("kind", SELF_SUPERVISED)
def test_a_convolution_of_the_teacher_is_centred_on_the_codecs_frame(kind, tmp_path):
    """Frame 20 reads 40 samples more on each side than the codec's frame 20."""
    folder = miniature_teacher(tmp_path / kind, kind, feat_extract_norm="layer")  # the other norm sees the whole clip
    teacher = load_encoder(f"{kind}:{folder}:0")
    front, teacher.normalised = teacher.model.feature_extractor, False
    teacher.model = lambda wav, **_: SimpleNamespace(hidden_states=[front(wav).transpose(1, 2)])
    wav = noise(1, 12800).requires_grad_()
    with torch.enable_grad():
        teacher.features_of(wav)[0, 20].square().sum().backward()
    places = wav.grad[0].nonzero()[:, 0]
    assert (int(places[0]), int(places[-1])) == (20 * 320 - 40, 21 * 320 + 40 - 1)


def test_a_frame_of_whisper_is_centred_on_the_codecs_frame(folders):
    """A click in the middle of frame 20: what it changes is centred on frame 20, not half a frame beside it."""
    teacher = load_encoder(f"whisper:{folders['whisper']}:0")
    wav = noise(1, 12800, seed=5) * 0.01
    clicked = wav.clone()
    clicked[0, 20 * 320 + 159 : 20 * 320 + 161] += 0.5
    before, after = (teacher(one, torch.tensor([12800]), 16000, 320, 40)[0].double() for one in (wav, clicked))
    change = (after - before).norm(dim=1) ** 2
    near = change[17:24]
    centre = float((near * torch.arange(17, 24)).sum() / near.sum())
    assert abs(centre - 20) < 0.2, centre


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_clip_does_not_depend_on_its_company(kind, folders):
    teacher = load_encoder(f"{kind}:{folders[kind]}", dtype=torch.float64)
    wav = noise(3, 8000).double()
    lengths = [8000, 5001, 321]
    together = teacher(wav, torch.tensor(lengths), 16000, 320, 25)
    assert together.dtype == torch.float64
    for clip, length in enumerate(lengths):
        frames = math.ceil(length / 320)
        alone = teacher(wav[clip : clip + 1, :length], torch.tensor([length]), 16000, 320, frames)
        torch.testing.assert_close(together[clip, :frames], alone[0], atol=1e-12, rtol=0)
    again = teacher(wav, torch.tensor(lengths), 16000, 320, 25)
    assert torch.equal(again, together), "frozen, without dropout or masks"


def test_whisper_hears_shorter_windows_and_no_longer_clips(folders):
    teacher = load_encoder(f"whisper:{folders['whisper']}", padded_seconds=1.0)
    assert teacher.encoder.embed_positions.num_embeddings == 50
    wav = noise(1, 16000)
    features = teacher(wav, torch.tensor([16000]), 16000, 320, 50)
    assert features.shape == (1, 50, 24) and features.std() > 1e-3
    with pytest.raises(ValueError, match=r"a clip of 1\.02 s is longer than Whisper's window of 1 s; set window_sec"):
        teacher(noise(1, 16001), torch.tensor([16001]), 16000, 320, 51)
    with pytest.raises(ValueError, match=r"padded_seconds must be in 0\.02\.\.30 for Whisper, got 31"):
        load_encoder(f"whisper:{folders['whisper']}", padded_seconds=31)


def test_frames_of_a_long_clip_are_those_of_its_windows(folders):
    encoder = load_encoder(f"whisper:{folders['whisper']}?seconds=1")
    assert (encoder.longest_samples, encoder.frame_rate) == (16000, 50)
    wav = noise(2, 20000)
    frames = encoder.frames_of(wav)
    assert frames.shape == (2, 63, 24)
    padded = torch.nn.functional.pad(wav[:, 16000:], (0, 160))
    expected = [encoder.features_of(part) for part in (wav[:, :16000], padded)]
    torch.testing.assert_close(frames, torch.cat(expected, 1))
    other = load_encoder(f"hubert:{folders['hubert']}")
    assert other.longest_samples is None
    torch.testing.assert_close(other.frames_of(wav[:, :6400]), other.features_of(wav[:, :6400]))


def test_a_random_encoder_has_the_published_shape(monkeypatch):
    sizes = dict(num_hidden_layers=1, intermediate_size=8)
    config = transformers.HubertConfig
    monkeypatch.setattr(transformers, "HubertConfig", lambda: config(**sizes))
    state = torch.get_rng_state()
    one, again = load_encoder("hubert:random"), load_encoder("hubert:random")
    assert torch.equal(state, torch.get_rng_state()) and (one.width, one.hop_samples) == (768, 320)
    wav = noise(1, 3200)
    assert torch.equal(one.frames_of(wav), again.frames_of(wav)) and one.frames_of(wav).std() > 0.1


class FakeWhisper:
    """A CTranslate2 model whose encoder averages pairs of mel frames."""

    n_mels = 80

    def __init__(self, folder: str, **options: object):
        self.folder, self.options = folder, options

    def encode(self, mel: np.ndarray, to_cpu: bool = False) -> np.ndarray:
        assert mel.dtype == np.float32 and mel.flags.c_contiguous
        return mel.reshape(len(mel), 80, -1, 2).mean(-1).transpose(0, 2, 1)


@pytest.fixture
def fake_ctranslate2(monkeypatch):
    module = SimpleNamespace(
        StorageView=SimpleNamespace(from_array=lambda array: array), models=SimpleNamespace(Whisper=FakeWhisper)
    )
    monkeypatch.setitem(sys.modules, "ctranslate2", module)


def test_ctranslate2_encodes_whispers_spectrogram_in_windows_of_30_seconds(tmp_path, fake_ctranslate2):
    (tmp_path / "model.bin").touch()
    wav = noise(2, 9600)
    expected = WhisperFeatureExtractor()([w[160:].numpy() for w in wav], sampling_rate=16000, return_tensors="np")
    mel = expected.input_features.reshape(2, 80, 1500, 2).mean(-1).transpose(0, 2, 1)
    teacher = load_encoder(f"whisper-ct2:{tmp_path}")
    assert (teacher.width, teacher.model.options["compute_type"]) == (80, "float32")
    features = teacher(wav, torch.tensor([9600, 6400]), 16000, 320, 30)
    np.testing.assert_allclose(features[0].numpy(), mel[0, :30], atol=1e-6)
    assert not features[1, 20:].any() and features[1, :20].any()
    with torch.autocast("cpu", torch.bfloat16):  # as in training: the spectrogram stays float32
        assert torch.equal(teacher(wav, torch.tensor([9600, 6400]), 16000, 320, 30), features)
    short = load_encoder(f"whisper-ct2:{tmp_path}", padded_seconds=0.6)
    assert short.input(wav).shape == (2, 80, 60)
    with pytest.raises(ValueError, match="CTranslate2 gives the last layer only"):
        load_encoder(f"whisper-ct2:{tmp_path}:3")


def test_ctranslate2_that_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"whisper-ct2:.*has no model\.bin"):
        load_encoder(f"whisper-ct2:{tmp_path}")
    (tmp_path / "model.bin").touch()
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"the package ctranslate2 is missing: pip install ctranslate2"):
        load_encoder(f"whisper-ct2:{tmp_path}")


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")
def test_an_installed_whisper_gives_a_row_for_every_frame():
    from llmcodec.evaluation.wer import offline_model

    try:
        folder = offline_model()
    except ValueError as error:
        pytest.skip(str(error))
    teacher = load_encoder(f"whisper-ct2:{folder}", padded_seconds=2.0)
    features = teacher(noise(1, 16000), torch.tensor([16000]), 16000, 320, 50)
    assert features.shape == (1, 50, teacher.width) and torch.isfinite(features).all() and features.std() > 0.1


def damaged(folder: Path, place: Path, change) -> Path:
    """A copy of a teacher's folder with other weights."""
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    weights = load_file(place / "model.safetensors")
    change(weights)
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wavlm", "give KIND:PLACE or KIND:PLACE:LAYER, KIND one of wavlm, hubert"),
        ("beats:somewhere", "give KIND:PLACE"),
        ("hubrt:somewhere", "(near: hubert:facebook/hubert-base-ls960)"),
        ("microsoft/wavlm-large", "(near: wavlm:microsoft/wavlm-base-plus)"),
        ("clap:laion/clap", "CLAP has no frames; evaluate reconstruction --clap PLACE"),
        ("wavlm:no/such/folder", "model no/such/folder: no such folder"),
        ("hubert:nobody/nothing", "nobody/nothing: no such folder here, and the Hugging Face hub cannot be reached"),
        ("hubert:{wav2vec2}", "a model of type 'wav2vec2', not 'hubert'"),
        ("wav2vec2:{wav2vec2}:3", "no layer 3: the encoder has 2"),
        ("whisper:{whisper}:3", "no layer 3: the encoder has 2"),
    ],
)
def test_wrong_names_are_one_line(name, message, folders):
    with pytest.raises(ValueError, match="^speech encoder ") as caught:
        load_encoder(name.format(**folders))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_padding_is_whispers_alone(folders):
    with pytest.raises(ValueError, match="padded_seconds is for Whisper"):
        load_encoder(f"wavlm:{folders['wavlm']}", padded_seconds=2.0)


def test_broken_folders_are_refused(folders, tmp_path):
    source = folders["wav2vec2"]
    key = "encoder.layers.1.attention.k_proj.weight"
    lacking = damaged(source, tmp_path / "lacking", lambda weights: weights.pop(key))
    with pytest.raises(ValueError, match=f"the weights lack 1 tensors, such as {key}"):
        load_encoder(f"wav2vec2:{lacking}")
    short = damaged(source, tmp_path / "short", lambda weights: weights.update({key: weights[key][:, :7].contiguous()}))
    with pytest.raises(ValueError, match=rf"{key} is \(24, 7\), its configuration needs \(24, 24\)"):
        load_encoder(f"wav2vec2:{short}")
    nan = damaged(source, tmp_path / "nan", lambda weights: weights[key].fill_(math.nan))
    with pytest.raises(ValueError, match=f"{key} holds NaN"):
        load_encoder(f"wav2vec2:{nan}")
    unmasked = damaged(source, tmp_path / "unmasked", lambda weights: weights.pop("masked_spec_embed", None))
    load_encoder(f"wav2vec2:{unmasked}")
    (unmasked / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="^speech encoder wav2vec2"):
        load_encoder(f"wav2vec2:{unmasked}")


def test_a_teacher_that_does_not_normalise_hears_the_level(tmp_path):
    layered = miniature_teacher(tmp_path / "layered", "wavlm", feat_extract_norm="layer", conv_bias=True)
    folder = damaged(layered, tmp_path / "plain", lambda weights: None)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_normalize": False}))
    plain, levelled = load_encoder(f"wavlm:{folder}:1"), load_encoder(f"wavlm:{layered}:1")
    quiet, loud = noise(1, 6400), 4 * noise(1, 6400)
    both = [
        [teacher(wav, torch.tensor([6400]), 16000, 320, 20) for wav in (quiet, loud)] for teacher in (plain, levelled)
    ]
    assert not torch.allclose(*both[0], atol=1e-3) or not torch.equal(*both[0])
    torch.testing.assert_close(*both[1], atol=1e-3, rtol=1e-3)


def test_a_teacher_leaves_no_trace_in_the_global_generator():
    class Draws(Ruler):  # as transformers 5.17 does for layer drop, also in evaluation
        def features_of(self, wav_BS: Tensor) -> Tensor:
            return super().features_of(wav_BS) + 0 * torch.rand(())

    before = torch.get_rng_state()
    Draws()(noise(1, 640).double(), torch.tensor([640]), 16000, 320, 2)
    assert torch.equal(torch.get_rng_state(), before)
