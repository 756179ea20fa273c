"""The cheapest path against every path there is, in pieces and with a delay; and as a search and a stream."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmcodec.codec import LLMCodec, LLMCodecConfig, cheapest_path
from llmcodec.codec.cheapest_path import CheapestPath
from llmcodec.codec.search import SearchConfig, SearchingCodec
from llmcodec.codec.token_prior import BigramPrior

FRAMES, NEAREST, CODES = 6, 3, 12


def toy(seed: int) -> tuple[BigramPrior, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prior = BigramPrior.fit([torch.randint(CODES, (400,), generator=generator) ** 2 % CODES], CODES)
    near_TK = torch.stack([torch.randperm(CODES, generator=generator)[:NEAREST] for _ in range(FRAMES)])
    return prior, torch.rand(FRAMES, NEAREST, generator=generator), near_TK


def cost(prior: BigramPrior, similar_TK: torch.Tensor, near_TK: torch.Tensor, places: tuple[int, ...]) -> float:
    """As the module's docstring defines it, frame by frame."""
    total, before = 0.0, -1
    for frame, place in enumerate(places):
        code = int(near_TK[frame, place])
        nats = float(prior.nats(torch.tensor(before), torch.tensor(code))) + 0.7 * (code == before)
        total += 1 - float(similar_TK[frame, place]) + 0.3 * nats
        before = code
    return total


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_cheapest_of_all_paths(seed: int):
    given = toy(seed)
    best = min(itertools.product(range(NEAREST), repeat=FRAMES), key=lambda places: cost(*given, places))
    expected = [int(given[2][frame, place]) for frame, place in enumerate(best)]
    path = CheapestPath(given[0], 0.3, 0.7)
    assert torch.cat([path.push(*given[1:]), path.finish()]).tolist() == expected


@pytest.mark.parametrize("delay", [None, 0, 2, 100])
def test_pieces_do_not_matter_and_a_long_delay_is_the_whole(delay: int | None):
    prior, similar_TK, near_TK = toy(1)
    whole = CheapestPath(prior, 0.3, 0.7, delay)
    together = torch.cat([whole.push(similar_TK, near_TK), whole.finish()])
    path = CheapestPath(prior, 0.3, 0.7, delay)
    pieces = [path.push(similar_TK[a:b], near_TK[a:b]) for a, b in ((0, 1), (1, 1), (1, 4), (4, FRAMES))]
    assert torch.cat([*pieces, path.finish()]).equal(together) and len(together) == FRAMES
    if delay is not None:
        assert [len(piece) for piece in pieces] == [
            max(0, b - delay) - max(0, a - delay) for a, b in ((0, 1), (1, 1), (1, 4), (4, 6))
        ]
    if delay != 0 and delay != 2:
        free = CheapestPath(prior, 0.3, 0.7)
        assert torch.cat([free.push(similar_TK, near_TK), free.finish()]).equal(together)


def test_long_clips_are_priced_piece_by_piece_and_come_out_the_same(monkeypatch):
    given = toy(3)
    path = CheapestPath(given[0], 0.3, 0.7)
    whole = torch.cat([path.push(*given[1:]), path.finish()])
    monkeypatch.setattr(cheapest_path, "PIECE", 2)
    sizes: list[int] = []
    nats = given[0].nats
    monkeypatch.setattr(given[0], "nats", lambda before, code: (sizes.append(len(code)), nats(before, code))[1])
    path = CheapestPath(given[0], 0.3, 0.7)
    assert torch.cat([path.push(*given[1:]), path.finish()]).equal(whole) and max(sizes) <= 2


def test_without_weight_it_is_the_nearest_codes_and_nothing_gives_nothing():
    prior, similar_TK, near_TK = toy(2)
    path = CheapestPath(prior, 0.0, delay=1)
    nearest = near_TK.gather(1, similar_TK.argmax(1, keepdim=True))[:, 0]
    assert torch.cat([path.push(similar_TK, near_TK), path.finish()]).equal(nearest)
    assert not len(CheapestPath(prior, 0.3).push(similar_TK[:0], near_TK[:0]))
    with pytest.raises(ValueError, match="delay"):
        CheapestPath(prior, 0.3, delay=-1)


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    torch.manual_seed(0)
    return LLMCodec(LLMCodecConfig.causal_tiny(codebook_size=64, encoder_layers=1, decoder_layers=1)).eval()


def test_a_search_by_path_saves_nats_and_needs_pairs(codec: LLMCodec):
    wav = 0.1 * torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(0))
    nearest = codec.encode(wav).audio_codes[0, 0]
    prior = BigramPrior.fit([torch.randint(64, (4000,), generator=torch.Generator().manual_seed(2)) ** 2 % 64], 64)
    found = SearchingCodec(codec, prior, SearchConfig.of("path", 2.0)).encode(wav).audio_codes[0, 0]

    def nats(codes: torch.Tensor) -> float:
        return float(prior.nats(codes[:-1], codes[1:]).sum())

    assert found.shape == nearest.shape and nats(found) < nats(nearest)

    class Other:
        codebook_size = 64

        def to(self, device):
            return self

        def leave_out(self, wav_S):
            return self

    with pytest.raises(ValueError, match="needs a prior of pairs"):
        SearchingCodec(codec, Other(), SearchConfig.of("path")).encode(wav)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [None, 0.1])
def test_a_stream_by_path_is_late_by_its_delay_and_whole_with_a_long_one(codec: LLMCodec, chunk: float | None):
    wav = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(1))
    prior = BigramPrior.fit([codec.encode(wav[None, None]).audio_codes[0, 0]], 64)
    searching = SearchingCodec(codec, prior, SearchConfig.of("path", 2.0))
    with searching.streaming(chunk, delay_frames=3) as stream, codec.streaming(chunk) as plain:
        late = stream.latency.encode_seconds - plain.latency.encode_seconds
        assert late == pytest.approx(3 * codec.hop_samples / codec.sample_rate)
        ready, nearest = stream.encode(wav), plain.encode(wav)
        assert ready.shape == (1, nearest.shape[1] - 3)
        codes = torch.cat([ready, stream.finish_encode()], dim=1)
        assert codes.shape[1] == torch.cat([nearest, plain.finish_encode()], dim=1).shape[1]
        stream.decode(codes)
        assert len(stream.finish_decode())
    with searching.streaming(chunk, delay_frames=1000) as stream:
        late_codes = torch.cat([*(stream.encode(piece) for piece in wav.split(777)), stream.finish_encode()], dim=1)
        stream.close()
    with searching.streaming(chunk) as stream:
        stream.encode(wav)
        stream.close()
        with pytest.raises(ValueError, match="this stream has ended"):
            stream.encode(wav)
    assert late_codes[0].equal(searching.encode(wav[None, None]).audio_codes[0, 0])
    with pytest.raises(ValueError, match="streams take effort=path"):
        SearchingCodec(codec, prior).streaming()
