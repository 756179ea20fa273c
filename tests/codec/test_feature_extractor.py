"""The feature extractor against EnCodec's, and the lines of DacModel's and MimiModel's documentation on our codec."""

import inspect
import re
import textwrap

import numpy as np
import pytest
import torch
from transformers import (
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    EncodecFeatureExtractor,
    MimiConfig,
    MimiModel,
)

from llmcodec.codec import LLMCodec, LLMCodecConfig, LLMCodecFeatureExtractor
from llmcodec.io import audio

RATE = 16000


@pytest.fixture(scope="module")
def clips():
    draw = np.random.default_rng(0)
    return [draw.uniform(-0.5, 0.5, n).astype(np.float32) for n in (1700, 640, 1)]


@pytest.fixture(scope="module")
def ours():
    return LLMCodecFeatureExtractor()


@pytest.fixture(scope="module")
def theirs():
    return EncodecFeatureExtractor(feature_size=1, sampling_rate=RATE)


@pytest.mark.parametrize("tensors", ["np", "pt"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 2000},
        {"truncation": True, "max_length": 900},
    ],
    ids=str,
)
def test_a_batch_is_what_encodec_makes_of_it(ours, theirs, clips, options, tensors):
    expected = theirs(clips, sampling_rate=RATE, return_tensors=tensors, **options)
    got = ours(raw_audio=clips, sampling_rate=RATE, return_tensors=tensors, **options)
    assert got.keys() == expected.keys() == {"input_values", "padding_mask"}
    for name in expected:
        assert got[name].dtype == expected[name].dtype and got[name].shape == expected[name].shape
        assert (got[name] == expected[name]).all()


