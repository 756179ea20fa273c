"""Rate-aware encoding against loops that follow the definition, and its promises on real speech."""

import math
import pickle
import shutil
from collections import Counter
from copy import deepcopy

import librosa
import numpy as np
import pytest
import torch

from llmcodec.adapters.load import folder_of_codec, load_codec, local_name
from llmcodec.assets import codec_folder, speech_manifest
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.mel_distance import MelDistance
from llmcodec.codec.search import EFFORTS, SearchConfig, SearchingCodec, around
from llmcodec.codec.streaming.latency import make_plan
from llmcodec.codec.token_prior import PRIOR_FILE, BigramPrior, CountedClip, FoldedPrior, load_prior
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.lm.small_lm_scorer import load_scorer
from llmcodec.metrics.registry import measure_pair
from llmcodec.metrics.spectral import mel_filters_NM
from llmcodec.protocol import Codec, HasFeatures
from llmcodec.runtime.opening import open_runtime
from llmcodec.runtime.torch_runtime import TorchRuntime, fingerprint, identity_of

from .small import small_codec


@pytest.fixture(scope="module")
def codec():
    return load_codec("bundled")


@pytest.fixture(scope="module")
def clips():
    return [audio.load(clip.path, 16_000)[:40_000] for clip in read_manifest(speech_manifest("valid"))[:4]]


@pytest.fixture(scope="module")
def prior(codec):
    train = [audio.load(clip.path, 16_000) for clip in read_manifest(speech_manifest("train"))[:60]]
    return BigramPrior.fit([nearest(codec, wav) for wav in train], codec.codebook_size)


def nearest(codec, wav_S):
    return codec.encode(torch.from_numpy(wav_S)[None, None]).audio_codes[0, 0]


def searched(codec, prior, wav_S, **config):
    found = SearchingCodec(codec, prior, SearchConfig(**config)).encode(torch.from_numpy(wav_S)[None, None])
    return found.audio_codes[0, 0]


@pytest.mark.parametrize("effort", ["fast", "path"])
def test_samples_and_codecs_of_every_float_type_are_searched(codec, clips, effort):
    counted = CountedClip("a", np.zeros(0, np.int64), nearest(codec, clips[1]))
    prior = FoldedPrior.fit([counted, counted], codec.codebook_size)
    wav = torch.from_numpy(clips[0])[None, None, :8000].bfloat16()
    expected = searched(codec, prior, wav[0, 0].float().numpy(), **EFFORTS[effort])
    searching = SearchingCodec(codec, prior, SearchConfig.of(effort))
    for same in (wav, wav.double(), wav.double().numpy()):
        assert torch.equal(searching.encode(same).audio_codes[0, 0], expected)
    for dtype in (torch.bfloat16, torch.float64):
        of_type = SearchingCodec(deepcopy(codec).to(dtype), prior, SearchConfig.of(effort))
        assert of_type.encode(wav.double()).audio_codes.shape == (1, 1, 25)


@pytest.mark.parametrize("effort", ["fast", "balanced", "path"])
def test_autocast_of_the_caller_changes_no_token(codec, prior, clips, effort):
    searching, wav = (
        SearchingCodec(codec, prior, SearchConfig.of(effort)),
        torch.from_numpy(clips[0])[None, None, :8000],
    )
    expected = searching.encode(wav).audio_codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(searching.encode(wav).audio_codes, expected)


def test_autocast_of_the_caller_does_not_reach_the_look_up_of_a_stream(codec, prior, clips):
    stream = SearchingCodec(codec, prior, SearchConfig.of("path")).streaming()
    asked = []
    stream.encoder.path.push = lambda values, indices: asked.append(values) or indices[:, 0]
    query_CT = torch.nn.functional.normalize(torch.randn(codec.config.codebook_dim, 20), dim=0)
    with torch.autocast("cpu", torch.bfloat16):
        stream.encoder._codes(query_CT)
    assert torch.equal(asked[0], (query_CT.T @ codec.codebook_VC.T).topk(16).values)


