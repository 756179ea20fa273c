"""Our own CPU kernels against float64 models of their arithmetic, over shapes, batches, threads; compiling them."""

import ctypes
import math
import multiprocessing
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec import LLMCodecConfig
from llmcodec.codec import conformer as conformer_module
from llmcodec.codec.conformer import Conformer
from llmcodec.codec.fast import cpu_conformer, cpu_kernels, cpu_linear
from llmcodec.codec.fast.conformer import Layout, PackedConformer
from llmcodec.codec.fast.cpu_conformer import ROWS_PER_CALL, CpuConformer, calls, kernels_run, pack_conformer
from llmcodec.codec.fast.engine import LAYERS

needs_kernels = pytest.mark.skipif(cpu_kernels.library() is None, reason=f"no kernels here: {cpu_kernels.why_not()}")
THREADS = torch.get_num_threads()
NAMES = {"up_proj": "up", "down_proj": "down", "to_qkv": "qkv", "to_out": "out"}
NAMES |= {"pointwise_conv1": "pw1", "pointwise_conv2": "pw2"}


def config_of(**overrides) -> LLMCodecConfig:
    sizes = dict(hidden_size=64, encoder_layers=1, decoder_layers=1, head_dim=32, codebook_size=200)
    return LLMCodecConfig(**(sizes | overrides))


def conformer_of(config: LLMCodecConfig, layers: int = 1, seed: int = 0) -> Conformer:
    """Random weights, twice the usual size, norms and statistics too; float64."""
    torch.manual_seed(seed)
    conformer = Conformer(config, layers)
    with torch.no_grad():
        for module in conformer.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
            if isinstance(module, (nn.BatchNorm1d, nn.LayerNorm)):
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Linear):
                module.weight.mul_(2)
    return conformer.double().eval()


def kinds_of(precision: str = "fp32", attention: str = "fp32", **others: str) -> dict[str, str]:
    return {**dict.fromkeys(LAYERS, precision), "attention": attention, **others}


def run(conformer: Conformer, config: LLMCodecConfig, clips: list[Tensor], kinds: dict[str, str]) -> list[Tensor]:
    """The kernels on a padded batch of clips (T, D)."""
    packed = CpuConformer(conformer, config, kinds, lambda _: None)
    lengths = torch.tensor([len(clip) for clip in clips])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    batch = nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0).float()
    layout = Layout.of(*batch.shape[:2], mask)
    out = packed(layout.pack(batch), layout)
    return list(out.split(lengths.tolist()))