def test_unpadded_and_single_clips(ours, theirs, clips):
    expected, got = (one(clips, padding=False, sampling_rate=RATE) for one in (theirs, ours))
    assert got.keys() == expected.keys() == {"input_values"}
    for a, b in zip(got["input_values"], expected["input_values"], strict=True):
        assert np.array_equal(a, b)
    for single in (clips[0], clips[0].tolist(), torch.from_numpy(clips[0]), clips[0].astype(np.float64)):
        batch = ours(single, sampling_rate=RATE, return_tensors="np")
        assert np.array_equal(batch["input_values"][0, 0], clips[0]) and batch["padding_mask"].all()
    listed = ours(clips, sampling_rate=RATE)
    assert isinstance(listed["input_values"], list) and listed["input_values"][0].shape == (1, 1700)
    assert ours([clips[0].tolist(), clips[1].tolist()], sampling_rate=RATE, return_tensors="pt")[
        "input_values"
    ].shape == (
        2,
        1,
        1700,
    )


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled(ours, clips, rate):
    got = ours(clips, sampling_rate=rate, return_tensors="np")
    for row, mask, clip in zip(got["input_values"], got["padding_mask"], clips, strict=True):
        expected = audio.resample(clip, rate, RATE)
        assert mask.sum() == len(expected) == audio.num_resampled(len(clip), rate, RATE)
        assert np.array_equal(row[0, : len(expected)], expected) and not row[0, len(expected) :].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"raw_audio": np.zeros((2, 100))}, r"shape \(2, 100\); give mono"),
        ({"raw_audio": [np.zeros(3), np.zeros((3, 2))]}, r"clip 1 has shape \(3, 2\)"),
        ({"raw_audio": []}, "clip 0 is empty"),
        ({"raw_audio": [np.zeros(3), np.zeros(0)]}, "clip 1 is empty"),
        ({"raw_audio": [np.zeros(2), np.array([0.0, np.nan])]}, "clip 1: sample 1 is NaN or infinite"),
        ({"raw_audio": np.zeros(3, np.int64)}, "must be floats .* got int64"),
        ({"raw_audio": torch.ones(3, dtype=torch.bool)}, "must be floats .* got bool"),
        ({"raw_audio": np.zeros(3), "sampling_rate": 16}, "cannot be right"),
        ({"raw_audio": np.zeros(3), "padding": "left"}, "padding must be one of"),
        ({"raw_audio": np.zeros(3), "truncation": True}, "need max_length"),
        ({"raw_audio": np.zeros(3), "truncation": True, "max_length": -1}, "max_length must be at least 1 sample"),
    ],
)
def test_bad_input_is_one_line(ours, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ours(**({"sampling_rate": RATE} | arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [RATE, 8000])
def test_integers_are_scaled_by_their_full_range(ours, rate):
    wav = np.array([-32768, 0, 16384, 8192] * 50, np.int16)
    expected = ours(wav / np.float32(32768), sampling_rate=rate, return_tensors="np")["input_values"]
    for given in (wav, torch.from_numpy(wav), wav.astype(np.int32) << 16, ((wav >> 8) + 128).astype(np.uint8)):
        assert np.array_equal(ours(given, sampling_rate=rate, return_tensors="np")["input_values"], expected)
    assert expected.min() < -0.5 and (rate != RATE or expected[0, 0, :4].tolist() == [-1, 0, 0.5, 0.25])


def test_stereo_is_refused_when_made():
    with pytest.raises(ValueError, match="feature_size must be 1"):
        LLMCodecFeatureExtractor(feature_size=2)


# -- the lines of the documentation ------------------------------------------------------------------------------------
def codec() -> LLMCodec:
    torch.manual_seed(0)
    return LLMCodec(
        LLMCodecConfig(hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=64)
    ).eval()


def dac() -> DacModel:
    torch.manual_seed(0)
    return DacModel(
        DacConfig(
            encoder_hidden_size=8,
            downsampling_ratios=[4, 4],
            decoder_hidden_size=16,
            upsampling_ratios=[4, 4],
            n_codebooks=1,
            codebook_size=64,
            codebook_dim=4,
        )
    ).eval()


def mimi() -> MimiModel:
    torch.manual_seed(0)
    config = MimiConfig(
        hidden_size=16,
        num_filters=4,
        num_residual_layers=1,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        codebook_size=32,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=2,
        num_semantic_quantizers=1,
        upsample_groups=16,
        sampling_rate=RATE,
    )
    return MimiModel(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    codec().save_pretrained(place / "LLMCodec")
    dac().save_pretrained(place / "DacModel")
    DacFeatureExtractor(sampling_rate=RATE, hop_length=16).save_pretrained(place / "DacModel")
    mimi().save_pretrained(place / "MimiModel")
    EncodecFeatureExtractor(feature_size=1, sampling_rate=RATE).save_pretrained(place / "MimiModel")
    return place


def documented(model: type) -> str:
    """The example in the docstring of `forward`, without the lines that fetch a data set from the hub."""
    lines = re.findall(r"^\s*>>> (.*)$", inspect.getdoc(model.forward) or "", re.MULTILINE)
    assert len(lines) >= 8, "transformers has an example here"
    return "\n".join(line for line in lines if not re.search(r"dataset|librispeech_dummy", line))


# From the page of Mimi in transformers' documentation, from the loaded audio on.
MIMI_PAGE = """
from transformers import MimiModel, AutoFeatureExtractor
model = MimiModel.from_pretrained("kyutai/mimi")
feature_extractor = AutoFeatureExtractor.from_pretrained("kyutai/mimi")
inputs = feature_extractor(raw_audio=audio_sample, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
encoder_outputs = model.encode(inputs["input_values"], inputs["padding_mask"])
audio_codes = encoder_outputs.audio_codes
audio_values = model.decode(encoder_outputs.audio_codes, inputs["padding_mask"])[0]
# or the equivalent with a forward pass
audio_values = model(inputs["input_values"], inputs["padding_mask"]).audio_values
"""


def run(lines: str, name: str, folders) -> dict:
    """Run documentation lines with the hub id changed, and for our codec the model's name too."""
    lines = re.sub(r'"(kyutai/mimi|descript/dac_16khz)"', repr(str(folders / name)), lines)
    if name == "LLMCodec":
        lines = re.sub(r"\b(DacModel|MimiModel)\b", "LLMCodec", lines)
        lines = lines.replace(
            "from transformers import LLMCodec, ", "from llmcodec import LLMCodec\nfrom transformers import "
        )
        lines = lines.replace(", LLMCodec\n", "\nfrom llmcodec import LLMCodec\n")
    names: dict = {"audio_sample": 0.1 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)}
    exec(textwrap.dedent(lines), names)
    return names


@pytest.mark.parametrize(
    ("model", "lines"),
    [("DacModel", documented(DacModel)), ("MimiModel", documented(MimiModel)), ("MimiModel", MIMI_PAGE)],
    ids=["dac", "mimi", "mimi-page"],
)
def test_documented_lines_run_with_the_name_changed(folders, model, lines):
    expected, got = run(lines, model, folders), run(lines, "LLMCodec", folders)
    assert type(got["model"]) is LLMCodec
    made = {name for name in expected if name not in ("__builtins__", model, "dataset")}
    assert made <= set(got) | {model}
    assert got["audio_codes"].shape == (1, 1, 50) and got["audio_codes"].ndim == expected["audio_codes"].ndim
    assert got["audio_codes"].dtype == expected["audio_codes"].dtype == torch.int64
    assert got["audio_values"].shape == (1, 1, RATE)
    # DacModel alone drops the channel; MimiModel keeps it, and so do we.
    assert expected["audio_values"].shape == ((1, RATE) if model == "DacModel" else (1, 1, RATE))
    assert got["audio_values"].dtype == expected["audio_values"].dtype


def test_quantized_representation_decodes_to_what_its_codes_decode_to(folders):
    names = run(documented(DacModel), "LLMCodec", folders)
    model, outputs = names["model"], names["encoder_outputs"]
    assert outputs.quantized_representation.shape == (1, 32, 50)
    by_codes = model.decode(outputs.audio_codes).audio_values
    for by_latent in (
        model.decode(outputs.quantized_representation).audio_values,
        model.decode(quantized_representation=outputs.quantized_representation).audio_values,
    ):
        torch.testing.assert_close(by_latent, by_codes, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"quantized_representation must be \(batch, 32, frames\); got \(1, 50, 32\)"):
        model.decode(outputs.quantized_representation.transpose(1, 2))
    with pytest.raises(ValueError, match="give audio_codes or quantized_representation"):
        model.decode()


def test_tuples_are_in_mimis_order():
    wav = 0.1 * torch.randn(2, 1, 1920, generator=torch.Generator().manual_seed(0))
    ours, theirs = codec(), mimi()
    for model in (ours, theirs):
        outputs, plain = model(wav), model(wav, return_dict=False)
        assert isinstance(plain, tuple)
        assert torch.equal(plain[0], outputs.audio_codes) and torch.equal(plain[1], outputs.audio_values)
        assert torch.equal(outputs[0], outputs.audio_codes)
        encoded, decoded = model.encode(wav, return_dict=False), model.decode(outputs.audio_codes, return_dict=False)
        assert torch.equal(encoded[0], outputs.audio_codes) and isinstance(decoded, tuple)
        assert decoded[0].shape[:2] == (2, 1)
    ours.config.return_dict = False
    assert isinstance(ours(wav), tuple) and isinstance(ours.encode(wav), tuple)


@pytest.mark.parametrize("given", [None, "np", "pt"])
@pytest.mark.parametrize("padding", [True, False])
def test_pad_makes_one_batch_of_what_it_gave(ours, given, padding):
    clips = [np.linspace(-0.5, 0.5, samples, dtype=np.float32) for samples in (1000, 700, 321)]
    expected = ours(clips, sampling_rate=16000, return_tensors="np")
    outputs = [ours(clip, sampling_rate=16000, padding=padding, return_tensors=given) for clip in clips]
    single = [{name: value[0] for name, value in output.items()} for output in outputs]  # as a data set's rows
    pairs = [ours(clips[:2], sampling_rate=16000), outputs[2]]
    raw = [{"input_values": clip} for clip in clips]
    for features in (outputs, single, pairs, raw, ours(clips, sampling_rate=16000, padding=padding)):
        padded = ours.pad(features, return_tensors="np")
        assert padded.keys() == expected.keys()
        assert all(np.array_equal(padded[name], expected[name]) for name in expected)
    wide = ours.pad(outputs, "max_length", 1500, pad_to_multiple_of=320, return_tensors="pt")
    assert wide["input_values"].shape == (3, 1, 1600) and wide["padding_mask"].sum(-1).tolist() == [1000, 700, 321]
    short = ours.pad(outputs, max_length=500, truncation=True, return_attention_mask=False, return_tensors="np")
    assert short["input_values"].shape == (3, 1, 500) and "padding_mask" not in short


def test_flat_clips_in_one_dict_are_padded_as_in_transformers(ours):
    padded = ours.pad({"input_values": [[0.1] * 5, [0.2] * 3]}, return_tensors="np")
    assert padded["input_values"].shape == (2, 5) and padded["attention_mask"].tolist() == [[1] * 5, [1] * 3 + [0] * 2]


def test_pad_says_what_it_takes(ours):
    for features, message in (
        ([np.zeros(5)], "pad takes what a call returned"),
        ([{"input_features": np.zeros(5)}], "pad takes what a call returned"),
        ([{"input_values": np.zeros(5), "padding_mask": np.ones(4)}], "padding_mask does not fit input_values"),
        ([{"input_values": np.zeros(0)}], "clip 0 is empty"),
        ([], "nothing to pad"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            ours.pad(features)
        assert "\n" not in str(error.value)
