"""The bridge against a plain dense implementation with the same noise, in float64, and its peak memory."""

from __future__ import annotations

import pytest
import torch

from llmcodec.objectives import chunked
from llmcodec.objectives.bridge import Bridge, BridgeConfig, straight_through_embed
from llmcodec.objectives.gumbel import FrameNoise, condition_on_token

from .memory_probe import peak_bytes
from .toy_codec import LENGTHS, gradients, one_hot, straight_through, toy_encoding

NUM_CODES, LLM_WIDTH, TAU = 11, 5, 0.7
SEEDS = [101, 202, 303]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_ROWS", 3)


def _rows(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(NUM_CODES, LLM_WIDTH, generator=torch.Generator().manual_seed(9), dtype=dtype).requires_grad_()


def _bridge(**options) -> Bridge:
    torch.manual_seed(1)
    config = BridgeConfig(**options)
    return Bridge(config, NUM_CODES, 6).double()


def _upstream(embeds):
    return torch.randn(embeds.shape, generator=torch.Generator().manual_seed(4), dtype=embeds.dtype)


def _dense(encoding, codebook, rows, bridge):
    """(B, T, V) everywhere: embeddings, tokens, cross-entropy."""
    config, mask = bridge.config, encoding.mask_BT
    if config.kind == "native":
        logits = encoding.query_BTC @ codebook.T / config.similarity_tau
    else:
        logits = encoding.quantized_BTD @ bridge.projection.weight.T + bridge.projection.bias
    if config.normalize:
        logits = (logits - logits.mean(-1, keepdim=True)) / (logits.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
    noise = torch.zeros_like(logits)
    if config.mode == "gumbel":
        noise[mask] = FrameNoise(SEEDS, mask, NUM_CODES).rows(0, int(mask.sum()), torch.float64)
    tokens = encoding.codes_BT if config.kind == "native" else (logits + noise).argmax(-1)
    if config.mode == "gumbel" and config.noise == "conditional" and config.kind == "native":
        flat = condition_on_token(logits.detach().flatten(0, 1), noise.flatten(0, 1).clone(), tokens.flatten())
        noise = flat.view_as(logits) - logits.detach()
    soft = ((logits + noise) / TAU).softmax(-1)
    if config.mode == "detach":
        soft = soft.detach()
    weights = straight_through(one_hot(tokens, NUM_CODES), soft) * mask[..., None]
    # Rows get the gradient of the hard weights, logits that of the soft ones.
    hard = one_hot(tokens, NUM_CODES) * mask[..., None]
    embeds = hard @ rows + (weights - weights.detach()) @ rows.detach()
    ce = torch.nn.functional.cross_entropy(logits[mask], encoding.codes_BT[mask])
    return embeds, tokens.masked_fill(~mask, 0), ce


@pytest.mark.parametrize("kind", ["native", "projected"])
@pytest.mark.parametrize("mode", ["gumbel", "straight_through", "detach"])
@pytest.mark.parametrize("noise", ["independent", "conditional", "independent, normalised"])
def test_values_and_all_gradients_equal_the_dense_bridge(kind, mode, noise):
    noise, _, normalised = noise.partition(", ")
    if kind == "native" and normalised:
        pytest.skip("native logits are cosines")
    encoding, codebook = toy_encoding()
    options = {"kind": kind, "mode": mode, "noise": noise, "normalize": bool(normalised)}
    rows, bridge = _rows(), _bridge(**options, similarity_tau=0.3)
    output = bridge(encoding, codebook, rows, tau=TAU, seeds_B=SEEDS)
    embeds, tokens, ce = _dense(encoding, codebook, rows, bridge)
    torch.testing.assert_close(output.embeds_BTH, embeds)
    assert torch.equal(output.tokens_BT, tokens)
    loss = (output.embeds_BTH * _upstream(embeds)).sum()
    expected = (embeds * _upstream(embeds)).sum()
    learners = [encoding.query_BTC, codebook, encoding.quantized_BTD, rows]
    if kind == "projected":
        torch.testing.assert_close(output.terms["bridge/ce"], ce)
        loss, expected = loss + 0.5 * output.terms["bridge/ce"], expected + 0.5 * ce
        learners += list(bridge.projection.parameters())
    ours, theirs = gradients(loss, *learners), gradients(expected, *learners)
    if mode == "detach":
        theirs[2] = torch.zeros_like(theirs[2])  # in detach mode not even bridge/ce reaches the codec
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind,reaches", [("native", "query_BTC"), ("projected", "quantized_BTD")])
def test_gradient_reaches_the_encoder_except_in_detach(kind, reaches):
    for mode, expected in (("gumbel", True), ("straight_through", True), ("detach", False)):
        encoding, codebook = toy_encoding()
        output = _bridge(kind=kind, mode=mode)(encoding, codebook, _rows(), tau=TAU, seeds_B=SEEDS)
        (gradient,) = gradients(output.embeds_BTH.square().sum(), getattr(encoding, reaches))
        assert bool(gradient.abs().sum() > 1e-9) is expected, mode
        assert not gradient[~encoding.mask_BT].any(), "padding received gradient"


def test_native_tokens_are_the_codecs_own():
    for mode in ("gumbel", "straight_through", "detach"):
        encoding, codebook = toy_encoding()
        output = _bridge(mode=mode)(encoding, codebook, _rows(), tau=TAU, seeds_B=SEEDS)
        assert output.terms["bridge/agreement"].item() == 1.0
        assert torch.equal(output.tokens_BT, encoding.codes_BT)
        assert "bridge/ce" not in output.terms


def test_the_projection_learns_at_a_rate_of_its_own_and_not_at_the_released_one():
    # Pitfall 2 of the released code: by SGD at 5e-6 the bridge stays at chance and the LLM reads noise.
    agreement = {}
    for rate in (5e-6, 0.5):
        encoding, codebook = toy_encoding(lengths=(20, 20, 20))
        encoding.quantized_BTD = codebook.detach()[encoding.codes_BT] @ torch.randn(4, 6, dtype=torch.float64)
        bridge, rows = _bridge(kind="projected", mode="straight_through"), _rows()
        optimizer = torch.optim.SGD(bridge.parameters(), lr=rate, momentum=0.9)
        for _ in range(150):
            optimizer.zero_grad()
            terms = bridge(encoding, codebook, rows, tau=TAU).terms
            terms["bridge/ce"].backward()
            optimizer.step()
        agreement[rate] = terms["bridge/agreement"].item()
    assert agreement[5e-6] < 0.3 and agreement[0.5] > 0.9


def test_a_clip_gets_the_same_result_alone_and_in_a_batch():
    bridge, rows = _bridge(mode="gumbel"), _rows()
    encoding, codebook = toy_encoding()
    together = bridge(encoding, codebook, rows, tau=TAU, seeds_B=SEEDS)
    (gradient,) = gradients((together.embeds_BTH * _upstream(together.embeds_BTH)).sum(), encoding.query_BTC)
    for clip, length in enumerate(LENGTHS):
        alone, _ = toy_encoding()
        for name in ("codes_BT", "mask_BT", "query_BTC", "latent_BTD", "quantized_BTD"):
            setattr(alone, name, getattr(encoding, name)[clip : clip + 1, :length])
        output = bridge(alone, codebook, rows, tau=TAU, seeds_B=SEEDS[clip : clip + 1])
        torch.testing.assert_close(output.embeds_BTH[0], together.embeds_BTH[clip, :length])
        upstream = _upstream(together.embeds_BTH)[clip : clip + 1, :length]
        (own,) = gradients((output.embeds_BTH * upstream).sum(), encoding.query_BTC)
        torch.testing.assert_close(own[clip], gradient[clip])


def test_forward_and_backward_do_not_depend_on_the_chunk_size(monkeypatch):
    results = []
    for rows_per_chunk in (1, 2, 5, 100):
        monkeypatch.setattr(chunked, "MIN_CHUNK_ROWS", rows_per_chunk)
        encoding, codebook = toy_encoding()
        bridge, rows = _bridge(kind="projected"), _rows()
        output = bridge(encoding, codebook, rows, tau=TAU, seeds_B=SEEDS)
        loss = output.embeds_BTH.square().sum()
        results.append([output.tokens_BT, *gradients(loss, encoding.quantized_BTD, rows, *bridge.parameters())])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_straight_through_embed_is_the_native_bridge():
    encoding, codebook = toy_encoding()
    rows, mask = _rows(), encoding.mask_BT
    flat = straight_through_embed(encoding.query_BTC[mask], codebook, rows, encoding.codes_BT[mask], 0.3)
    bridge = _bridge(mode="straight_through", similarity_tau=0.3)
    full = bridge(encoding, codebook, rows, tau=1.0).embeds_BTH[mask]
    torch.testing.assert_close(flat, full)
    learners = (encoding.query_BTC, codebook, rows)
    torch.testing.assert_close(
        gradients((flat * _upstream(flat)).sum(), *learners), gradients((full * _upstream(flat)).sum(), *learners)
    )


def test_bf16_products_come_close():
    encoding, codebook = toy_encoding(lengths=(30, 20), width=8, dtype=torch.float32)
    rows = torch.randn(NUM_CODES, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for bf16 in (False, True):
        bridge = Bridge(BridgeConfig(bf16=bf16, similarity_tau=0.3))
        embeds = bridge(encoding, codebook, rows, tau=1.0, seeds_B=[1, 2]).embeds_BTH
        found.append(gradients(embeds.square().sum(), encoding.query_BTC, codebook))
    for exact, rough in zip(*found, strict=True):
        assert (exact - rough).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("kind,mode", [("native", "gumbel"), ("native", "straight_through"), ("projected", "gumbel")])
def test_peak_memory_is_far_below_the_logits(kind, mode, monkeypatch):
    monkeypatch.undo()  # chunks as in production
    batch, frames, num_codes, width = 2, 200, 20480, 16
    encoding, codebook = toy_encoding((frames,) * batch, num_codes, 8, width, torch.float32)
    rows = torch.randn(num_codes, 32, requires_grad=True)
    bridge = Bridge(BridgeConfig(kind=kind, mode=mode), num_codes, width)

    def step() -> None:
        bridge(encoding, codebook, rows, tau=0.5, seeds_B=[1, 2]).embeds_BTH.sum().backward()

    assert peak_bytes(step) < 0.75 * batch * frames * num_codes * 4
    assert rows.grad is not None and rows.grad.any()


def test_errors_say_what_to_do():
    encoding, codebook = toy_encoding()
    with pytest.raises(ValueError, match="seeds_B"):
        _bridge()(encoding, codebook, _rows(), tau=TAU)
    with pytest.raises(ValueError, match="tau"):
        _bridge(mode="detach")(encoding, codebook, _rows(), tau=0.0)
    with pytest.raises(ValueError, match="codebook_size"):
        Bridge(BridgeConfig(kind="projected"))
    with pytest.raises(ValueError, match="native or projected"):
        BridgeConfig(kind="other")  # type: ignore[arg-type]
