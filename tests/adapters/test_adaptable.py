"""Adapters as `protocol.AdaptableCodec`: codes, audio and gradients are the model's own, whatever the batch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from llmcodec.adapters.adaptable import Codebook
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.random_weights import random_codec
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.objectives.collapse import marginal_entropy_term
from llmcodec.protocol import AdaptableCodec, tokens_of

from .tiny_codecs import TINY, noise, tiny_codec

LENGTHS = (1200, 803, 1200)
CODECS = [("encodec", None), ("encodec", 3), ("dac", None), ("dac", 1), ("mimi", None), ("mimi", 1)]


def batch():
    wav_BS = torch.stack([F.pad(noise(n, seed), (0, 1200 - n)) for seed, n in enumerate(LENGTHS)])
    return wav_BS, torch.tensor(LENGTHS)


def decoder_input(encoding):
    return encoding.quantized_BTD if encoding.decoder_BFD is None else encoding.decoder_BFD


def fresh(name, num_codebooks=None):
    torch.manual_seed(0)
    return random_codec(*TINY[name], num_codebooks)


def check_against_the_model(codec):
    wav_BS, lengths_B = batch()
    num_codebooks = codec.num_codebooks
    with torch.no_grad():
        encoding = codec.encode_latents(wav_BS, lengths_B)
        frames_BF = encoding.mask_BT[:, ::num_codebooks]
        mask_BS = torch.arange(1200) < lengths_B[:, None]
        theirs = codec.encode(wav_BS[:, None], mask_BS)
        assert torch.equal(frames_BF, theirs.audio_codes_mask[:, 0])
        for row, frames in enumerate(frames_BF.sum(1).tolist()):
            flat_T = flatten_codes(theirs.audio_codes[row, :, :frames], codec.codebook_size)
            assert torch.equal(encoding.codes_BT[row, : frames * num_codebooks], flat_T)
            assert not encoding.codes_BT[row, frames * num_codebooks :].any()
        similarity_BTV = encoding.query_BTC @ codec.codebook_VC.T
        assert similarity_BTV.shape[-1] == tokens_of(codec)
        assert torch.equal(similarity_BTV.argmax(-1)[encoding.mask_BT], encoding.codes_BT[encoding.mask_BT])
        wanted_BS = codec.decode(theirs.audio_codes, audio_codes_mask=theirs.audio_codes_mask).audio_values[:, 0]
        decoded_BS = codec.decode_latents(decoder_input(encoding), frames_BF)
        torch.testing.assert_close(decoded_BS, wanted_BS, rtol=1e-4, atol=1e-4 * float(wanted_BS.abs().max()))
        assert encoding.quantized_BTD.shape == (*encoding.mask_BT.shape, codec.latent_dim)


@pytest.mark.parametrize(("name", "num_codebooks"), CODECS)
def test_codes_and_audio_are_those_of_the_model(name, num_codebooks):
    codec = tiny_codec(name, num_codebooks)
    assert isinstance(codec, AdaptableCodec)
    check_against_the_model(codec)


def test_a_token_chooses_among_the_codes_of_its_depth():
    """Soft assignments stay in it, and the entropy term is the mean of those of the codebooks."""
    codec = tiny_codec("dac")
    encoding = codec.encode_latents(*batch())
    soft_BTV = (encoding.query_BTC @ codec.codebook_VC.T / 0.1).softmax(-1)
    depth_T = torch.arange(soft_BTV.shape[1]) % 3
    own = F.one_hot(depth_T, 3).repeat_interleave(codec.codebook_size, 1).bool()
    assert float((soft_BTV * ~own).sum(-1).max()) < 1e-30
    wanted = 0.0
    for depth in range(3):
        rows = [encoding.mask_BT[:, depth::3], encoding.query_BTC[:, depth::3]]
        usage_V = (rows[1][rows[0]] @ codec.codebook_VC.T / 0.05).softmax(-1).mean(0)
        usage_V = usage_V[depth * codec.codebook_size : (depth + 1) * codec.codebook_size]
        wanted += (math.log(codec.codebook_size) + (usage_V * usage_V.clamp(min=1e-30).log()).sum()) / 3
    torch.testing.assert_close(marginal_entropy_term(encoding, codec.codebook_VC), wanted, rtol=1e-4, atol=1e-4)


def test_the_nearest_code_is_the_most_similar_and_the_cosine_where_all_have_one_length():
    generator = torch.Generator().manual_seed(0)
    vectors_VC = torch.randn(40, 6, generator=generator)
    query_NC = torch.randn(50, 6, generator=generator)
    book = Codebook(vectors_VC)
    similarity_NV = book.query(query_NC) @ book.rows().T
    distance_NV = torch.cdist(query_NC, vectors_VC).square()
    variance = (vectors_VC - vectors_VC.mean(0)).square().sum(1).mean()
    both = similarity_NV + 0.5 * distance_NV / variance
    torch.testing.assert_close(both, both[:, :1].expand_as(both), rtol=1e-4, atol=1e-4)
    unit_VC = F.normalize(torch.cat([vectors_VC, -vectors_VC]), dim=1)
    nearest, cosine = Codebook(unit_VC), Codebook(unit_VC, cosine=True)
    unit_NC = F.normalize(query_NC, dim=1)
    scores = [book.query(unit_NC) @ book.rows().T for book in (nearest, cosine)]
    torch.testing.assert_close((scores[0] / 0.05).softmax(-1), (scores[1] / 0.05).softmax(-1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["encodec", "dac", "mimi"])
@torch.enable_grad()
def test_gradients_reach_encoder_and_codebooks_of_every_depth(name):
    """The decoder's passes straight through once, however many depths; each depth's own goes to the latent as well."""
    codec = fresh(name, 3)
    before = codec.encode_latents(*batch())
    codec.train_codebooks()
    encoding = codec.encode_latents(*batch())
    assert torch.equal(encoding.codes_BT, before.codes_BT)
    if name == "encodec":
        (slope_BFD,) = torch.autograd.grad(decoder_input(encoding).sum(), encoding.latent_BTD, retain_graph=True)
        torch.testing.assert_close(slope_BFD, torch.ones_like(slope_BFD))
    for depth in range(3):
        for rows in (encoding.query_BTC, encoding.quantized_BTD):
            (slope,) = torch.autograd.grad(rows[:, depth::3].square().sum(), encoding.latent_BTD, retain_graph=True)
            assert slope.abs().max() > 0
    (sum(encoding.losses.values()).sum() + codec.decode_latents(decoder_input(encoding)).square().sum()).backward()
    assert not [name for name, weight in codec.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("name", ["encodec", "dac", "mimi"])
def test_a_changed_codec_is_saved_as_its_own_package_reads_it(name, tmp_path):
    import transformers

    codec = fresh(name, 3)
    codec.train_codebooks()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.01 * parameter.std(correction=0) * torch.randn_like(parameter))
    codec.train(False)
    copy.deepcopy(codec).save_pretrained(tmp_path / "mine")  # a copy, as the average of a run is one
    assert f'{type(codec.model).__name__}.from_pretrained("mine")' in (tmp_path / "mine" / "README.md").read_text()
    again = load_codec(str(tmp_path / "mine"))
    assert again.num_codebooks == 3, "as many as were trained"
    wav = noise(1000)[None, None]
    codes = codec.encode(wav).audio_codes
    assert torch.equal(again.encode(wav).audio_codes, codes)
    assert torch.equal(again.decode(codes).audio_values, codec.decode(codes).audio_values)
    assert load_codec(f"{tmp_path / 'mine'}:2").num_codebooks == 2
    model = getattr(transformers, type(codec.model).__name__).from_pretrained(tmp_path / "mine").eval()
    wanted = codec.model.state_dict()
    found = model.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted if not key.endswith("embed_avg"))
