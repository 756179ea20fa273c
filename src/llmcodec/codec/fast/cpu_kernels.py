"""Our own CPU kernels: cpu_kernels.c and mel_distance.c, compiled once by the C compiler and called through ctypes.

They need x86-64 with AVX-512 VNNI (Intel Cascade and Ice Lake, AMD Zen 4, and newer; for bf16 also AVX-512 BF16), Linux
or another POSIX system, and cc, gcc or clang. Where one of these is missing the codec runs on PyTorch's operators
instead. The compiled file is kept in a folder of the cache that only its user may enter (`io/cache.py`), named by a
hash of its source; `LLMCODEC_NATIVE=0` leaves it unused. Test: tests/codec/fast/test_cpu_kernels.py.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcodec.io.cache import is_own_file, own_cache_folder
from llmcodec.io.digests import digest

SOURCES = [Path(__file__).with_name(name) for name in ("cpu_kernels.c", "mel_distance.c")]
FLAGS = ["-std=gnu11", "-O3", "-shared", "-fPIC", "-mfma", "-mavx2", "-mavx512f", "-mavx512bw", "-mavx512vl"]
FLAGS += ["-mavx512dq", "-fno-math-errno", "-fno-strict-aliasing"]  # VNNI and BF16 are in the file's assembler
COMPILE_SECONDS = 120
LANES, PANEL, ROWS = 16, 64, 6  # floats in a register; outputs in a panel of weights; rows that are multiplied at once
BLOCK = 48  # rows that a thread takes at once
ROWS_PER_THREAD = 24  # below, another thread costs more than it brings
MAX_HEAD = 256  # widest attention head
SIZES = (LANES, PANEL, ROWS, BLOCK, MAX_HEAD)  # the same in the C file
PROCESSOR = "the processor has no AVX-512 VNNI (Intel Cascade or Ice Lake, AMD Zen 4, or newer)"


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Fields of one C type, for a `Structure`."""
    return [(name, kind) for name in names.split()]


class CMatrix(Structure):
    """`Matrix` of the C file."""

    _fields_ = fields(c_int32, "kind inputs outputs reserved") + fields(c_void_p, "weight scale offset bias")


class CNorm(Structure):
    """`Norm` of the C file."""

    _fields_ = fields(c_void_p, "weight bias")


class CLayer(Structure):
    """`Layer` of the C file."""

    _fields_ = [
        *fields(CNorm, "before_ffn1 before_attention before_convolution before_ffn2 final"),
        *fields(CMatrix, "up1 down1 qkv out pointwise1 pointwise2 up2 down2"),
        *fields(c_void_p, "taps taps_bias"),
    ]


class CConformer(Structure):
    """`Conformer` of the C file."""

    _fields_ = [
        *fields(c_int32, "num_layers width hidden head_dim kernel past back ahead attention values"),
        ("eps", c_float),
        ("layers", POINTER(CLayer)),
        ("last", CNorm),
    ]


class CBatch(Structure):
    """`Batch` of the C file."""

    _fields_ = [
        ("x", c_void_p),
        ("num_clips", c_int64),
        *fields(c_void_p, "starts padded cosines sines queries keys values"),
        *fields(c_void_p, "query_steps key_steps key_offsets gated scratch"),
    ]


class COpenMP(Structure):
    """`OpenMP` of the C file: addresses of the functions that PyTorch itself has loaded."""

    FUNCTIONS = {"parallel": "GOMP_parallel", "threads": "omp_get_num_threads", "thread": "omp_get_thread_num"}
    _fields_ = fields(c_void_p, "parallel threads thread")


class CLinear(Structure):
    """`Linear` of the C file."""

    _fields_ = fields(c_void_p, "openmp matrix x") + [("rows", c_int64)] + fields(c_void_p, "out scratch")


class CLookUp(Structure):
    """`LookUp` of the C file."""

    _fields_ = [
        *fields(c_void_p, "openmp queries panels"),
        *fields(c_int64, "rows inputs codes"),
        ("found", c_void_p),
    ]


class CMelDistance(Structure):
    """`MelDistance` of mel_distance.c."""

    _fields_ = [
        *fields(c_void_p, "openmp wav"),
        *fields(c_int64, "rows samples frames hop size bands"),
        *fields(c_void_p, "window turns starts bins weights wanted wanted_log"),
        *fields(c_float, "linear floor"),
        *fields(c_void_p, "out mel scratch"),
    ]


