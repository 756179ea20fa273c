"""Times the training step of the public reference of LLM-Codec in a checkout of it; `train_step.py` calls this.

    git clone https://github.com/voidful/llm-codec REF
    python benchmarks/reference_step.py REF FIXTURE [--gan] [--steps 2] [--precision fp32]

What runs is the checkout's own `train.py`, unchanged: every loss of its shipped script, schedules at full weight from
step 0, two clips of 4 s, no accumulation. Stand-ins only for what it imports and a CPU machine lacks: torchaudio (mel
spectrogram from torch.stft), the data set download (our two clips) and wandb's wrapper, which here is the clock.
Included, since they belong to its step: the second LM pass over the whole vocabulary that logs a perplexity, the text
pass, gradient norms. Not included: R1 (one step in 16). Needs PyPI `auv` (`pip install --no-deps auv`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from bench import RATE, forget_peak, memory_mb, options, report
from step_fixture import static_memory
from torch import Tensor, nn

SCRIPT = """--mp_dtype {precision} --batch_size 2 --grad_accum_steps 1 --num_workers 0 --max_steps {steps}
--mel_rms_norm --lambda_mel 1.5 --enable_ms_mel --lambda_ms_mel 0.5 --enable_mr_stft --lambda_mr_stft 0.5 --enable_cstft
--lambda_cstft 0.8 --cstft_phase_weight 0.5 --lambda_vq 1.0 --lambda_gan 1.0 --gan_loss_type hinge --lr_d 1e-4
--d_update_every 1 --d_reg_every 0 --d_only_steps 0 --gan_warmup 0 --gan_ramp 0 --opt_codec sgd --lr_enc 5e-6
--lr_dec 5e-6 --grad_clip 15.0 --lambda_sa_cosine 0.1 --lambda_sa_contrast 0.05 --sa_delay_steps 0 --sa_warmup 0
--lambda_ftp 0.2 --ftp_delay_steps 0 --ftp_ramp 0 --lr_embed 1e-4 --lambda_fm_init 1.5 --val_every 1000000
--save_every 1000000 --gan_amp fp32 --log_every 1 --nan_guard --device {device} --seed 0"""


class MelSpectrogram(nn.Module):
    """torchaudio's transform of the same name, as far as the reference uses it."""

    def __init__(
        self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, power: float = 2.0, **ignored: object
    ):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, mel_scale="htk")
        self.n_fft, self.hop, self.power = n_fft, hop_length, power
        self.register_buffer("filters", torch.from_numpy(filters).float())
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, wav: Tensor) -> Tensor:
        spectrum = torch.stft(wav, self.n_fft, self.hop, window=self.window, return_complex=True).abs() ** self.power
        return (spectrum.transpose(-1, -2) @ self.filters).transpose(-1, -2)


def resample(wav: Tensor, orig_freq: int, new_freq: int, **ignored: object) -> Tensor:
    assert orig_freq == new_freq, "the fixture has the codec's own sample rate"
    return wav


class Clock:
    """Stands where the wandb wrapper was: its committed log is the last line of a step."""

    seconds: list[tuple[float, float]] = []  # wall, CPU
    started = (0.0, 0.0)
    static: Any = None

    def __init__(self, **ignored: object) -> None:
        Clock.started = (time.perf_counter(), time.process_time())

    def log(self, data: dict[str, object], step: int | None = None, commit: bool = False) -> None:
        if commit:
            Clock.seconds.append((time.perf_counter() - Clock.started[0], time.process_time() - Clock.started[1]))
            Clock.static = static_memory()
            if len(Clock.seconds) == 1:
                forget_peak()  # the first step makes optimizer states and warms up, as in train_step.py
            Clock.started = (time.perf_counter(), time.process_time())

    def watch(self, *ignored: object, **ignored_too: object) -> None:
        pass

    audio = image = watch


def stand_in(name: str, **members: object) -> None:
    """Put a module with these members where an import looks for it."""
    module = types.ModuleType(name)
    module.__dict__.update(members)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module


def install_stand_ins(fixture: Path) -> None:
    from llmcodec.data.manifest import read_manifest
    from llmcodec.io import audio

    clips = [
        {"audio": {"array": audio.load(clip.path, RATE), "sampling_rate": RATE}, "text": clip.text}
        for clip in read_manifest(fixture / "manifest.jsonl")
    ]
    transforms = types.SimpleNamespace(MelSpectrogram=MelSpectrogram)
    stand_in("torchaudio", transforms=transforms, functional=types.SimpleNamespace(resample=resample))
    stand_in("torchaudio.functional", resample=resample)
    stand_in("torchaudio.transforms", MelSpectrogram=MelSpectrogram)
    stand_in("datasets", load_dataset=lambda *args, **kwargs: clips)
    stand_in("llm_codec.wb", WB=Clock)
    torch.set_num_threads = lambda count: None  # it would take half of the cores


def main() -> None:
    args = options(
        __doc__, "reference", "fixture", gan=False, steps=(2, "the first of them is not counted"),
        precision=("fp32", "", ("fp32", "bf16")), device="cpu",
    )  # fmt: skip
    reference, fixture = Path(args.reference).resolve(), Path(args.fixture).resolve()
    sys.path.insert(0, str(reference))
    install_stand_ins(fixture)
    import train  # the checkout's

    base = memory_mb("VmRSS")
    command = SCRIPT.format(precision=args.precision, steps=args.steps, device=args.device).split()
    command += ["--enable_gan"] if args.gan else []
    command += ["--auv_ckpt", str(fixture / "auv.pt"), "--qwen_model", str(fixture / "lm")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it leaves files where it stands
        train.torch.save = lambda *args, **kwargs: None  # no final checkpoint
        train.mel_image = train.save_wav = lambda *args, **kwargs: None
        sys.argv = ["train.py", *command, "--out_dir", folder]
        train.main()
    walls, processes = zip(*Clock.seconds[1:], strict=True)
    report(
        {
            "seconds": min(walls),
            "cpu_seconds": min(processes),
            "base_mb": base,
            "peak_mb": memory_mb("VmHWM"),
            **{f"{name}_mb": value for name, value in vars(Clock.static).items()},
        }
    )


if __name__ == "__main__":
    main()