def noise(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CAUSAL = dict(attention_window=5, causal=True)
INTEGERS = [kinds_of("int16", "int16"), kinds_of("int8", "int8")]
SHAPES = [
    dict(),
    dict(attention_window=3),
    dict(attention_window=40),
    dict(attention_window=5, causal=True),
    dict(hidden_size=144, head_dim=48, attention_window=32),
    dict(hidden_size=128, head_dim=128, ffn_mult=1, conv_kernel_size=3),
    dict(hidden_size=80, head_dim=80, conv_kernel_size=1),
    dict(hidden_size=16, head_dim=16, ffn_mult=3, conv_kernel_size=63),
    dict(hidden_size=256, head_dim=256, attention_window=70),
]


@needs_kernels
@pytest.mark.parametrize("overrides", SHAPES, ids=str)
def test_fp32_equals_the_plain_conformer(overrides):
    config = config_of(**overrides)
    conformer = conformer_of(config, layers=2)
    lengths = [1, 2, 5, 6, 7, 16, 17, 47, 48, 49, 63, 64, 65, 130, 401]
    clips = [noise(length, config.hidden_size, seed=length) for length in lengths]
    with torch.inference_mode():
        for clip, got in zip(clips, run(conformer, config, clips, kinds_of()), strict=True):
            torch.testing.assert_close(got.double(), conformer(clip[None])[0], rtol=1e-5, atol=2e-5)


class Rounded(nn.Module):
    """A linear layer in float64 with weights and inputs rounded as the kernels say."""

    def __init__(self, linear: nn.Linear, kind: str):
        super().__init__()
        self.kind, self.bias = kind, linear.bias
        self.weight = self.symmetric(linear.weight.detach(), kind)

    @staticmethod
    def symmetric(x: Tensor, kind: str) -> Tensor:
        """bf16, or integers with one step per row."""
        if kind == "bf16":
            return x.bfloat16().double()
        step = x.abs().amax(-1, keepdim=True) / (127 if kind == "int8" else 32767)
        if kind == "int16":  # the norms of two rows stay below 2^15.5
            filled = -(-x.shape[-1] // 16) * 16
            step = step.maximum(x.norm(dim=-1, keepdim=True) / (46340 - filled**0.5))
        return (x / step).round() * step

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "int8":
            low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
            step = (high - low) / 255
            zero = (-low / step).round()
            x = ((x / step).round() + zero).clamp(0, 255).sub(zero) * step
        else:
            x = self.symmetric(x, self.kind)
        return F.linear(x, self.weight, self.bias)


@needs_kernels
@pytest.mark.parametrize("kind", ["bf16", "int16", "int8"])
@pytest.mark.parametrize("layer", NAMES)
def test_every_matrix_equals_its_own_arithmetic(layer, kind):
    """Nearer to the float64 model of its rounding than that is to the exact result, by far."""
    config = config_of(attention_window=6)
    conformer = conformer_of(config)
    clip = noise(90, config.hidden_size)
    with torch.inference_mode():
        exact = conformer(clip[None])[0]
        (got,) = run(conformer, config, [clip], kinds_of(**{NAMES[layer]: kind}))
        for parent in list(conformer.modules()):
            if isinstance(getattr(parent, layer, None), nn.Linear):
                setattr(parent, layer, Rounded(getattr(parent, layer), kind))
        expected = conformer(clip[None])[0]
    rounding = (expected - exact).norm()
    bound = {"bf16": 3e-2, "int16": 5e-3, "int8": 1e-1}[kind]
    assert 1e-5 < rounding / exact.norm() < bound
    assert (got.double() - expected).norm() < 0.15 * rounding


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix; for a size that is no power of 2, blocks of 16."""
    block = 16 if size & (size - 1) else size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < block:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return torch.block_diag(*[matrix] * (size // block)) / block**0.5


def rounded_attention(kind: str, values: str, allowed: Tensor):
    """`mix` of conformer.py in float64, with queries, keys, weights and values rounded as the kernels say."""

    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[-1]
        query, key = (x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2) for x in (query, key))  # pairs
        if kind == "int8":
            query, key = query @ hadamard(size), key @ hadamard(size)
        query, key = (Rounded.symmetric(x, kind) for x in (query / size**0.5 / math.log(2), key))
        weight = (query @ key.transpose(-1, -2)).masked_fill(~allowed, -torch.inf)
        weight = (weight - weight.amax(-1, keepdim=True)).exp2()
        total = weight.sum(-1, keepdim=True)
        if values == "bf16":
            weight, value = weight.bfloat16().double(), value.bfloat16().double()
        return weight @ value / total

    return mix


@needs_kernels
@pytest.mark.parametrize("values", ["fp32", "bf16"])
@pytest.mark.parametrize("overrides", [dict(), dict(attention_window=9), dict(hidden_size=96, head_dim=48)], ids=str)
@pytest.mark.parametrize("kind", ["bf16", "int16", "int8"])
def test_attention_equals_its_own_arithmetic(kind, overrides, values, monkeypatch):
    """With and without a processor that multiplies bf16, which values and their weights are kept in where it can."""
    if "bf16" in (values, kind) and not cpu_kernels.multiplies_bf16():
        pytest.skip("no AVX-512 BF16 here")
    monkeypatch.setattr(cpu_conformer, "multiplies_bf16", lambda: values == "bf16")
    config = config_of(**overrides)
    conformer = conformer_of(config)
    with torch.no_grad():
        conformer.layers[0].attn.to_qkv.weight[: 2 * config.hidden_size] *= 2  # attention that looks at few frames
    clip = noise(200, config.hidden_size)
    time = torch.arange(200)
    allowed = (time[:, None] - time).abs() <= (config.attention_window or 200)
    with torch.inference_mode():
        exact = conformer(clip[None])[0]
        (got,) = run(conformer, config, [clip], kinds_of(attention=kind))
        monkeypatch.setattr(conformer_module, "attention_over", lambda *_: rounded_attention(kind, values, allowed))
        expected = conformer(clip[None])[0]
    rounding = (expected - exact).norm()
    assert 1e-5 < rounding / exact.norm() < {"bf16": 1e-2, "int16": 2e-3, "int8": 5e-2}[kind]
    assert (got.double() - expected).norm() < 0.15 * rounding


@needs_kernels
def test_one_loud_channel_of_the_keys_does_not_drown_the_others():
    """int8 queries and keys are spread over all channels first; without that the error is 10.8 % (measured once)."""
    config = config_of(hidden_size=64, head_dim=64)
    conformer = conformer_of(config)
    with torch.no_grad():
        layer = conformer.layers[0]
        layer.attn_layer_norm.bias[5] = 3.0
        layer.attn.to_qkv.weight[64 + 31].zero_()[5] = 30.0  # the channel that turns least
        layer.attn.to_qkv.weight[31] *= 0.01
    clip = noise(60, 64)
    with torch.inference_mode():
        exact = conformer(clip[None])[0]
        (got,) = run(conformer, config, [clip], kinds_of(attention="int8"))
    assert (got.double() - exact).norm() / exact.norm() < 0.04


@needs_kernels
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("width", [16, 64, 512])
def test_int16_sums_cannot_overflow(width, sign):
    """Inputs parallel to the weights: the largest sum that two such rows can have."""
    config = config_of(hidden_size=width, head_dim=16, ffn_mult=4)
    conformer = conformer_of(config)
    pattern = torch.tensor([1.0, -1.0]).double().repeat(width // 2)
    with torch.no_grad():
        layer = conformer.layers[0]
        for linear in (layer.ffn1.up_proj, layer.ffn2.up_proj):
            linear.weight.copy_(sign * pattern.expand_as(linear.weight)).mul_(2.0 / width)
        for norm in (layer.ffn1_layer_norm, layer.ffn2_layer_norm):
            norm.weight.fill_(1.0), norm.bias.zero_()
    clip = pattern.expand(7, -1) * torch.tensor([1e-3, 0.1, 1, 3, 10, 1e3, 1e6]).double()[:, None]
    with torch.inference_mode():
        (got,) = run(conformer, config, [clip], kinds_of("int16"))
        torch.testing.assert_close(got.double(), conformer(clip[None])[0], rtol=0, atol=5e-3)


@needs_kernels
@pytest.mark.parametrize("overrides", [dict(), *({"attention_window": n} for n in (7, 60)), CAUSAL])
@pytest.mark.parametrize("kinds", [kinds_of(), kinds_of("bf16", "bf16"), *INTEGERS])
def test_a_frame_depends_on_no_other_clip_and_no_thread(kinds, overrides):
    config = config_of(**overrides)
    conformer = conformer_of(config, layers=2)
    clips = [noise(length, 64, seed=length) for length in (130, 1, 77, 64, 401)]
    try:
        torch.set_num_threads(1)
        alone = [run(conformer, config, [clip], kinds)[0] for clip in clips]
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for got, expected in zip(run(conformer, config, clips, kinds), alone, strict=True):
                assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(THREADS)


def coded_in_a_fork(packed: CpuConformer, rows: Tensor, queue) -> None:
    torch.set_num_threads(1)  # as in a worker of PyTorch's DataLoader
    queue.put(packed(rows.clone(), Layout.of(1, len(rows), None)).tolist())


@needs_kernels
def test_a_forked_worker_codes_on_one_thread():
    config = config_of()
    packed = CpuConformer(conformer_of(config), config, kinds_of(), lambda _: None)
    rows = noise(200, 64).float()
    torch.set_num_threads(2)
    try:
        expected = packed(rows.clone(), Layout.of(1, 200, None))  # OpenMP has started its threads
    finally:
        torch.set_num_threads(THREADS)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=coded_in_a_fork, args=(packed, rows, queue))
    worker.start()
    try:
        assert torch.equal(torch.tensor(queue.get(timeout=60)), expected)
    finally:
        worker.kill()


@needs_kernels
def test_silence_and_equal_frames():
    config = config_of()
    conformer = conformer_of(config)
    for clip in (torch.zeros(50, 64).double(), torch.full((50, 64), -3.0).double()):
        for kinds in (kinds_of(), *INTEGERS):
            (got,) = run(conformer, config, [clip], kinds)
            with torch.inference_mode():
                expected = conformer(clip[None])[0]
            assert bool(got.isfinite().all()) and (got.double() - expected).norm() < 0.05 * expected.norm()


@needs_kernels
@pytest.mark.parametrize("kinds", [kinds_of(), kinds_of("bf16", "bf16"), *INTEGERS])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_visible(kinds, bad):
    config = config_of(attention_window=3)
    conformer = conformer_of(config)
    clip = noise(100, 64)
    (clean,) = run(conformer, config, [clip], kinds)
    clip[50, 7] = bad
    (got,) = run(conformer, config, [clip], kinds)
    assert bool(got[50].isnan().all())
    assert torch.equal(got[:17], clean[:17]) and torch.equal(got[90:], clean[90:])  # out of sight, whole panels of keys
    linear = cpu_linear.pack_linear(nn.Linear(64, 32), "int16" if kinds["up"] != "int8" else "int8")
    with torch.inference_mode():
        out = linear(clip.float())
    assert bool(out[50].isnan().all()) and bool(out[:50].isfinite().all()) and bool(out[51:].isfinite().all())


def test_long_batches_go_in_several_calls():
    lengths = [3000, 1000, 96, 1, 5000, 5, 5]
    mask = torch.arange(5000) < torch.tensor(lengths)[:, None]
    parts = list(calls(Layout.of(len(lengths), 5000, mask)))
    assert parts == [(0, [3000, 1000, 96]), (4096, [1]), (4097, [5000]), (9097, [5, 5])]
    assert all(sum(part) <= ROWS_PER_CALL or len(part) == 1 for _, part in parts)
    assert list(calls(Layout.of(1, 3, torch.zeros(1, 3, dtype=torch.bool)))) == []


@needs_kernels
def test_many_short_clips_over_several_calls():
    config = config_of(attention_window=3)
    conformer = conformer_of(config)
    clips = [noise(40 + i % 3, 64, seed=i) for i in range(110)]
    got = run(conformer, config, clips, kinds_of())
    for i in (0, 57, 99, 100, 109):
        assert torch.equal(got[i], run(conformer, config, [clips[i]], kinds_of())[0])


def test_what_the_kernels_do_not_take(monkeypatch):
    cpu = torch.device("cpu")
    assert kernels_run(config_of(), cpu) == (cpu_kernels.library() is not None)
    assert not kernels_run(config_of(), torch.device("meta"))
    assert not kernels_run(config_of(hidden_size=40, head_dim=40), cpu)
    assert not kernels_run(config_of(hidden_size=64, head_dim=8), cpu)
    assert not kernels_run(config_of(hidden_size=512, head_dim=512), cpu)


@needs_kernels
@pytest.mark.parametrize("amx", [False, True])
def test_bf16_goes_to_pytorch_without_bf16_and_with_amx(amx, monkeypatch):
    monkeypatch.setattr(cpu_conformer, "multiplies_bf16", lambda: amx)
    monkeypatch.setattr(cpu_conformer, "processor_has", lambda question: amx)
    conformer = conformer_of(config_of())
    for kinds, kind in ((kinds_of("bf16", "bf16"), PackedConformer), (kinds_of("int8", "int8"), CpuConformer)):
        assert isinstance(pack_conformer(conformer, config_of(), kinds, lambda _: None), kind)


@needs_kernels
@pytest.mark.parametrize(
    ("rows", "codes", "width"), [(1, 16, 8), (5, 1, 3), (50, 200, 8), (7, 333, 1), (300, 20480, 8)]
)
def test_the_nearest_code_and_the_first_of_equals(rows, codes, width):
    queries, table = noise(rows, width), F.normalize(noise(codes, width, seed=1), dim=-1)
    table[codes // 2] = table[0]
    queries[0] = table[0]
    padded = torch.cat((table, table[-1:].expand(-codes % 16, -1))).float()
    got = cpu_kernels.library().look_up(queries, cpu_kernels.in_panels(padded), len(padded))
    scores = queries @ table.T
    best = scores.amax(-1)
    assert bool((got < codes).all()) and bool((best - scores.gather(1, got[:, None])[:, 0] < 1e-6).all())
    assert int(got[0]) == int((scores[0] >= best[0] - 1e-9).nonzero()[0])


@needs_kernels
@pytest.mark.parametrize("kind", ["int16", "int8"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 5, 3), (7, 33, 64), (100, 1282, 16), (49, 16, 130)])
def test_a_linear_layer_of_any_size(rows, inputs, outputs, kind):
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs).double()
    x = 3 * noise(rows, inputs) + 1
    with torch.inference_mode():
        exact = linear(x)
        expected = Rounded(linear, kind)(x)
        got = cpu_linear.pack_linear(linear, kind)(x.float())
    assert got.shape == exact.shape
    assert (got.double() - expected).norm() < 0.15 * (expected - exact).norm() + 1e-6 * exact.norm()


@needs_kernels
def test_both_files_have_the_same_sizes():
    functions = cpu_kernels.library().functions
    assert tuple((ctypes.c_int32 * len(cpu_kernels.SIZES)).in_dll(functions, "llmcodec_sizes")) == cpu_kernels.SIZES


# -- compiling ---------------------------------------------------------------------------------------------------------
needs_compiler = pytest.mark.skipif(not cpu_kernels.compiler(), reason="no C compiler on this machine")


@needs_compiler
def test_it_is_compiled_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = b"int answer(void) { return 42; }"
    first = cpu_kernels.compiled(source)
    stamp = first.stat().st_mtime_ns
    assert cpu_kernels.compiled(source) == first and first.stat().st_mtime_ns == stamp
    assert cpu_kernels.compiled(source + b"\n") != first
    assert [path.suffix for path in first.parent.iterdir()] == [".so", ".so"], "nothing half-made is left"
    assert first.stat().st_mode & 0o777 == first.parent.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_only_files_of_the_user_are_loaded(tmp_path, monkeypatch):
    """Another user of a shared cache could leave a library there, named as ours."""
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path))
    source = b"int answer(void) { return 42; }"
    ours = cpu_kernels.compiled(source)
    theirs = ours.with_name(ours.stem.rpartition("-")[0] + f"-{cpu_kernels.digest(b'evil')}.so")

    def plant(how: Callable[[Path], object]) -> Path:
        theirs.unlink(missing_ok=True)
        theirs.write_bytes(b"evil")
        how(theirs)
        ours.unlink(missing_ok=True)
        return cpu_kernels.compiled(source)

    def link(path: Path) -> None:
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")

    assert plant(lambda path: path.chmod(0o644)) == theirs, "it would be taken if it were the user's own"
    assert plant(lambda path: path.chmod(0o664)) == ours
    assert plant(lambda path: path.chmod(0o646)) == ours
    assert plant(link) == ours
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: another_user(lstat(path)) if path == theirs else lstat(path))
    assert plant(lambda path: path.chmod(0o644)) == ours


def another_user(found: os.stat_result) -> os.stat_result:
    fields = list(found)
    fields[stat.ST_UID] = os.geteuid() + 1
    return os.stat_result(fields)


@needs_compiler
def test_a_folder_of_another_user_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path))
    source = b"int answer(void) { return 42; }"
    folder = cpu_kernels.compiled(source).parent
    folder.chmod(0o777)
    assert cpu_kernels.compiled(source).parent == folder and folder.stat().st_mode & 0o777 == 0o700
    lstat = Path.lstat
    with monkeypatch.context() as fake, pytest.warns(UserWarning, match=f"{folder}: belongs to another user"):
        fake.setattr(Path, "lstat", lambda path: another_user(lstat(path)) if path == folder else lstat(path))
        assert tmp_path not in cpu_kernels.compiled(source).parents
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=f"{folder}: is a link"):
        assert tmp_path not in cpu_kernels.compiled(source).parents


QUICKLY = "from llmcodec.codec.fast import cpu_kernels; cpu_kernels.FLAGS.append('-O0'); "


@pytest.fixture
def compiled_quickly(monkeypatch):
    """Without optimisation: a second instead of seven."""
    monkeypatch.setattr(cpu_kernels, "FLAGS", [*cpu_kernels.FLAGS, "-O0"])


@needs_kernels
def test_damaged_files_are_made_again(tmp_path, compiled_quickly):
    """Loading what is left of a library kills the process (SIGBUS), so this happens in another one."""
    good = cpu_kernels.compiled(cpu_kernels.whole_source())
    files = []
    for size in (0, 100, 40_000):
        files.append(tmp_path / str(size) / "llmcodec" / good.parent.name / good.name)
        files[-1].parent.mkdir(parents=True)
        files[-1].write_bytes(good.read_bytes()[:size])
        files[-1].chmod(0o600)
    code = QUICKLY + (
        "import os, sys\n"
        "for os.environ['XDG_CACHE_HOME'] in sys.argv[1:]:\n"
        "    print(cpu_kernels.opened.__wrapped__()[1]); print(cpu_kernels.compiled(cpu_kernels.whole_source()))"
    )
    command = [sys.executable, "-c", code, *(str(file.parents[2]) for file in files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines() == [line for file in files for line in ("", str(file))]
    assert all(file.read_bytes() == good.read_bytes() for file in files)


@needs_kernels
def test_a_library_of_another_machine_is_made_again(tmp_path, monkeypatch, compiled_quickly):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cpu_kernels.compiled(cpu_kernels.whole_source())
    foreign = path.with_name(path.stem.rpartition("-")[0] + f"-{cpu_kernels.digest(b'musl')}.so")
    path.unlink()
    foreign.write_bytes(b"musl")
    foreign.chmod(0o600)
    assert cpu_kernels.opened.__wrapped__()[0] is not None and path.exists()


@needs_compiler
@pytest.mark.skipif(cpu_kernels.platform.machine() != "x86_64", reason="instructions of another processor")
def test_no_warning_of_the_compiler(tmp_path):
    strict = ["-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "library.so"), "-x", "c", "-"]
    command = [*cpu_kernels.compiler(), *cpu_kernels.FLAGS, *strict]
    done = subprocess.run(command, input=cpu_kernels.whole_source().decode(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_compiler
def test_a_source_that_does_not_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="error"):
        cpu_kernels.compiled(b"this is no C")
    assert not [path for path in (tmp_path / "llmcodec").rglob("*") if not path.is_dir()]


@needs_compiler
def test_several_processes_compile_at_once(tmp_path):
    code = QUICKLY + "print(cpu_kernels.compiled(cpu_kernels.whole_source()))"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0] for process in started}
    assert len(paths) == 1 and all(process.returncode == 0 for process in started)
    assert len([path for path in (tmp_path / "llmcodec").rglob("*") if path.is_file()]) == 1


def asked(monkeypatch, **env: str) -> tuple[object, str]:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return cpu_kernels.opened.__wrapped__()


def on_a_processor_that_has_it_all(monkeypatch) -> None:
    monkeypatch.delenv("LLMCODEC_NATIVE", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "x86_64")


def test_machines_without_it(tmp_path, monkeypatch):
    assert asked(monkeypatch, LLMCODEC_NATIVE="0") == (None, "LLMCODEC_NATIVE=0 says so")
    monkeypatch.delenv("LLMCODEC_NATIVE")
    monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "arm64")
    assert "x86-64" in asked(monkeypatch)[1]
    on_a_processor_that_has_it_all(monkeypatch)
    monkeypatch.setattr(cpu_kernels.shutil, "which", lambda name: None)
    assert asked(monkeypatch) == (None, "no C compiler was found (cc, gcc or clang)")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert "VNNI" in asked(monkeypatch)[1]


@pytest.mark.parametrize("command", ["false", "true", 'gcc "'])
def test_a_compiler_that_fails_is_said_once_and_pytorch_runs(command, tmp_path, monkeypatch):
    on_a_processor_that_has_it_all(monkeypatch)
    with pytest.warns(UserWarning, match="could not be compiled and loaded.*PyTorch's operators"):
        found, why = asked(monkeypatch, CC=command, XDG_CACHE_HOME=str(tmp_path))
    assert found is None and "could not be compiled" in why
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_without_a_cache_it_is_compiled_for_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    assert asked(monkeypatch, XDG_CACHE_HOME=str(tmp_path / "file"))[0] is not None
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cpu_kernels.opened.__wrapped__()[0] is not None
