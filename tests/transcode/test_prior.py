"""`llmcodec prior` and codecs called `search:FOLDER`."""

import json
import re

import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.assets import speech_manifest
from llmcodec.cli.main import main
from llmcodec.codec import LLMCodec
from llmcodec.codec.landmarks import find_landmarks
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.token_prior import PRIOR_FILE, BigramPrior, CountedClip, FoldedPrior
from llmcodec.data.manifest import Clip, read_manifest, write_manifest
from llmcodec.experiments.verification import verify
from llmcodec.io import audio
from llmcodec.io.token_shards import open_token_shards
from llmcodec.runtime.torch_runtime import TorchRuntime
from llmcodec.transcode.prior import count_prior, write_prior


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    clips = read_manifest(speech_manifest("valid"))[:3]
    path = tmp_path_factory.mktemp("speech") / "manifest.jsonl"
    rows = [{"id": clip.id, "audio": str(clip.path), "duration": clip.duration, "split": "train"} for clip in clips]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prior_writes_a_codec_that_searches(manifest, tmp_path, capsys):
    out = tmp_path / "searched"
    main(["prior", "bundled", "-o", str(out), "--manifest", str(manifest)])
    assert f"search:{out}" in capsys.readouterr().out
    card = (out / "README.md").read_text()  # found by `make soak`: it named the temporary folder
    assert "--codec searched" in card and ".tmp" not in card
    plain, searching = load_codec(str(out)), load_codec(f"search@0.25:{out}")
    assert isinstance(plain, LLMCodec) and isinstance(searching, SearchingCodec)
    assert searching.config.weight == 0.25 and load_codec(f"search:{out}").config.weight == 0.1
    tokens = []
    for clip in read_manifest(manifest):
        wav = torch.from_numpy(audio.load(clip.path, 16_000))[None, None]
        tokens.append(plain.encode(wav).audio_codes[0, 0])
    wanted = BigramPrior.fit(tokens, plain.codebook_size)
    found = searching.prior.pooled
    assert torch.equal(found.keys_G, wanted.keys_G) and torch.equal(found.counts_G, wanted.counts_G)
    assert not [finding for finding in verify(out) if finding.is_damaged]
    assert set(load_codec(f"search:{out}?lm").prior.tensors) > {"embedding_VH"}  # the small LM came along


def test_a_second_round_searches_every_fold_by_its_own_counts():
    """Written out by hand: what a fold contributes does not depend on the clips of another one."""
    model = load_codec("bundled")
    clips = sorted(read_manifest(speech_manifest("valid")), key=lambda clip: clip.duration)[:5]
    first = count_prior(model, clips, folds=2)
    wanted = []
    for fold in range(2):
        members = clips[fold::2]
        wavs = [audio.load(clip.path, 16_000) for clip in members]
        codes = [model.encode(torch.from_numpy(wav)[None, None]).audio_codes[0, 0] for wav in wavs]
        counted = [
            CountedClip(clip.id, find_landmarks(wav), one) for clip, wav, one in zip(members, wavs, codes, strict=True)
        ]
        searching = SearchingCodec(model, FoldedPrior.fit(counted, model.codebook_size, len(members)))
        wanted.append([searching.encode(torch.from_numpy(wav)[None, None]).audio_codes[0, 0] for wav in wavs])
    found = count_prior(model, clips, folds=2, rounds=2)
    assert found.ids == first.ids and not torch.equal(found.pooled.keys_G, first.pooled.keys_G)
    for fold in range(2):
        other = found.without((1 - fold,))
        by_hand = BigramPrior.fit(wanted[fold], model.codebook_size)
        kept = other.counts_G > 0
        assert torch.equal(other.keys_G[kept], by_hand.keys_G) and torch.equal(other.counts_G[kept], by_hand.counts_G)


def test_no_round_is_refused(manifest, tmp_path, capsys):
    assert main(["prior", "bundled", "-o", str(tmp_path / "x"), "--manifest", str(manifest), "--rounds", "0"]) == 1
    assert "rounds must be at least 1, got 0" in capsys.readouterr().err


