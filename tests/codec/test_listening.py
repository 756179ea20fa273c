"""One line in Python: load, encode_file, reconstruct, and what a notebook shows."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch

import llmcodec
from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.coded_audio import CodedAudio, token_strip
from llmcodec.lm.small_lm_scorer import load_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.runtime.torch_runtime import TorchRuntime

from .small import RATE, noise, small_codec


@pytest.fixture(scope="module")
def bundled() -> LLMCodec:
    return llmcodec.load("bundled")


@pytest.fixture
def speech(tmp_path):
    wav = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    soundfile.write(tmp_path / "a <b>.wav", wav, 8000)
    return tmp_path / "a <b>.wav"


def test_load_and_from_pretrained_know_the_bundled_codec(bundled):
    assert isinstance(bundled, LLMCodec) and not bundled.training
    by_name, by_folder = LLMCodec.from_pretrained("bundled"), LLMCodec.from_pretrained(assets.codec_folder())
    for one in (bundled, by_name):
        assert all(torch.equal(v, by_folder.state_dict()[k]) for k, v in one.state_dict().items())
    assert llmcodec.load is load_codec
    assert type(llmcodec.load("search:bundled")).__name__ == "SearchingCodec"
    with pytest.raises(ValueError, match="no such"):
        llmcodec.load("./nowhere")


def test_a_folder_called_bundled_comes_first(tmp_path, monkeypatch):
    small_codec(torch.float32).save_pretrained(tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    assert LLMCodec.from_pretrained("bundled").sample_rate == RATE


def test_importing_stays_light():
    code = "import sys, llmcodec; dir(llmcodec); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_and_its_samples_give_what_encode_and_decode_give(bundled, speech):
    wav, rate = soundfile.read(speech, dtype="float32")
    with torch.no_grad():
        resampled = torch.from_numpy(llmcodec.codec.listening.audio.load(speech, 16000))
        codes = bundled.encode(resampled[None, None]).audio_codes
        decoded = bundled.decode(codes, length=16000).audio_values[0, 0]
    tokens, heard = bundled.encode_file(speech), bundled.reconstruct(speech)
    by_samples = bundled.reconstruct(wav, sample_rate=rate)
    assert tokens.audio is None and tokens.codes.shape == (1, 50)
    for one in (tokens, heard, by_samples):
        assert np.array_equal(one.codes, codes[0].numpy()) and one.seconds == 1 and one.sample_rate == 16000
    for one in (heard, by_samples, bundled.reconstruct(torch.from_numpy(wav), 8000)):
        assert np.array_equal(one.audio, decoded.numpy())
    assert torch.equal(bundled.decode(tokens.codes[None]).audio_values, bundled.decode(codes).audio_values)
    assert repr(tokens) == "CodedAudio(a <b>.wav: 1.00 s, 50 tokens)"
    assert tokens.bits_per_second == 650


def test_what_samples_come_as(bundled):
    wav = (0.1 * np.random.default_rng(0).standard_normal(3200)).astype(np.float32)
    codes = bundled.reconstruct(wav).codes
    for one in (wav[None], wav[:, None], torch.from_numpy(wav)[None, None], wav.tolist()):  # (1, S): torchaudio's shape
        assert np.array_equal(bundled.reconstruct(one).codes, codes)
    half = torch.from_numpy(wav).bfloat16()
    assert np.array_equal(bundled.reconstruct(half).codes, bundled.reconstruct(half.float().numpy()).codes)
    mistakes = {
        r"samples.mean\(1\)": lambda: bundled.reconstruct(np.stack([wav, wav], 1)),
        r"samples.mean\(0\)": lambda: bundled.reconstruct(np.stack([wav, wav])),
        "call it for each": lambda: bundled.reconstruct([wav, wav[:900]]),
        "sample_rate 16k Hz cannot be right": lambda: bundled.reconstruct(wav, "16k"),
        "encode_file takes the path": lambda: bundled.encode_file(wav),
        r"got text; encode_file\(path\)": lambda: bundled.encode("speech.wav"),
        r"one clip is samples\[None, None\]": lambda: bundled.encode(wav),
        r"one clip is codes\[None\]": lambda: bundled.decode(codes),
        r"the codec's feature_extractor\(\) does both": lambda: bundled.encode([[wav], [wav[:900]]]),
        "load: name a codec .* not None": lambda: llmcodec.load(None),
    }
    for message, call in mistakes.items():
        with pytest.raises(ValueError, match=message):
            call()
    for call in (
        bundled.reconstruct,
        lambda clip: bundled.feature_extractor()(clip, sampling_rate=16000),
        lambda clip: bundled.encode(clip[None, None]),
        lambda clip: bundled.encode(torch.from_numpy(clip)[None, None]),
        lambda clip: bundled.streaming().encode(clip),
        lambda clip: TorchRuntime(bundled, "bundled").encode_batch([clip]),
    ):
        with pytest.warns(UserWarning, match=r"reach beyond 100, but floats are taken to be in \[-1, 1\]"):
            call(wav * 32768)


def test_every_codec_is_one_line_to_look_at(bundled):
    searching, mimi = repr(llmcodec.load("search:bundled")), repr(llmcodec.load("random:mimi"))
    assert searching == f"SearchingCodec({bundled!r}, weight 0.1, effort thorough)"
    assert mimi == "MimiCodec(24,000 Hz, 12.5 frames/s of 8 x 2,048 codes, 1100 bit/s, on cpu)"
    assert re.fullmatch(r"CodecStream\([\d.]+ s behind in encode, [\d.]+ s in decode\)", repr(bundled.streaming()))


def test_surprisal_is_that_of_the_small_lm_beside_the_codec(bundled, speech, tmp_path):
    heard = bundled.encode_file(speech)
    scorer = load_scorer(assets.codec_folder() / "audio_lm.safetensors", LikelihoodConfig().max_tokens(50))
    (nats,) = scorer.token_log_likelihoods([torch.from_numpy(heard.codes[0])])
    bits = llmcodec.surprisal(heard)
    assert bits.shape == (1, 50) and np.allclose(bits[0], -nats.numpy() / np.log(2))
    assert np.array_equal(llmcodec.surprisal(heard.codes, "search:bundled"), bits)
    with pytest.raises(ValueError, match="2 codebooks; bundled is for codes of 1"):
        llmcodec.surprisal(np.zeros((2, 4), np.int64))
    small_codec(torch.float32).save_pretrained(tmp_path / "alone")
    for codes, lm, message in (
        (heard.codes[0], "bundled", r"integers \(codebooks, frames\), got int64 \(50,\)"),
        (heard.codes + 8192, "bundled", r"is outside \[0, 8192\) of bundled; another codec's tokens"),
        (heard, str(tmp_path / "alone"), "has no audio_lm.safetensors beside it"),
        (llmcodec.load("causal_base").encode_file(speech), "bundled", "of another codec than bundled"),
        (replace(heard, codebook=""), "bundled", "of another codec than bundled"),  # of others
        (
            llmcodec.load("causal_base").encode_file(speech),
            str(assets.lm_folder()),
            "of another codec than",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            llmcodec.surprisal(codes, lm)


def test_other_codecs_have_the_same_lines(speech):
    for name in ("search:bundled", "random:encodec_24khz"):
        codec = llmcodec.load(name)
        heard = codec.reconstruct(speech)
        assert heard.codes.shape[0] == codec.num_codebooks and len(heard.audio) == len(heard.original)


def test_long_recordings_go_piece_by_piece_with_the_tokens_of_the_whole(monkeypatch):
    codec, wav = small_codec(), noise(RATE * 70).float().numpy()
    codec.float()
    shown = []
    monkeypatch.setattr("llmcodec.codec.listening.ProgressBar.update", lambda bar, done: shown.append(done))
    heard = codec.reconstruct(wav)
    assert shown == sorted(shown) and len(shown) > 4 and shown[-1] == pytest.approx(140)
    whole = codec.encode(torch.from_numpy(wav)[None, None]).audio_codes
    assert (heard.codes == whole[0].numpy()).mean() > 0.999
    again = codec.decode(heard.codes[None], length=len(wav)).audio_values[0, 0].numpy()
    np.testing.assert_allclose(heard.audio, again, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode_file("nowhere.wav"), "nowhere.wav"),
        (lambda c: c.reconstruct(np.zeros(0, np.float32)), "no samples"),
        (lambda c: c.reconstruct(np.array([0.0, np.nan], np.float32)), "sample 1 is NaN"),
        (lambda c: c.reconstruct(np.zeros((2, 400), np.float32)), "samples"),
        (lambda c: c.reconstruct(np.zeros(400, np.float32), 3), "3 Hz"),
        (lambda c: c.reconstruct("a.wav", 8000), "own sample rate"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(small_codec(torch.float32))
    assert "\n" not in str(error.value)


def test_a_codec_in_training_is_refused():
    with pytest.raises(ValueError, match="eval"):
        small_codec(torch.float32).train().reconstruct(noise(400).numpy())


def test_saving_writes_the_decoded_samples(tmp_path):
    heard = small_codec(torch.float32).reconstruct(noise(4000).numpy())
    heard.save(tmp_path / "again.wav")
    wav, rate = soundfile.read(tmp_path / "again.wav")
    assert rate == RATE and np.abs(wav - heard.audio).max() < 2 / 32768
    with pytest.raises(ValueError, match="nothing was decoded"):
        CodedAudio(heard.codes, heard.original, RATE, 64).save(tmp_path / "x.wav")


class Page(HTMLParser):
    """Open tags, and what refers to the outside."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.places, self.sounds = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                self.places.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_notebook_shows_players_and_tokens_in_one_piece(bundled, speech):
    heard = bundled.reconstruct(speech)
    html = heard._repr_html_()
    page = Page(html)
    assert page.open == [] and "<b>a &lt;b&gt;.wav</b>" in html and "650 bit/s" in html
    sounds = [base64.b64decode(place.removeprefix("data:audio/wav;base64,")) for place in page.places]
    for sound, samples in zip(sounds, (heard.original, heard.audio), strict=True):
        wav, rate = soundfile.read(io.BytesIO(sound))
        assert rate == 16000 and np.abs(wav - samples.clip(-1, 1)).max() < 2 / 32768
    assert len(re.findall("<title>", html)) == 1 + int((np.diff(heard.codes[0]) != 0).sum())
    assert "<script" not in html and len(Page(bundled.encode_file(speech)._repr_html_()).places) == 1


def test_the_strip_joins_repeats_and_keeps_rows_apart():
    strip = token_strip(np.array([[7, 7, 7, 3], [1, 2, 2, 2]]))
    assert re.findall(r'x="(\d+)" y="(\d+)" width="(\d+)"', strip) == [
        ("0", "0", "3"),
        ("3", "0", "1"),
        ("0", "18", "1"),
        ("1", "18", "3"),
    ]
    assert "<title>frame 0 to 2: 7</title>" in strip and "<title>frame 3: 3</title>" in strip


def test_long_recordings_are_cut_for_display():
    long = CodedAudio(np.zeros((1, 5000), np.int64), np.zeros(100 * 400, np.float32), 400, 64)
    html = long._repr_html_()
    assert "the first 60 s are shown" in html and 'width="3000"' in html


def test_repr_is_one_line(bundled):
    assert repr(bundled).startswith("LLMCodec(16,000 Hz, 50 tokens/s of 8,192, 650 bit/s, ") and "\n" not in repr(
        bundled
    )
