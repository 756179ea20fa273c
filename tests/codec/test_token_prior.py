"""Priors that know their clips: what is left out for whom, the file, and the promise that they are for."""

import warnings

import numpy as np
import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.assets import speech_manifest
from llmcodec.codec.landmarks import find_landmarks
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.token_prior import OLD_FORMAT, PRIOR_FILE, BigramPrior, CountedClip, FoldedPrior, load_prior
from llmcodec.codec.token_prior import codebook_hash as hash_of
from llmcodec.data.manifest import read_manifest
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.io.tensor_check import DIGESTS
from llmcodec.io.tensor_file import read_arrays, write_arrays
from llmcodec.runtime.torch_runtime import fingerprint
from llmcodec.transcode.prior import count_prior

from .small import small_codec

CLIPS, FOLDS = 7, 3


@pytest.fixture(scope="module")
def recordings():
    return [np.random.default_rng(seed).normal(0, 0.1, 30_000).astype(np.float32) for seed in range(CLIPS + 1)]


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 64, (length,), generator=generator) for length in (40, 3, 1, 90, 25, 0, 60)]


@pytest.fixture
def prior(recordings, tokens):
    clips = [CountedClip(f"clip {i}", find_landmarks(recordings[i]), tokens[i]) for i in range(CLIPS)]
    return FoldedPrior.fit(clips, 64, FOLDS)


def assert_equal(found, wanted):
    counted = found.counts_G > 0
    assert torch.equal(found.keys_G[counted], wanted.keys_G) and torch.equal(found.counts_G[counted], wanted.counts_G)
    before, code = torch.arange(-1, 64)[:, None], torch.arange(64)[None]
    assert torch.equal(found.nats(before, code), wanted.nats(before, code))


def test_a_clip_is_left_out_with_its_fold_and_others_get_everything(prior, recordings, tokens):
    for clip in range(CLIPS):
        others = [tokens[i] for i in range(CLIPS) if i % FOLDS != clip % FOLDS]
        for part_S in (recordings[clip], recordings[clip][97:], recordings[clip][:-5000]):
            assert_equal(prior.leave_out(torch.from_numpy(part_S)), BigramPrior.fit(others, 64))
    everything = BigramPrior.fit(tokens, 64)
    assert_equal(prior.leave_out(torch.from_numpy(recordings[CLIPS])), everything)
    assert_equal(prior.leave_out(torch.zeros(9000)), everything)
    assert_equal(prior.pooled, everything)
    places, trials = torch.tensor([0, 2]), torch.tensor([[1, 5], [7, 7]])
    assert torch.equal(prior.trial_nats(tokens[1], places, trials), everything.trial_nats(tokens[1], places, trials))


def test_a_recording_of_clips_of_several_folds_leaves_all_of_these_out(prior, recordings, tokens):
    joined = torch.from_numpy(np.concatenate([recordings[0], recordings[4]]))
    assert prior.folds_of(joined.numpy()) == (0, 1)
    assert_equal(prior.leave_out(joined), BigramPrior.fit([tokens[2], tokens[5]], 64))
    nothing = prior.leave_out(torch.from_numpy(np.concatenate(recordings)))
    assert torch.allclose(nothing.nats(torch.tensor([-1, 3]), torch.tensor([5, 5])), torch.tensor(64.0).log())


def test_the_same_sound_in_two_folds_is_left_out_of_both(recordings, tokens):
    twice = [CountedClip(str(i), find_landmarks(recordings[0]), codes) for i, codes in enumerate(tokens[:3])]
    assert FoldedPrior.fit(twice, 64, 3).folds_of(recordings[0]) == (0, 1, 2)


@pytest.mark.parametrize("folds", [1, 0, 256])
def test_folds_are_two_to_255(folds):
    with pytest.raises(ValueError, match="folds must be 2 to 255"):
        FoldedPrior.fit([CountedClip("a", np.zeros(0, np.int64), torch.tensor([1, 2]))], 64, folds)


