"""k-means units: fitted, saved, loaded and measured; a changed encoder is noticed; repeats count once where asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcodec.adapters.features.kmeans import fit_codes, nearest
from llmcodec.adapters.features.load import load_encoder
from llmcodec.adapters.load import load_codec
from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.system import Corpus, MeasurementConfig, add_token_details, measure_system
from llmcodec.io.tensor_check import write_digests
from llmcodec.runtime.opening import open_runtime
from llmcodec.runtime.torch_runtime import fingerprint
from llmcodec.transcode.units import gather_frames, write_units

from ..evaluation.test_probe import TINY_LM
from ..miniature import miniature_speech, miniature_teacher

CODES = 12


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return read_manifest(miniature_speech(tmp_path_factory.mktemp("speech")))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return f"hubert:{miniature_teacher(tmp_path_factory.mktemp('encoder') / 'hubert', 'hubert')}:1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clips, encoder) -> Path:
    place = tmp_path_factory.mktemp("units") / "units"
    write_units(encoder, place, clips, num_codes=CODES)
    return place


def test_k_means_is_lloyds():
    """Written out, from the same start, after as many rounds."""
    rows_ND = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).double()
    rows_ND[::3] += 4
    codes_KD = fit_codes(rows_ND, 8, 7, torch.Generator())
    wanted_KD = rows_ND[:8].clone()
    for _ in range(7):
        own_N = (rows_ND[:, None] - wanted_KD).square().sum(-1).argmin(1)
        wanted_KD = torch.stack([rows_ND[own_N == code].mean(0) for code in range(8)])
    torch.testing.assert_close(codes_KD, wanted_KD)
    own_N = (rows_ND[:, None] - wanted_KD).square().sum(-1).argmin(1)
    assert nearest(rows_ND, codes_KD)[0].tolist() == own_N.tolist() and len(own_N.unique()) == 8


def test_units_are_the_nearest_codes_of_the_encoders_frames(folder, encoder, clips):
    codec, direct = load_codec(str(folder)), load_encoder(encoder)
    codes_KD = load_file(folder / "model.safetensors")["quantizers.0.codebook.embed"]
    wavs = [torch.from_numpy(clip.load(16_000)) for clip in clips[:3]]
    batch_BS = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    mask_BS = torch.arange(batch_BS.shape[1]) < torch.tensor([len(wav) for wav in wavs])[:, None]
    encoded = codec.encode(batch_BS[:, None], mask_BS)
    for row, wav_S in enumerate(wavs):
        frames_TD = direct.frames_of(wav_S[None])[0]
        distances_TK = (frames_TD[:, None].double() - codes_KD.double()).square().sum(-1)
        count = math.ceil(len(wav_S) / 320)
        assert encoded.audio_codes_mask[row, 0].sum() == count
        assert torch.equal(encoded.audio_codes[row, 0, :count], distances_TK.argmin(1))
        latents = codec.encode_features(batch_BS[row : row + 1, None], mask_BS[row : row + 1])
        torch.testing.assert_close(latents[0, :count], frames_TD, atol=1e-5, rtol=1e-4)
    assert (codec.sample_rate, codec.frame_rate, codec.codebook_size, codec.can_decode) == (16_000, 50, CODES, False)
    with pytest.raises(ValueError, match="Units has no decoder: its tokens can be made and measured"):
        codec.decode(encoded.audio_codes)
    with pytest.raises(ValueError, match="k-means units here has 1 codebooks: 2 cannot be used"):
        load_codec(f"{folder}:2")
    told = json.loads((folder / "config.json").read_text())
    assert (
        told["encoder"] == encoder
        and told["num_codes"] == CODES
        and not any("hubert." in key for key in codec.state_dict())
    )


def test_frames_are_drawn_evenly_by_the_seed(encoder, clips):
    from llmcodec.io.bad_rows import BadRows
    from llmcodec.transcode.pipeline import Watcher

    model = load_encoder(encoder)
    gather = lambda most, seed: gather_frames(model, clips, most, seed, BadRows(), Watcher())  # noqa: E731
    everything, some = gather(10**6, 0), gather(100, 0)
    assert len(everything) == sum(math.ceil(clip.num_samples(16_000) / 320) for clip in clips)
    assert 70 < len(some) < 130 and torch.equal(some, gather(100, 0)) and not torch.equal(some[:9], gather(100, 1)[:9])


def test_repeats_are_one_token_and_bits_are_of_real_seconds(folder, clips):
    corpus = Corpus(clips[:3], clips[3:4], clips[4:])
    config = MeasurementConfig(TINY_LM, consistency_clips=0)
    rows, lengths = {}, {}
    for name in (str(folder), f"{folder}?deduplicate"):
        with torch.enable_grad(), EncodedCorpus(load_codec(name)) as encoded:
            lengths[name] = encoded.tokens(corpus.held_out), encoded.codes(corpus.held_out)
            rows[name] = add_token_details(measure_system(name, encoded, corpus, config), encoded)
    plain, short = rows.values()
    tokens, codes = lengths[f"{folder}?deduplicate"]
    for one, codes_QT in zip(tokens, codes, strict=True):
        assert torch.equal(one, torch.unique_consecutive(codes_QT[0]))
    seconds = sum(codes_QT.shape[1] for codes_QT in codes) / 50
    assert plain.predictability.token_rate == 50
    assert short.predictability.token_rate == pytest.approx(sum(map(len, tokens)) / seconds)
    assert short.predictability.token_rate < 50
    bits = sum(clip.bits for clip in short.predictability.clips)
    assert short.predictability.bits_per_second == pytest.approx(bits / seconds)
    assert short.predictability.interval().value == pytest.approx(bits / seconds)
    assert short.codes.repeat_rate == 0 < plain.codes.repeat_rate and short.reconstruction is None
    entropy = short.predictability.token_rate * short.codes.unigram_entropy_bits
    assert short.more["entropy_bits_per_second"] == pytest.approx(entropy)
    keys = {fingerprint(load_codec(name)) for name in rows}
    assert len(keys) == 2, "kept measurements of one are not those of the other"


def test_what_is_refused(folder, encoder, clips, tmp_path):
    with pytest.raises(ValueError, match="deduplicated units have no frame rate.*leave out .deduplicate"):
        open_runtime(f"{folder}?deduplicate", "torch", "cpu")
    with pytest.raises(ValueError, match=r"\?deduplicate is for the units of `llmcodec units`"):
        load_codec("bundled?deduplicate")
    with pytest.raises(ValueError, match=r"units: \d+ frames are too few for 5000 codes; use more speech"):
        write_units(encoder, tmp_path / "many", clips, num_codes=5000)
    assert not (tmp_path / "many").exists()
    wav = torch.zeros(1, 1, 3200)
    for changed, message in (
        ({"encoder": encoder[:-1] + "2"}, r"is another encoder than the units were fitted on .* differ by"),
        ({"encoder": "hubert:owner/name"}, "names the speech encoder 'owner/name', which is not on this machine"),
        ({"width": 23}, r"model.safetensors: check_TD is \(20, 24\), the sizes of its configuration need \(20, 23\)"),
    ):
        other = tmp_path / f"other{len(list(tmp_path.iterdir()))}"
        other.mkdir()
        (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        (other / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changed))
        write_digests(other)
        with pytest.raises(ValueError, match=message):
            load_codec(str(other)).encode(wav)


def test_the_command_writes_units_that_every_command_takes(encoder, clips, tmp_path, capsys):
    manifest = Path(clips[0].folder) / "train.jsonl"
    out = tmp_path / "units"
    words = ["--manifest", str(manifest), "--codes", "8", "--rounds", "3"]
    assert main(["units", encoder, "-o", str(out), *words]) == 0
    assert "of 8 units used by" in capsys.readouterr().out
    assert main(["encode", clips[0].file.as_posix(), "--codec", str(out), "-o", str(tmp_path / "tokens")]) == 0
    assert main(["verify", str(out)]) == 0
    assert main(["units", encoder, "-o", str(out), *words]) == 1
    assert "units" in capsys.readouterr().err
    assert main(["units", "wavllm:x", "-o", str(tmp_path / "no"), *words]) == 1
    assert "near: wavlm:microsoft/wavlm-base-plus" in capsys.readouterr().err


def test_damage_is_noticed(folder, tmp_path):
    other = tmp_path / "units"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = load_file(other / "model.safetensors")
    weights["quantizers.0.codebook.embed"][0, 0] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="embed"):
        load_codec(str(other))
