"""A stand-in for torchaudio, for packages that import it but need hardly anything of it.

torchaudio's wheels import only beside the very PyTorch they were built with; AUV and BigCodec need one function of it
or none. Test: tests/adapters/test_packages.py.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from llmcodec.io import audio


@contextmanager
def torchaudio_stub() -> Iterator[None]:
    """Show a `torchaudio.functional.resample` to what is imported inside, unless the real one can be imported.

    The stand-in is taken away again, so that nobody else mistakes it for torchaudio.
    """
    names = ("torchaudio", "torchaudio.functional")
    try:
        real = importlib.import_module("torchaudio.functional")
    except (ImportError, OSError, RuntimeError):  # not installed, or built for another PyTorch
        real = None
    if real is not None:
        yield
        return
    package, functional = (types.ModuleType(name) for name in names)
    functional.resample = _resample  # type: ignore[attr-defined]
    package.functional = functional  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict(zip(names, (package, functional), strict=True)))
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _resample(waveform: Tensor, orig_freq: int, new_freq: int) -> Tensor:
    rows = [audio.resample(row.cpu().numpy(), orig_freq, new_freq) for row in waveform]
    return torch.from_numpy(np.stack(rows)).to(waveform.device)