@pytest.mark.parametrize("copied", [deepcopy, lambda codec: pickle.loads(pickle.dumps(codec))])
@pytest.mark.parametrize("effort", ["fast", "path"])
def test_a_copy_finds_the_same(codec, prior, clips, effort, copied):
    searching, wav = (
        SearchingCodec(codec, prior, SearchConfig.of(effort)),
        torch.from_numpy(clips[0])[None, None, :8000],
    )
    again = copied(searching)
    assert torch.equal(again.encode(wav).audio_codes, searching.encode(wav).audio_codes)
    assert again.distance.kernels is searching.distance.kernels


@pytest.mark.parametrize("effort", ["fast", "path"])
def test_what_it_finds_can_be_trained_on(codec, prior, clips, effort):
    found = SearchingCodec(codec, prior, SearchConfig.of(effort)).encode(torch.from_numpy(clips[0])[None, None, :8000])
    torch.nn.Embedding(codec.codebook_size, 2)(found.audio_codes).sum().backward()
    latent_BDT = found.quantized_representation
    torch.nn.Linear(latent_BDT.shape[1], 1)(latent_BDT.transpose(1, 2)).sum().backward()


def total_nats(prior, codes_T):
    before_T = torch.cat([torch.tensor([-1]), codes_T[:-1]])
    return float(prior.nats(before_T, codes_T).sum())


def test_prior_is_witten_bell_counted_by_hand():
    clips = [[0, 1, 1, 2], [2, 1, 1], [3]]
    prior = BigramPrior.fit([torch.tensor(clip) for clip in clips], 5)
    unigram = Counter(code for clip in clips for code in clip)
    share = {code: (unigram[code] + 0.5) / (8 + 2.5) for code in range(5)}
    pairs = Counter(pair for clip in clips for pair in zip(clip, clip[1:], strict=False))
    for before in range(5):
        seen = {pair: count for pair, count in pairs.items() if pair[0] == before}
        kinds, total = max(1, len(seen)), sum(seen.values())
        wanted = [(pairs[before, code] + kinds * share[code]) / (total + kinds) for code in range(5)]
        assert math.isclose(sum(wanted), 1.0)
        found = prior.nats(torch.full((5,), before), torch.arange(5))
        np.testing.assert_allclose(found, [-math.log(p) for p in wanted], rtol=1e-6)
    assert prior.nats(torch.tensor(-1), torch.tensor(3)).item() == pytest.approx(-math.log(share[3]))
    assert prior.nats(torch.tensor(2), torch.tensor(-1)).item() == 0.0


def test_prior_of_clips_of_one_code_has_no_pairs():
    prior = BigramPrior.fit([torch.tensor([1]), torch.tensor([1])], 3)
    assert prior.nats(torch.tensor(1), torch.tensor(1)).item() == pytest.approx(-math.log(2.5 / 3.5))


@pytest.mark.parametrize("clips", [[], [torch.zeros(0, dtype=torch.int64)], [torch.tensor([5])], [torch.tensor([-1])]])
def test_prior_refuses(clips):
    with pytest.raises(ValueError, match="token prior"):
        BigramPrior.fit(clips, 5)


def test_distance_by_librosa(clips):
    reference, other = clips[0][:19_200], clips[1][:19_200]
    distance = MelDistance(16_000, 320, torch.device("cpu"))
    found_T = distance(torch.from_numpy(other)[None], distance.reference(torch.from_numpy(reference)[None]))[0]
    wanted_T = np.zeros(60)
    for size, bands, hop in ((512, 80, 160), (2048, 150, 320)):
        basis = librosa.filters.mel(sr=16_000, n_fft=size, n_mels=bands)
        np.testing.assert_allclose(mel_filters_NM(size, bands, 16_000).T, basis, atol=1e-6)
        mels = [basis @ np.abs(librosa.stft(wav, n_fft=size, hop_length=hop)) for wav in (reference, other)]
        logs = [np.log10(np.maximum(mel, 1e-5) ** 2) for mel in mels]
        error_F = np.abs(logs[0] - logs[1]).mean(0) + np.abs(mels[0] - mels[1]).mean(0) / mels[0].mean()
        for frame in range(60):
            first, steps = frame * 320 // hop, 320 // hop
            wanted_T[frame] += error_F[first : first + steps + 1].mean()
    np.testing.assert_allclose(found_T, wanted_T, rtol=1e-3)