def test_a_folder_in_use_and_a_device_that_is_not_there_are_refused_before_anything_is_encoded(
    manifest, tmp_path, capsys, monkeypatch
):
    monkeypatch.delattr(TorchRuntime, "encode_batch")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "work.txt").touch()
    for arguments, said in ((["used"], "is not empty"), (["new", "--device", "cuda:99"], "'cuda:99' is not there")):
        arguments[0] = str(tmp_path / arguments[0])
        assert main(["prior", "bundled", "-o", *arguments, "--manifest", str(manifest)]) == 1
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "work.txt"]


def test_a_clip_that_cannot_be_read_is_named_and_not_counted(manifest, tmp_path, capsys):
    clips = read_manifest(manifest)[:1]
    (tmp_path / "bad.wav").write_text("no audio")
    bad = Clip("bad", str(tmp_path / "bad.wav"), 1.0, split="train")
    write_manifest(tmp_path / "m.jsonl", [bad, *clips])
    arguments = ["prior", "bundled", "-o", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--manifest", str(tmp_path / "m.jsonl")]
    assert main(arguments) == 1 and not (tmp_path / "out").exists()
    assert "bad.wav: not an audio file that can be read" in capsys.readouterr().err
    arguments += ["--max-bad", "1"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert re.search(r"left out: bad: .*not an audio file", shown) and "1 clips could not be read" in shown
    assert "pairs of codes from 1 clips" in shown and (tmp_path / "out" / PRIOR_FILE).is_file()
    write_manifest(tmp_path / "m.jsonl", [bad])
    arguments[3] = str(tmp_path / "none")
    assert main(arguments) == 1
    assert "none of 1 clips could be read; the first: bad: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_tokens_of_a_search_are_decoded_by_the_plain_codec(manifest, tmp_path, capsys):
    source = str(read_manifest(manifest)[0].path)
    tokens, wav = tmp_path / "clip.safetensors", tmp_path / "clip.wav"
    main(["encode", source, "-o", str(tokens), "--codec", "search:bundled"])
    main(["decode", str(tokens), "-o", str(wav)])
    assert audio.info(wav).num_frames == len(audio.load(source, 16_000))


def test_wrong_places(tmp_path):
    load_codec("bundled").save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=f"no {PRIOR_FILE}.*llmcodec prior"):
        load_codec(f"search:{tmp_path / 'bare'}")
    with pytest.raises(ValueError, match="only llmcodec's own"):
        load_codec("search:random:encodec_24khz")
    with pytest.raises(ValueError, match="only codecs of llmcodec itself"):
        write_prior("random:encodec_24khz", str(tmp_path / "out"), [])


def test_tokenize_searches_a_counted_clip_by_others_and_names_one_that_sounds_different(manifest, tmp_path, capsys):
    """Views begin later than the clip that was counted, and are known all the same."""
    main(["prior", "bundled", "-o", str(tmp_path / "searched"), "--manifest", str(manifest), "--folds", "2"])
    clips = read_manifest(manifest)
    wav, rate = clips[0].read()
    audio.write(tmp_path / "louder.wav", 1.1 * wav, rate)
    altered = Clip(clips[0].id, str(tmp_path / "louder.wav"), clips[0].duration, split="train")
    write_manifest(tmp_path / "m.jsonl", [altered, clips[1]])
    arguments = ["--codec", f"search:{tmp_path / 'searched'}", "--manifest", str(tmp_path / "m.jsonl"), "--views", "2"]
    capsys.readouterr()
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens")]) == 0
    said = capsys.readouterr().out
    assert f"1 clips have ids that the codec's prior has counted with other audio (the first: {clips[0].id!r})" in said
    rows = {row.id: row.codes[0, 0] for row in open_token_shards(tmp_path / "tokens" / "train")[1]}
    searching = load_codec(f"search:{tmp_path / 'searched'}")
    prior, wav_S = searching.prior, audio.load(clips[1].path, 16_000)
    for start in (0, 160):
        searching.prior = prior.without((1,))  # the second clip is in the second fold
        found = searching.encode(torch.from_numpy(wav_S[start:])[None, None]).audio_codes[0, 0]
        name = f"{clips[1].id}#{start}" if start else clips[1].id
        assert rows[name].tolist() == found.tolist()
