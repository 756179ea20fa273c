"""Spectral losses against float64 loops over frames and bins, and their behaviour at silence and identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcodec.objectives.spectra import LEVEL_FLOOR, MAGNITUDE_FLOOR, Spectra, frame
from llmcodec.objectives.spectral import (
    ComplexSTFTLoss,
    MelLoss,
    MelLossConfig,
    MultiResolutionSTFTLoss,
    MultiScaleMelLoss,
    MultiScaleMelLossConfig,
    SpectralConfig,
    SpectralLosses,
    STFTLossConfig,
)

RATE = 16_000


def speechlike(num_clips: int, num_samples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / RATE
    tones = np.sin(2 * np.pi * generator.uniform(100, 3000, (num_clips, 1)) * time)
    return 0.1 * tones * np.linspace(0.2, 1, num_samples) + 0.02 * generator.standard_normal((num_clips, num_samples))


def stft_oracle(wave: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """One clip (S,) -> complex (T, F) by the definition of the discrete Fourier transform."""
    window = np.array([math.sin(math.pi * n / n_fft) ** 2 for n in range(n_fft)])
    basis = np.exp(-2j * np.pi * np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) / n_fft)
    rows = []
    for t in range(len(wave) // hop + 1):
        start = t * hop - n_fft // 2
        piece = [wave[i] if 0 <= i < len(wave) else 0.0 for i in range(start, start + n_fft)]
        rows.append((np.array(piece) * window) @ basis)
    return np.array(rows)


def filters_oracle(n_fft: int, num_mels: int, scale: str) -> np.ndarray:
    """Triangles (F, M) between equal steps on the mel scale, written from its definition."""
    breaks = 1000.0

    def to_mel(f: float) -> float:
        if scale == "htk":
            return 2595 * math.log10(1 + f / 700)
        return 3 * f / 200 if f < breaks else 15 + 27 * math.log(f / breaks) / math.log(6.4)

    def to_hertz(m: float) -> float:
        if scale == "htk":
            return 700 * (10 ** (m / 2595) - 1)
        return 200 * m / 3 if m < 15 else breaks * 6.4 ** ((m - 15) / 27)

    edges = [to_hertz(to_mel(RATE / 2) * i / (num_mels + 1)) for i in range(num_mels + 2)]
    filters = np.zeros((n_fft // 2 + 1, num_mels))
    for f in range(n_fft // 2 + 1):
        hertz = f * RATE / n_fft
        for m in range(num_mels):
            rise = (hertz - edges[m]) / (edges[m + 1] - edges[m])
            fall = (edges[m + 2] - hertz) / (edges[m + 2] - edges[m + 1])
            filters[f, m] = max(0.0, min(rise, fall))
    return filters


def log_mel_oracle(wave: np.ndarray, config: MelLossConfig) -> np.ndarray:
    if config.normalize:
        wave = wave / max(LEVEL_FLOOR, math.sqrt(np.mean(wave**2)))
    magnitude = np.abs(stft_oracle(wave, config.n_fft, config.hop))
    return np.log(
        magnitude**config.power @ filters_oracle(config.n_fft, config.num_mels, config.mel_scale) + config.floor
    )


@pytest.mark.parametrize(
    "config",
    [
        MelLossConfig(n_fft=256, hop=64, num_mels=20),
        MelLossConfig(n_fft=256, hop=80, num_mels=16, power=1, mel_scale="slaney", normalize=False),
    ],
)
def test_mel_loss_against_a_loop(config):
    fake, real = speechlike(2, 700, 1), speechlike(2, 700, 2)
    expected = np.mean(
        [np.abs(log_mel_oracle(f, config) - log_mel_oracle(r, config)) for f, r in zip(fake, real, strict=True)]
    )
    loss = MelLoss(config, RATE)(torch.from_numpy(fake), torch.from_numpy(real))
    assert loss.dtype is torch.float64
    # The magnitude floor stands inside the square root for power 1.
    assert loss.item() == pytest.approx(expected, rel=1e-9 if config.power == 2 else 1e-4)


def test_multi_scale_mel_is_the_mean_over_its_scales():
    fake, real = (torch.from_numpy(speechlike(2, 900, seed)) for seed in (1, 2))
    config = MultiScaleMelLossConfig(n_ffts=(64, 256), num_mels=(8, 32), floor=1e-3)
    parts = []
    for n_fft, num_mels in ((64, 8), (256, 32)):
        scale = MelLossConfig(n_fft, n_fft // 4, num_mels, 1, "slaney", 1e-3, False)
        pairs = zip(fake.numpy(), real.numpy(), strict=True)
        parts.append(np.mean([np.abs(log_mel_oracle(f, scale) - log_mel_oracle(r, scale)) for f, r in pairs]))
    assert MultiScaleMelLoss(config, RATE)(fake, real).item() == pytest.approx(np.mean(parts), rel=1e-4)


def mrstft_oracle(fake: np.ndarray, real: np.ndarray, n_fft: int, phase_weight: float) -> float:
    convergence, phase, logs = [], [], []
    for f_wave, r_wave in zip(fake, real, strict=True):
        f, r = (stft_oracle(wave, n_fft, n_fft // 4) for wave in (f_wave, r_wave))
        fm, rm = (np.sqrt(np.abs(x) ** 2 + MAGNITUDE_FLOOR**2) for x in (f, r))
        convergence.append(np.linalg.norm(fm - rm) / np.linalg.norm(rm))
        logs.append(np.abs(np.log(fm) - np.log(rm)).mean())
        weight, total = 0.0, 0.0
        for a, b, am, bm in zip(f.ravel(), r.ravel(), fm.ravel(), rm.ravel(), strict=True):
            weight += min(am, bm) * (1 - ((a * b.conjugate()).real + MAGNITUDE_FLOOR**2) / (am * bm))
            total += bm
        phase.append(weight / total)
    return float(np.mean(convergence) + np.mean(logs) + phase_weight * np.mean(phase))


def test_multi_resolution_stft_against_a_loop():
    fake, real = speechlike(3, 500, 3), speechlike(3, 500, 4)
    # Clips of very different loudness: the convergence is a mean of ratios, not a ratio of sums.
    fake[1] *= 30
    real[1] *= 30
    config = STFTLossConfig(n_ffts=(64, 128), phase_weight=0.7)
    expected = np.mean([mrstft_oracle(fake, real, n_fft, 0.7) for n_fft in config.n_ffts])
    loss = MultiResolutionSTFTLoss(config)(torch.from_numpy(fake), torch.from_numpy(real))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_complex_stft_against_a_loop():
    fake, real = speechlike(2, 500, 5), speechlike(2, 500, 6)
    parts = []
    for n_fft in (64, 128):
        for f_wave, r_wave in zip(fake, real, strict=True):
            f, r = (stft_oracle(wave, n_fft, n_fft // 4) for wave in (f_wave, r_wave))
            error = np.abs((f - r).real).sum() + np.abs((f - r).imag).sum()
            parts.append(error / (np.abs(r.real).sum() + np.abs(r.imag).sum()))
    loss = ComplexSTFTLoss(STFTLossConfig(n_ffts=(64, 128)))
    assert loss(torch.from_numpy(fake), torch.from_numpy(real)).item() == pytest.approx(np.mean(parts), rel=1e-9)
    assert loss(torch.zeros(2, 500), torch.from_numpy(real).float()).item() == pytest.approx(1.0, rel=1e-5)


def small() -> SpectralLosses:
    stft = STFTLossConfig(n_ffts=(64, 128))
    mel = MelLossConfig(n_fft=128, hop=32, num_mels=10)
    return SpectralLosses(SpectralConfig(mel, MultiScaleMelLossConfig((32, 64), (5, 10)), stft, stft), RATE)


@pytest.mark.parametrize("case", ["silent fake", "silent real", "both silent", "identical", "sign", "nearly silent"])
def test_gradients_stay_finite_and_bounded(case):
    real = torch.from_numpy(speechlike(2, 600, 7)).float()
    fake = torch.from_numpy(speechlike(2, 600, 8)).float()
    if case in ("silent fake", "both silent"):
        fake = torch.zeros_like(fake)
    if case in ("silent real", "both silent"):
        real = torch.zeros_like(real)
    if case == "identical":
        fake = real.clone()
    if case == "sign":
        fake = -real
    if case == "nearly silent":
        fake = fake * 1e-12
    fake.requires_grad_()
    terms = small()(fake, real)
    for name, value in terms.items():
        (gradient,) = torch.autograd.grad(value, fake, retain_graph=True)
        assert torch.isfinite(value) and torch.isfinite(gradient).all(), name
        assert gradient.abs().max() < 1e3, name
        if case in ("identical", "both silent"):
            assert value.item() == pytest.approx(0, abs=1e-6), name
        elif case != "sign":
            assert value.item() > 1e-3, name
    if case == "sign":
        # Only the two losses that see phase tell a signal from its negative.
        assert terms["recon/mel"].item() == terms["recon/multi_mel"].item() == 0
        assert terms["recon/mrstft"].item() == pytest.approx(0.5 * 2, rel=1e-3)
        assert terms["recon/complex_stft"].item() == pytest.approx(2.0, rel=1e-5)


def test_the_released_formula_has_a_gradient_where_both_are_equal():
    real = torch.from_numpy(speechlike(1, 600, 3))
    fake = real.clone().requires_grad_()
    loss = MultiResolutionSTFTLoss(STFTLossConfig((64, 128), released=True))(fake, real)
    loss.backward()
    assert 0 <= loss.item() < 1e-100 and fake.grad.isfinite().all()


def test_a_dead_bin_does_not_blow_up_the_phase_gradient():
    real = torch.from_numpy(speechlike(1, 600, 9))
    fake = (real * 1e-6).requires_grad_()
    loss = MultiResolutionSTFTLoss(STFTLossConfig(n_ffts=(128,), phase_weight=1.0))
    phase = loss._phase(Spectra(fake), Spectra(-real), 128, 32)
    (gradient,) = torch.autograd.grad(phase, fake)
    # d/dF of weight (1 - cos) is at most 1 per bin before division by the mean real magnitude.
    bound = 128 * 4 / Spectra(real).magnitude(128, 32).mean().item()
    assert 0 < gradient.abs().max().item() < bound


def test_gradients_against_finite_differences():
    real = torch.from_numpy(speechlike(1, 200, 10))
    fake = torch.from_numpy(speechlike(1, 200, 11)).requires_grad_()
    losses = small()
    # The phase term keeps its weight outside the graph on purpose, so it is left out here.
    losses.losses["recon/mrstft"] = MultiResolutionSTFTLoss(STFTLossConfig((64,), phase_weight=0.0))
    for name in SpectralLosses.TERMS:
        assert torch.autograd.gradcheck(lambda x, name=name: losses.losses[name](x, real), fake, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("n_fft", [64, 96])
def test_magnitudes_and_their_gradient_are_those_of_pytorchs_operators(n_fft):
    """The same bits forward; backward the same up to rounding, at silence too."""
    wave = torch.from_numpy(speechlike(2, 700, 12)).float()
    wave[1, 300:] = 0
    results = []
    for plainly in (True, False):
        wav_BS = wave.clone().requires_grad_()
        if plainly:
            spectrum = torch.fft.rfft(frame(wav_BS, n_fft, n_fft // 4) * torch.hann_window(n_fft))
            size = (spectrum.real.square() + spectrum.imag.square() + MAGNITUDE_FLOOR**2).sqrt()
        else:
            size = Spectra(wav_BS).magnitude(n_fft, n_fft // 4)
        weight = torch.randn(size.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((size * weight).sum(), wav_BS)
        results.append((size.detach(), gradient))
    (wanted, slope), (size, gradient) = results
    assert torch.equal(size, wanted)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-5 * slope.abs().max().item())


def test_a_padded_batch_equals_single_clips():
    losses = small()
    lengths = [600, 353, 33]
    fakes = [torch.from_numpy(speechlike(1, n, 20 + n)) for n in lengths]
    reals = [torch.from_numpy(speechlike(1, n, 40 + n)) for n in lengths]
    fake, real = torch.full((3, 600), 0.3).double(), torch.full((3, 600), -0.2).double()
    for i, n in enumerate(lengths):
        fake[i, :n], real[i, :n] = fakes[i][0], reals[i][0]
    batch = losses(fake, real, torch.tensor(lengths))
    # Complex: a mean over clips. Mel: a mean over frames, so clips weigh by their number of frames.
    single = [losses.losses["recon/complex_stft"](f, r).item() for f, r in zip(fakes, reals, strict=True)]
    assert batch["recon/complex_stft"].item() == pytest.approx(np.mean(single), rel=1e-9)
    frames = [n // 32 + 1 for n in lengths]
    single = [losses.losses["recon/mel"](f, r).item() for f, r in zip(fakes, reals, strict=True)]
    assert batch["recon/mel"].item() == pytest.approx(np.average(single, weights=frames), rel=1e-9)
    full = losses(fake[:1], real[:1], torch.tensor([600]))
    plain = losses(fake[:1], real[:1])
    for name, value in plain.items():
        assert full[name].item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("level", [1e-2, 3e-3, 1e-3, 1e-4])
def test_a_quiet_clip_has_the_same_value_however_far_it_is_padded(level):
    losses = small()
    generator = torch.Generator().manual_seed(3)
    real = level * torch.randn(1, 600, generator=generator, dtype=torch.float64)
    fake = real + level / 2 * torch.randn(1, 600, generator=generator, dtype=torch.float64)
    alone = losses(fake, real)
    padded = losses(*(torch.nn.functional.pad(one, (0, 4000)) for one in (fake, real)), torch.tensor([600]))
    for name, value in alone.items():
        assert padded[name].item() == pytest.approx(value.item(), rel=1e-9), name


def test_an_empty_clip_counts_for_nothing():
    losses = small()
    fake, real = (torch.from_numpy(speechlike(2, 300, seed)) for seed in (1, 2))
    with_empty = losses(fake, real, torch.tensor([300, 0]))
    alone = losses(fake[:1], real[:1])
    for name, value in alone.items():
        assert with_empty[name].item() == pytest.approx(value.item(), rel=1e-9), name


@pytest.mark.parametrize("num_samples", [1, 2, 31, 33, 640])
@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (64, 20), (32, 16)])
def test_frames(num_samples, n_fft, hop):
    wave = torch.arange(1.0, num_samples + 1)
    frames = frame(wave[None], n_fft, hop)[0]
    assert len(frames) == num_samples // hop + 1
    for t, row in enumerate(frames):
        for n, value in enumerate(row.tolist()):
            index = t * hop - n_fft // 2 + n
            assert value == (index + 1 if 0 <= index < num_samples else 0)


def test_transforms_are_shared():
    calls = []

    class Counting(Spectra):
        def stft(self, n_fft, hop, reflect=False):
            if (n_fft, hop, reflect) not in self._stft:
                calls.append((n_fft, hop))
            return super().stft(n_fft, hop, reflect)

    losses = small().losses
    fake, real = Counting(torch.randn(1, 300)), Counting(torch.randn(1, 300))
    for loss in losses.values():
        loss(fake, real)
    assert len(calls) == 2 * len(set(calls)) and set(calls) == {(32, 8), (64, 16), (128, 32)}


def test_low_precision_input_and_autocast_run_in_float32():
    fake, real = torch.randn(1, 400).bfloat16(), torch.randn(1, 400).bfloat16()
    losses = small()
    plain = losses(fake.float(), real.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = losses(fake, real)
    for name, value in terms.items():
        assert value.dtype is torch.float32 and torch.equal(value, plain[name]), name


def test_use_in_inference_mode_first_does_not_break_training():
    loss = MelLoss(MelLossConfig(n_fft=64, hop=16, num_mels=8), RATE)
    with torch.inference_mode():
        loss(torch.randn(1, 200), torch.randn(1, 200))
    fake = torch.randn(1, 200, requires_grad=True)
    loss(fake, torch.randn(1, 200)).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0


def test_nothing_to_save_and_mistakes_are_named():
    losses = small()
    assert not losses.state_dict()
    with pytest.raises(ValueError, match="one shape"):
        losses(torch.zeros(1, 10), torch.zeros(1, 11))
    with pytest.raises(ValueError, match=r"\(B, S\)"):
        losses(torch.zeros(1, 1, 10), torch.zeros(1, 1, 10))
    with pytest.raises(ValueError, match="recon/mell"):
        losses(torch.zeros(1, 10), torch.zeros(1, 10), terms=("recon/mell",))
    assert list(losses(torch.zeros(1, 10), torch.zeros(1, 10), terms=["recon/mel"])) == ["recon/mel"]
    with pytest.raises(ValueError, match="hop"):
        MelLossConfig(n_fft=64, hop=48)
    mirrored = MelLoss(MelLossConfig(n_fft=64, hop=16, num_mels=8, reflect=True), 16_000)
    with pytest.raises(ValueError, match="a window of 32 samples is too short"):
        mirrored(torch.zeros(1, 32), torch.zeros(1, 32))
    assert float(mirrored(torch.ones(1, 33), torch.ones(1, 33))) == 0
    with pytest.raises(ValueError, match="one number"):
        MultiScaleMelLossConfig(n_ffts=(64,), num_mels=(8, 8))