def test_around_sums_the_neighbours():
    values = torch.arange(5.0)[None]
    assert around(values, 1)[0].tolist() == [1.0, 3.0, 6.0, 9.0, 7.0]


@pytest.mark.parametrize(("weight", "repeat_nats"), [(0.0, 0.5), (0.2, 0.0), (0.2, 2.0)])
def test_one_frame_at_a_time_is_the_best_trial_by_brute_force(clips, weight, repeat_nats):
    """Every frame visited alone, all candidates tried, plain decoder, sums in float64."""
    codec = small_codec(torch.float32)
    wav_S = torch.from_numpy(clips[0][4000:5000])
    encoding = codec.encode_latents(wav_S[None])
    codes_T = encoding.codes_BT[0]
    prior = BigramPrior.fit([codes_T], codec.codebook_size)
    exact = {"candidates": 4, "trials": 3, "trial_weight": 0.0, "spacing": 1000, "reach": 2, "passes": 1}
    config = SearchConfig(weight=weight, repeat_nats=repeat_nats, **exact)
    searching = SearchingCodec(codec, prior, config)
    searching.sketch = codec  # not rounded
    (found_T,) = searching.search([wav_S], [encoding.query_BTC[0]], [codes_T])

    frames, hop = codes_T.numel(), codec.hop_samples
    distance = MelDistance(codec.sample_rate, hop, torch.device("cpu"))
    wanted = distance.reference(torch.nn.functional.pad(wav_S, (0, frames * hop - wav_S.numel()))[None])
    near_TK = (encoding.query_BTC[0] @ codec.codebook_VC.T).topk(4).indices
    expected_T = codes_T.clone()
    for frame in range(frames):
        costs = {}
        for code in [int(expected_T[frame]), *near_TK[frame].tolist()]:
            trial_T = expected_T.clone()
            trial_T[frame] = code
            wav = codec.decode(trial_T[None, None]).audio_values[:, 0]
            heard_T = distance(wav, wanted)[0].double()
            sound = heard_T[max(0, frame - 2) : frame + 3].sum().item()
            repeats = (trial_T[1:] == trial_T[:-1]).sum().item()
            costs.setdefault(code, sound + weight * (total_nats(prior, trial_T) + repeat_nats * repeats))
        expected_T[frame] = min(costs, key=costs.get)
    assert not torch.equal(expected_T, codes_T)
    assert torch.equal(found_T, expected_T)


@pytest.mark.parametrize(("weight", "repeat_nats"), [(0.2, 0.0), (0.1, SearchConfig().repeat_nats)])
def test_search_saves_bits_and_sounds_no_worse(codec, prior, clips, weight, repeat_nats):
    """Real speech: cheaper under the prior and not farther from the original; with weight 0 nearer to it."""
    near, cheap, better = [], [], []
    for wav in clips:
        searches = [searched(codec, prior, wav, weight=one, repeat_nats=repeat_nats) for one in (weight, 0.0)]
        rows = [nearest(codec, wav), *searches]
        for codes_T, row in zip(rows, (near, cheap, better), strict=True):
            again = codec.decode(codes_T[None, None], length=len(wav)).audio_values[0, 0].numpy()
            row.append((measure_pair(wav, again, 16_000, ("mel",))["mel"].value, total_nats(prior, codes_T)))
    near, cheap, better = (np.array(row).sum(0) for row in (near, cheap, better))
    assert better[0] < 0.97 * near[0]
    assert cheap[0] < near[0] and cheap[1] < 0.85 * near[1]