class MelBands:
    """A window and its mel filters as mel_distance.c reads them: of each band its first bin and its weights.

    Args:
        window_N: the window.
        hop: samples between frames.
        filters_MF: weight of every bin in every band.
    """

    def __init__(self, window_N: Tensor, hop: int, filters_MF: Tensor):
        size = len(window_N)
        bins = [row.nonzero()[:, 0] for row in filters_MF.cpu()]
        spans = [(int(one[0]), int(one[-1]) + 1) if len(one) else (0, 0) for one in bins]
        parts = [row[low:high] for row, (low, high) in zip(filters_MF.cpu(), spans, strict=True)]
        angle_N = torch.arange(size, dtype=torch.float64) * (-2 * torch.pi / size)
        self.hop, self.size, self.num_bands = hop, size, len(spans)
        self.window = window_N.float().cpu().contiguous()
        self.turns = torch.stack((angle_N.cos(), angle_N.sin()), -1).float().contiguous()
        self.starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).to(torch.int32)
        self.bins = torch.tensor([low for low, _ in spans], dtype=torch.int32)
        self.weights = torch.cat(parts).float().contiguous()


class Kernels:
    """The functions of the compiled file. Raises OSError if it cannot be loaded, AttributeError without COpenMP."""

    def __init__(self, path: Path):
        self.functions, process = ctypes.CDLL(str(path)), ctypes.CDLL(None)
        self.functions.llmcodec_scratch_bytes.restype = c_int64
        for name in ("conformer", "look_up", "linear", "mel_distance"):
            getattr(self.functions, f"llmcodec_{name}").restype = None
        symbols = COpenMP.FUNCTIONS.items()
        self.openmp = COpenMP(**{name: ctypes.cast(getattr(process, symbol), c_void_p) for name, symbol in symbols})

    def run_here(self) -> bool:
        """The processor has the instructions."""
        return bool(self.functions.llmcodec_supported())

    def scratch_bytes(self, model: CConformer, batch: CBatch) -> int:
        """Working memory that a thread needs."""
        return int(self.functions.llmcodec_scratch_bytes(ctypes.byref(model), ctypes.byref(batch)))

    def conformer(self, model: CConformer, batch: CBatch, threads: int) -> None:
        """All layers and the last norm over `batch.x`, in place."""
        self.functions.llmcodec_conformer(*map(ctypes.byref, (model, batch)), threads, ctypes.byref(self.openmp))

    def linear(self, matrix: CMatrix, x_NK: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        x_NK = x_NK.float().contiguous()
        rows, threads = len(x_NK), threads_for(len(x_NK))
        out = torch.empty(rows, matrix.outputs)
        scratch = torch.empty(threads * BLOCK * matrix.inputs)
        places = (ctypes.addressof(self.openmp), ctypes.addressof(matrix), x_NK.data_ptr())
        task = CLinear(*places, rows, out.data_ptr(), scratch.data_ptr())
        self.functions.llmcodec_linear(ctypes.byref(task), threads)
        return out

    def look_up(self, query_NC: Tensor, panels: Tensor, num_codes: int) -> Tensor:
        """The code (N,) with the largest dot product, the first of equals; panels: `in_panels` of the codes."""
        rows, inputs = query_NC.shape
        queries = torch.nn.functional.pad(query_NC.float(), (0, 0, 0, -rows % ROWS)).contiguous()
        found = torch.empty(rows, dtype=torch.int64)
        places = (ctypes.addressof(self.openmp), queries.data_ptr(), panels.data_ptr())
        task = CLookUp(*places, rows, inputs, num_codes, found.data_ptr())
        self.functions.llmcodec_look_up(ctypes.byref(task), threads_for(rows))
        return found

    def mel_spectrum(self, wav_1S: Tensor, bands: MelBands) -> Tensor:
        """Mel spectrum (M, F) of samples (1, S): a frame every `hop` samples, the first centred on the first sample."""
        frames = wav_1S.shape[1] // bands.hop + 1
        mel = torch.empty(bands.num_bands, frames + -frames % LANES)
        self._mel(wav_1S, bands, frames, mel=mel)
        return mel[:, :frames]

    def mel_distance(
        self, wav_XS: Tensor, bands: MelBands, wanted: tuple[Tensor, Tensor], linear: float, floor: float
    ) -> Tensor:
        """Distance (X, F) of every frame's mel spectrum to the wanted one, (M, F padded) with its log2."""
        out = torch.empty(len(wav_XS), wav_XS.shape[1] // bands.hop + 1)
        self._mel(wav_XS, bands, out.shape[1], wanted, (linear, floor), out)
        return out

    def _mel(
        self,
        wav_XS: Tensor,
        bands: MelBands,
        frames: int,
        wanted: tuple[Tensor, ...] = (),
        scales: tuple[float, float] = (1.0, 1.0),
        out: Tensor | None = None,
        mel: Tensor | None = None,
    ) -> None:
        wav_XS = wav_XS.contiguous()
        rows, samples = wav_XS.shape
        threads = max(1, min(torch.get_num_threads(), rows * frames // ROWS_PER_THREAD))
        scratch = torch.empty(threads * (5 * bands.size // 2 + 1) * LANES)
        tables = (bands.window, bands.turns, bands.starts, bands.bins, bands.weights)
        places: list[int | None] = [*(table.data_ptr() for table in wanted)] or [None, None]
        task = CMelDistance(
            *(ctypes.addressof(self.openmp), wav_XS.data_ptr()),
            *(rows, samples, frames, bands.hop, bands.size, bands.num_bands),
            *(table.data_ptr() for table in tables),
            *places,
            *scales,
            *(None if array is None else array.data_ptr() for array in (out, mel)),
            scratch.data_ptr(),
        )
        self.functions.llmcodec_mel_distance(ctypes.byref(task), threads)


def in_panels(weight_MK: Tensor, inputs_per_word: int = 1) -> Tensor:
    """Weights as the kernels read them: panels of 64 outputs, (K / g, 64, g), g inputs in a word of 32 bits."""
    panels = [part.view(len(part), -1, inputs_per_word).transpose(0, 1).flatten() for part in weight_MK.split(PANEL)]
    return torch.cat(panels)


def threads_for(rows: int) -> int:
    """Number of threads for this many frames."""
    return max(1, min(torch.get_num_threads(), rows // ROWS_PER_THREAD))


def library() -> Kernels | None:
    """The kernels; None if they cannot run (`why_not` says why)."""
    return opened()[0]


def why_not() -> str:
    """Why the kernels cannot run here, in one line; '' if they can."""
    return opened()[1]


@lru_cache(maxsize=1)
def opened() -> tuple[Kernels | None, str]:
    """The kernels, or the reason why there are none; determined once per process."""
    try:
        why = missing()
        if why:
            return None, why
        source = whole_source()
        try:
            kernels = Kernels(compiled(source))
        except OSError:  # made by a machine of another kind that shares this cache
            kernels = Kernels(compiled(source, again=True))
    except AttributeError:
        return None, "this PyTorch came without OpenMP"
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        why = f"they could not be compiled and loaded: {error}"
        warnings.warn(f"kernels of the codec: {why}; it runs on PyTorch's operators, slower", stacklevel=2)
        return None, why
    return (kernels, "") if kernels.run_here() else (None, PROCESSOR)


def whole_source() -> bytes:
    """Both files as one."""
    return b"\n".join(path.read_bytes() for path in SOURCES)


def missing() -> str:
    """Why this machine cannot run the kernels, or ''."""
    if os.environ.get("LLMCODEC_NATIVE") == "0":
        return "LLMCODEC_NATIVE=0 says so"
    if os.name != "posix" or platform.machine().lower() not in ("x86_64", "amd64"):
        return "they are for x86-64 on Linux and other POSIX systems"
    if not processor_has("_is_vnni_supported"):
        return PROCESSOR
    return "" if compiler() else "no C compiler was found (cc, gcc or clang)"


def multiplies_bf16() -> bool:
    """The processor has AVX-512 BF16."""
    return processor_has("_is_avx512_bf16_supported")


def processor_has(question: str) -> bool:
    """One of the `torch.cpu._is_..._supported` questions; no where this PyTorch cannot be asked."""
    ask = getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())


def compiler() -> list[str]:
    """`$CC`, or the first of cc, gcc, clang on the path; empty if there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in ([chosen] if chosen else []) + [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    return []


def compiled(source: bytes, again: bool = False) -> Path:
    """The shared library of `source`, from the cache or compiled now; several processes may do so at once.

    A file's name ends with the hash of its bytes: a damaged one, which would kill the process, is compiled again. So is
    one that belongs to another user or that others may write: it could contain malicious code.

    Args:
        again: compile it even if it is there.

    Raises:
        ValueError: the compiler failed (the message quotes the start of its output).
        OSError, subprocess.SubprocessError: it could not be run or written.
    """
    command = [*compiler(), *FLAGS]
    name = f"native-{digest(source + ' '.join(command).encode())}"
    folder = own_cache_folder("kernels")
    kept = [] if again else sorted(folder.glob(f"{name}-*.so"))
    for path in kept:
        if is_own_file(path) and path.stem == f"{name}-{digest(path.read_bytes())}":
            return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "native.so"
        done = subprocess.run(
            [*command, "-x", "c", "-", "-o", str(made)], input=source, capture_output=True, timeout=COMPILE_SECONDS
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[:300]
            raise ValueError(f"{command[0]} ended with {done.returncode}: {said or 'and said nothing'}")
        made.chmod(0o700)
        return made.replace(folder / f"{name}-{digest(made.read_bytes())}.so")