def test_the_file_says_which_clips_were_counted_and_comes_back(prior, recordings, tmp_path):
    codec, path = small_codec(), tmp_path / PRIOR_FILE
    prior.save(path, codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_prior(path, codec)
    assert again.ids == tuple(f"clip {i}" for i in range(CLIPS)) and again.folds == FOLDS
    for clip in range(CLIPS):
        wav_S = torch.from_numpy(recordings[clip])
        assert_equal(again.leave_out(wav_S), kept(prior.leave_out(wav_S)))
    assert again.state_dict().keys() == prior.state_dict().keys()
    assert all(torch.equal(value, prior.state_dict()[name]) for name, value in again.state_dict().items())


def kept(prior):
    counted = prior.counts_G > 0
    return BigramPrior(prior.keys_G[counted], prior.counts_G[counted], prior.unigram_V)


def test_a_prior_of_another_codec_and_a_damaged_file_are_refused(prior, tmp_path):
    codec, path = small_codec(), tmp_path / PRIOR_FILE
    prior.save(path, codec)
    (tmp_path / DIGESTS).unlink()
    arrays, metadata = read_arrays(path, 1 << 20)
    with pytest.raises(ValueError, match="another codec"):
        load_prior(path, load_codec("bundled"))
    wrong = {"keys": arrays["keys"][::-1].copy(), "folds": arrays["folds"] + 3, "counts": arrays["counts"] * 0}
    wrong |= {"unigram": arrays["unigram"][:, 1:].copy(), "landmark_folds": arrays["landmark_folds"][1:].copy()}
    wrong |= {"landmarks": arrays["landmarks"][::-1].copy(), "ids": np.frombuffer(b"{}", np.uint8)}
    for name, array in wrong.items():
        write_arrays(path, arrays | {name: array}, metadata)
        with pytest.raises(ValueError, match=f"{PRIOR_FILE}: damaged"):
            load_prior(path, codec)
    write_arrays(path, {name: array for name, array in arrays.items() if name != "ids"}, metadata)
    with pytest.raises(ValueError, match="damaged"):
        load_prior(path, codec)
    write_arrays(path, arrays, metadata | {"format": "something"})
    with pytest.raises(ValueError, match="not a token prior"):
        load_prior(path, codec)


def test_an_old_file_loads_and_says_that_it_does_not_know_its_clips(tokens, recordings, tmp_path):
    codec, path, counted = small_codec(), tmp_path / PRIOR_FILE, BigramPrior.fit(tokens, 64)
    arrays = {"keys": counted.keys_G.int(), "counts": counted.counts_G.int(), "unigram": counted.unigram_V}
    arrays = {name: tensor.numpy() for name, tensor in arrays.items()}
    write_arrays(path, arrays, {"format": OLD_FORMAT, "codebook": hash_of(codec)})
    with pytest.warns(UserWarning, match="does not know the clips it counted.*llmcodec prior"):
        old = load_prior(path, codec)
    assert_equal(old.leave_out(torch.from_numpy(recordings[0])), counted)
    write_arrays(path, arrays | {"unigram": arrays["unigram"][1:]}, {"format": OLD_FORMAT, "codebook": hash_of(codec)})
    with pytest.raises(ValueError, match="damaged"):
        load_prior(path, codec)


def test_priors_that_leave_out_other_clips_are_told_apart(recordings, tokens):
    codec = small_codec()
    found = []
    for order in ((0, 1, 2), (1, 2, 0), (0, 1, 2)):
        clips = [CountedClip("", find_landmarks(recordings[i]), tokens[0]) for i in order]
        found.append(fingerprint(SearchingCodec(codec, FoldedPrior.fit(clips, 64, 3))))
    assert found[0] == found[2] != found[1]


def test_counted_and_unheard_clips_keep_the_same_share_of_nearest_codes():
    """A prior that has the clip's own pairs in it keeps 92 % of the counted clips' codes, and 37 % of the others'."""
    codec = load_codec("bundled")
    train, valid, test = (
        [clip for clip in read_manifest(speech_manifest(split)) if clip.source == "asterisk-core-sounds"]
        for split in ("train", "valid", "test")
    )
    counted, unheard = ([clip for clip in part if clip.duration < 2.5][:8] for part in (train, valid + test))
    searching = SearchingCodec(codec, count_prior(codec, train))
    with EncodedCorpus(codec) as nearest, EncodedCorpus(searching) as searched:
        shares = [
            (torch.cat(nearest.tokens(part)) == torch.cat(searched.tokens(part))).double().mean()
            for part in (counted, unheard)
        ]
    assert abs(shares[0] - shares[1]) < 0.1
    assert max(shares) < 0.6