class CountedTwice(BigramPrior):
    """Another scorer: it answers twice the nats."""

    def to(self, device):
        return self

    def trial_nats(self, codes_T, places_P, trials_XP):
        return 2 * super().trial_nats(codes_T, places_P, trials_XP)


def test_any_rate_scorer_will_do(codec, prior, clips):
    twice = CountedTwice(prior.keys_G, prior.counts_G, prior.unigram_V)
    options = {"repeat_nats": 0.0, "trial_weight": 0.01}
    half = searched(codec, twice, clips[0], weight=0.2, **options | {"trial_weight": 0.005})
    assert torch.equal(half, searched(codec, prior, clips[0], weight=0.4, **options))
    assert not torch.equal(half, searched(codec, prior, clips[0], weight=0.2, **options))


def test_a_surcharge_on_repeats_makes_fewer(codec, prior, clips):
    def repeats(repeat_nats):
        rows = [searched(codec, prior, wav, weight=0.4, repeat_nats=repeat_nats) for wav in clips]
        return sum(int((codes_T[1:] == codes_T[:-1]).sum()) for codes_T in rows)

    assert repeats(1.0) < 0.9 * repeats(0.0)


def test_more_weight_costs_fewer_nats(codec, prior, clips):
    nats = [total_nats(prior, searched(codec, prior, clips[0], weight=weight)) for weight in (0.0, 0.4, 4.0)]
    assert nats[0] > nats[1] > nats[2]


def test_batch_is_single_and_padding_does_not_matter(codec, prior, clips):
    searching = SearchingCodec(codec, prior)
    lengths = [len(clips[0]), 9_000, 1]
    batch = torch.zeros(3, 1, lengths[0] + 700)
    for row, length in zip(batch, lengths, strict=True):
        row[0, :length] = torch.from_numpy(clips[0][:length])
        row[0, length:] = 7.0
    mask = torch.arange(batch.shape[-1]) < torch.tensor(lengths)[:, None]
    together = searching.encode(batch, mask)
    for row, length in enumerate(lengths):
        alone = searching.encode(batch[row : row + 1, :, :length])
        frames = alone.audio_codes.shape[-1]
        assert int(together.audio_codes_mask[row].sum()) == frames
        assert torch.equal(together.audio_codes[row, 0, :frames], alone.audio_codes[0, 0])


def test_long_clips_in_blocks(codec, prior, clips):
    """Other decisions, because frames are visited in another order, but just as good ones."""
    wav = np.concatenate([clips[0], clips[1]])
    found = []
    for codes_T in (
        *(searched(codec, prior, wav, weight=0.4, block=block) for block in (1500, 100)),
        nearest(codec, wav),
    ):
        again = codec.decode(codes_T[None, None], length=len(wav)).audio_values[0, 0].numpy()
        mel = measure_pair(wav, again, 16_000, ("mel",))["mel"].value
        found.append((mel + 0.4 * total_nats(prior, codes_T) / len(codes_T), len(codes_T)))
    (whole, frames), (blocks, frames_too), (plain, _) = found
    assert frames == frames_too
    assert abs(blocks - whole) < 0.1 * (plain - whole)


@pytest.mark.parametrize("wav", [np.zeros(5000, np.float32), np.ones(1, np.float32)], ids=["silence", "one sample"])
def test_odd_clips(codec, prior, wav):
    assert searched(codec, prior, wav).shape == nearest(codec, wav).shape


def test_it_is_a_codec_with_the_identity_of_the_plain_one(codec, prior, clips):
    searching = SearchingCodec(codec, prior)
    assert isinstance(searching, Codec) and isinstance(searching, HasFeatures)
    assert identity_of(searching, "x") == identity_of(codec, "x")
    wav = torch.from_numpy(clips[0])[None, None]
    encoded = searching.encode(wav)
    assert torch.equal(
        searching.decode(encoded.audio_codes).audio_values, codec.decode(encoded.audio_codes).audio_values
    )
    assert torch.equal(searching.encode_features(wav), codec.encode_features(wav))
    codes = TorchRuntime(searching, "x").encode_batch(clips[:2])
    assert np.array_equal(codes[0], encoded.audio_codes[0].numpy())
    with pytest.raises(ValueError, match="mono"):
        searching.encode(wav[0])


def reference(searching, wav_S, query_TC, codes_T):
    """The search of one clip as its definition reads: every version of every visit decoded, the present one too."""
    config, frames, hop = searching.config, codes_T.numel(), searching.hop_samples
    prior, codes_T = searching.prior.leave_out(wav_S), codes_T.clone()
    near = (query_TC @ searching.plain.codebook_VC.T).topk(config.candidates)
    distance = MelDistance(searching.sample_rate, hop, torch.device("cpu"))
    distance.kernels = None
    wanted = distance.reference(torch.nn.functional.pad(wav_S, (0, frames * hop - len(wav_S)))[None])
    for offset in [*range(config.spacing)] * config.passes:
        places_P = torch.arange(offset, frames, config.spacing)
        beside_T = torch.nn.functional.pad(codes_T, (1, 1), value=-1)

        def nats(trials_XP, beside_T=beside_T, places_P=places_P, codes_T=codes_T):
            same = sum((trials_XP == beside_T[places_P + by]).float() for by in (0, 2))
            return prior.trial_nats(codes_T, places_P, trials_XP) + config.repeat_nats * same

        near_KP = near.indices[places_P].T
        promise_KP = near.values[places_P].T - config.trial_weight * nats(near_KP)
        promise_KP = promise_KP.masked_fill(near_KP == codes_T[places_P], -torch.inf)
        trials_XP = near_KP.gather(0, promise_KP.topk(config.trials, dim=0).indices)
        trials_XP = torch.cat([codes_T[None, places_P], trials_XP])
        versions = codes_T.repeat(len(trials_XP), 1)
        versions[:, places_P] = trials_XP
        heard_XT = around(distance(searching.sketch.decode(versions[:, None]).audio_values[:, 0], wanted), config.reach)
        best_P = (heard_XT[:, places_P] + config.weight * nats(trials_XP)).argmin(0)
        codes_T[places_P] = trials_XP.gather(0, best_P[None])[0]
    return codes_T


def test_thorough_is_the_definition_to_the_code(codec, prior, clips):
    searching = SearchingCodec(codec, prior, SearchConfig.of("thorough"))
    for wav in (clips[0], clips[1][:9_001]):
        wav_S = torch.from_numpy(wav)
        encoding = codec.encode_latents(wav_S[None], torch.tensor([len(wav)]))
        wanted_T = reference(searching, wav_S, encoding.query_BTC[0], encoding.codes_BT[0])
        found_T = searching.encode(wav_S[None, None]).audio_codes[0, 0]
        assert torch.equal(found_T, wanted_T) and not torch.equal(found_T, encoding.codes_BT[0])


@pytest.mark.parametrize("effort", ["balanced", "fast"])
def test_cheaper_efforts_save_most_of_the_nats_and_sound_like_the_nearest_codes(codec, prior, clips, effort):
    def totals(name):
        rows = [nearest(codec, wav) if name is None else searched(codec, prior, wav, **EFFORTS[name]) for wav in clips]
        again = [
            codec.decode(row[None, None], length=len(wav)).audio_values[0, 0]
            for row, wav in zip(rows, clips, strict=True)
        ]
        mels = [
            measure_pair(wav, one.numpy(), 16_000, ("mel",))["mel"].value for wav, one in zip(clips, again, strict=True)
        ]
        return sum(total_nats(prior, row) for row in rows), sum(mels)

    near, thorough, cheap = totals(None), totals("thorough"), totals(effort)
    assert near[0] - cheap[0] > {"balanced": 0.9, "fast": 0.7}[effort] * (near[0] - thorough[0])
    assert cheap[1] < {"balanced": 1.0, "fast": 1.01}[effort] * near[1]


def test_clips_in_one_call_are_searched_as_alone(codec, prior, clips, monkeypatch):
    """As on a GPU: versions of all clips are decoded together, the shorter ones masked."""
    wavs = [torch.from_numpy(wav) for wav in (clips[0][:20_000], clips[1][:9_001], clips[2][:321])]
    for effort in EFFORTS:
        searching = SearchingCodec(codec, prior, SearchConfig.of(effort))
        searching.sketch = optimize_for_inference(
            codec, "fp32"
        )  # one frame's int16 step hangs on nothing but the frame
        alone = [searching.encode(wav[None, None]).audio_codes[0, 0] for wav in wavs]
        with monkeypatch.context() as patch:
            patch.setattr(SearchingCodec, "_batches", lambda self, frames_B: [list(range(len(frames_B)))[::-1]])
            batch_BS = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
            mask_BS = torch.arange(batch_BS.shape[1]) < torch.tensor([[len(wav)] for wav in wavs])
            together = searching.encode(batch_BS[:, None], mask_BS).audio_codes[:, 0]
        for row_T, found_T in zip(together, alone, strict=True):
            assert torch.equal(row_T[: len(found_T)], found_T)


def test_what_is_put_together_is_what_was_heard_and_no_code_is_heard_twice(codec, prior, clips, monkeypatch):
    config = SearchConfig(stitch=True, again=False, spacing=4, reach=2, trials=1, passes=3)
    searching, heard = SearchingCodec(codec, prior, config), []
    hear = SearchingCodec._hear

    def listen(self, codes, parts):
        found = hear(self, codes, parts)
        heard.append((codes[0].clone(), found[0], parts[0]))
        return found

    monkeypatch.setattr(SearchingCodec, "_hear", listen)
    found_T = searching.encode(torch.from_numpy(clips[0])[None, None]).audio_codes[0, 0]
    assert len(heard) == 1 + 4 * 3
    assert torch.equal(heard[0][0][0], nearest(codec, clips[0])), "the nearest codes are heard first"
    profile_T = heard[-1][2].heard_T
    rows_XT = torch.cat([distances for _, distances, _ in heard])
    assert bool((rows_XT == profile_T).any(0).all()), "every frame's distance is one that was measured"
    assert not torch.equal(profile_T, rows_XT[0])
    for frame in range(len(found_T)):
        codes = [
            int(codes[0, frame])
            for (codes, _, _), visit in zip(heard[1:], [*range(4)] * 3, strict=True)
            if frame % 4 == visit
        ]
        assert len(set(codes)) == 3


def test_efforts_by_name(codec, prior):
    assert {name: SearchConfig.of(name, 0.3).effort for name in EFFORTS} == {name: name for name in EFFORTS}
    assert SearchConfig.of() == SearchConfig() and SearchConfig(trials=5).effort == "custom"
    found = {fingerprint(SearchingCodec(codec, prior, SearchConfig.of(name))) for name in EFFORTS}
    assert len(found) == len(EFFORTS), "measurements of one effort are not taken for another's"
    assert load_codec("search@0.2:bundled?effort=fast").config == SearchConfig.of("fast", 0.2)
    for wrong in ("search:bundled?effort=quick", "search:bundled?effrt=fast", "search:bundled?", "search:bundled?lm,x"):
        with pytest.raises(ValueError, match=r"effort=NAME \(thorough, balanced, fast, path\), lm, or both"):
            load_codec(wrong)
    assert local_name("search@0.1:bundled?effort=fast", "card") == "search@0.1:bundled?effort=fast"
    assert local_name("search@0.1:bundled?effort=fast,lm", "card") == "search@0.1:bundled?effort=fast,lm"
    assert open_runtime("search:bundled?lm").identity.codec == "search@0.1:bundled?effort=thorough,lm"
    assert open_runtime("search:bundled:1?effort=fast").identity.codec == "search@0.1:bundled?effort=fast"
    assert folder_of_codec("search:bundled:1") == folder_of_codec("bundled:1") == codec_folder()
    for name, options in (("search:bundled", {"num_codebooks": 4}), ("search:bundled:4", {})):
        with pytest.raises(ValueError, match="LLMCodec here has 1 codebooks: 4 cannot be used"):
            load_codec(name, **options)
    with pytest.raises(ValueError, match="path goes by pairs of codes"):
        load_codec("search:bundled?effort=path,lm")
    runtime = open_runtime("search:bundled?effort=fast")
    assert runtime.identity.codec == "search@0.1:bundled?effort=fast"
    assert open_runtime("search:bundled").identity.codec == "search@0.1:bundled?effort=thorough"


@pytest.mark.parametrize("name", ["bundled", "causal_base"])
def test_long_token_files_are_decoded_by_a_search_as_by_the_plain_codec(name):
    searching = load_codec(f"search:{name}?effort=path")
    side = make_plan(searching, "decoder", 30.0, None)
    sees = searching.plain.config.decoder_context
    assert side.exact and not side.stateful and side.left_frames >= sees[0] and side.right_frames >= sees[1]


def test_the_language_model_beside_a_codec_prices_trials(prior, codec, clips, tmp_path):
    shutil.copytree(codec_folder(), place := tmp_path / "c")
    (place / "audio_lm.safetensors").unlink()
    with pytest.raises(ValueError, match="no audio_lm.safetensors beside it; `llmcodec train --config audio_lm"):
        load_codec(f"search:{place}?lm")
    scorer = load_scorer(codec_folder() / "audio_lm.safetensors", 500)

    def nats(name):
        codes = load_codec(name).encode(clips[0][None, None]).audio_codes[0, 0]
        return -float(scorer.token_log_likelihoods([codes])[0].sum())

    by_pairs, by_lm = nats("search:bundled?effort=fast"), nats("search:bundled?effort=fast,lm")
    assert by_lm < 0.98 * by_pairs < 0.98 * nats("bundled")


def test_results_of_other_searches_are_not_taken_for_its_own(codec, prior):
    other = BigramPrior(prior.keys_G, prior.counts_G + 1, prior.unigram_V)
    found = [SearchingCodec(codec, prior), SearchingCodec(codec, prior, SearchConfig(weight=0.2))]
    found += [SearchingCodec(codec, other), codec]
    assert len({fingerprint(one) for one in found}) == 4
    assert fingerprint(found[0]) == fingerprint(SearchingCodec(codec, prior))


def test_saved_prior_comes_back_and_belongs_to_its_codec(codec, clips, tmp_path):
    path = tmp_path / PRIOR_FILE
    counted = [CountedClip(str(i), np.zeros(0, np.int64), nearest(codec, wav)) for i, wav in enumerate(clips)]
    prior = FoldedPrior.fit(counted, codec.codebook_size)
    prior.save(path, codec)
    again = load_prior(path, codec)
    for name in ("keys_G", "counts_G", "unigram_V"):
        assert torch.equal(getattr(again.pooled, name), getattr(prior.pooled, name))
    with pytest.raises(ValueError, match="another codec"):
        load_prior(path, small_codec())
    for damage in (path.read_bytes()[:-100], b"", b"\x80\x04pickle"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=PRIOR_FILE):
            load_prior(path, codec)
    with pytest.raises(ValueError, match="codes"):
        SearchingCodec(small_codec(), prior)


@pytest.mark.parametrize(
    "config",
    [
        *({"weight": weight} for weight in (-1, math.nan, math.inf)),
        *({name: math.nan} for name in ("repeat_nats", "trial_weight", "rate_factor", "path_similarity")),
        *({"trials": 0}, {"spacing": 0}, {"passes": 0}, {"trials": 3, "candidates": 3}, {"block": 9}),
    ],
)
def test_config_refuses(config):
    with pytest.raises(ValueError, match="search"):
        SearchConfig(**config)
