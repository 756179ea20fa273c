"""URLs as options of commands: every option has its place, results arrive, nothing is written to a folder `s3:`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import fsspec
import pytest

from llmcodec import assets
from llmcodec.cli.commands import COMMANDS, Command
from llmcodec.cli.main import main
from llmcodec.cli.parser import options_of
from llmcodec.cli.urls import FIELDS, OPTIONS, Kind, forget_urls, local_recipe, local_value
from llmcodec.io.remote import paths
from llmcodec.io.remote.store import list_files

from ..s3_server import S3, s3

__all__ = ["s3"]
TEXTS = ("device", "sources", "languages", "max_bad", "split", "metrics", "asr_languages", "domain", "parts", "asr")
TEXTS += ("key", "text_column", "audio_column", "id_column", "speaker_column", "name", "shard")
"""Options that are no paths and refuse URLs."""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in an empty folder and leaves no folder that is called like a scheme, and nothing staged."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths.forget()
    yield
    assert [path.name for path in (tmp_path / "here").iterdir() if path.name.endswith(":")] == []
    paths.forget()


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


CLIPS = ("a/0", "a/2", "b/1")


def names(url: str) -> list[str]:
    return [name[len(url) + 1 :] for name, _ in list_files(url)]


def commands() -> dict[str, Any]:
    found = {}
    for name, entry in COMMANDS.items():
        group = {name: entry} if isinstance(entry, Command) else {f"{name} {one}": each for one, each in entry.items()}
        for full, command in group.items():
            module, _, function = command.target.partition(":")
            found[full] = getattr(import_module(f"llmcodec.{module}"), function)
    return found


WITH_OPTIONS = {name: it for name, it in commands().items() if list(signature(it).parameters) != ["arguments"]}


def test_every_option_that_takes_text_has_its_place():
    assert len(WITH_OPTIONS) > 15
    unknown = {
        f"{command} {option.name}"
        for command, function in WITH_OPTIONS.items()
        for option in options_of(function)
        if "str" in str(option.hint) and "Literal" not in str(option.hint)
        if f"{command} {option.name}" not in OPTIONS and option.name not in (*OPTIONS, *TEXTS)
    }
    assert not unknown, "put these into cli/urls.py OPTIONS, or here into TEXTS if they are no paths"


@pytest.mark.parametrize("command", WITH_OPTIONS)
def test_no_option_of_any_command_makes_a_folder_of_a_url(command: str, monkeypatch: pytest.MonkeyPatch):
    """What the function gets for a URL is never a relative path; unknown kinds of URLs are refused."""
    for option in options_of(WITH_OPTIONS[command]):
        kind = OPTIONS.get(f"{command} {option.name}") or OPTIONS.get(option.name)
        if "str" not in str(option.hint) or "Literal" in str(option.hint) or kind is Kind.TEXT:
            continue
        with pytest.raises(ValueError, match="no such kind of path as nope://|takes no URL"):
            local_value(command, option.name, "nope://bucket/t")
        if kind is None:
            with pytest.raises(ValueError, match=f"--{option.name.replace('_', '-')} .*takes no URL"):
                local_value(command, option.name, ["memory://a/b"])
            continue
        taken = local_value(command, option.name, ("memory://a/b",))
        place = Path(taken[0])
        assert place.is_absolute() and paths.url_of(place) == "memory://a/b" or kind is Kind.OWN
        assert local_value(command, option.name, "file:///a/b") in ("/a/b", "file:///a/b")
    forget_urls()


def fields_of(kind: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind).items():
        inner = [one for one in (hint, *get_args(hint)) if isinstance(one, type) and dataclasses.is_dataclass(one)]
        for one in inner:
            yield from fields_of(one, f"{before}{name}.")
        if not inner:
            yield f"{before}{name}", hint


def test_fields_of_recipes_that_are_paths_are_known():
    from llmcodec.lm.recipe import TokenLMRecipe
    from llmcodec.training.recipe import Recipe

    known = {name for kind in (Recipe, TokenLMRecipe) for name, _ in fields_of(kind)}
    assert set(FIELDS) - known == {"manifest"}  # of a sweep
    recipe = local_recipe(Recipe(run="memory://a/run"))
    assert paths.url_of(recipe.run) == "memory://a/run"
    with pytest.raises(ValueError, match=r"^--codec.audio_kind memory://a: takes no URL"):
        local_recipe(dataclasses.replace(recipe, codec=dataclasses.replace(recipe.codec, audio_kind="memory://a")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "x.yaml", "--manifest", "bundled", "-o", "memory://a/b"],
        ["quickstart", "-o", "memory://a/b"],
        ["encode", "x.wav", "-o", "nope://a/b"],
        ["encode", "x.wav", "-o", "memory://a/../b"],
        ["compare", "bundled", "--device", "s3://cpu"],
        ["train", "--config", "rate", "-o", "nope://a"],
        ["lm", "train", "-o", "nope://a"],
        ["train", "--config", "nope://a.yaml"],
    ],
    ids=" ".join,
)
def test_urls_where_none_is_taken_are_refused_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    Path("x.yaml").write_text("rows: {}\n")
    assert main(arguments) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "://" in said[0]
    assert [path.name for path in Path.cwd().iterdir()] == ["x.yaml"]


def put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(content)


def recipe_with(run: str) -> Any:
    from llmcodec.training.recipe import Recipe

    return Recipe(run=run)


def corpus_files() -> list[Path]:
    return (
        sorted(assets.speech_manifest().parent.rglob("*.flac"))[:3]
        or sorted(assets.speech_manifest().parent.rglob("*.ogg"))[:3]
    )


def fill(url: str) -> list[Path]:
    """Three recordings below `url`."""
    files = corpus_files()
    assert len(files) == 3
    for index, path in enumerate(files):
        with fsspec.open(f"{url}/{'ab'[index % 2]}/{index}{path.suffix}", "wb") as file:
            file.write(path.read_bytes())
    return files


def test_encode_and_decode_from_a_url_to_a_url(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(f"{url}/speech")
    local = paths.bring(f"{url}/speech", lambda name: False)
    assert main(["encode", str(local), "-o", str(tmp_path / "tokens")]) == 0
    paths.forget()
    assert main(["encode", f"{url}/speech", "-o", f"{url}/tokens"]) == 0
    said = "".join(capsys.readouterr())
    assert f"{url}/tokens" in said and "llmcodec-urls" not in said
    assert names(f"{url}/tokens") == [".encoded.json", "a/0.safetensors", "a/2.safetensors", "b/1.safetensors"]
    for name in names(f"{url}/tokens"):
        with fsspec.open(f"{url}/tokens/{name}") as file:
            assert file.read() == (tmp_path / "tokens" / name).read_bytes()
    assert main(["encode", f"{url}/speech", "-o", f"{url}/tokens"]) == 1
    assert f"{url}/tokens/a/0.safetensors: is there already" in capsys.readouterr().err
    assert main(["encode", f"{url}/speech", "-o", f"{url}/tokens", "--resume"]) == 0
    assert "encoded 0 files" in capsys.readouterr().err
    paths.forget()
    assert main(["encode", f"{url}/speech", "-o", f"{url}/tokens", "--resume", "--precision", "int8"]) == 1
    said = f"{url}/tokens: its results were made with precision auto, not int8"
    assert said in capsys.readouterr().err
    assert main(["decode", f"{url}/tokens", "-o", f"{url}/again", "--format", "flac"]) == 0
    assert names(f"{url}/again") == [".decoded.json", "a/0.flac", "a/2.flac", "b/1.flac"]


def test_a_manifest_in_a_store_names_audio_in_it(url: str, capsys: pytest.CaptureFixture[str]):
    fill(f"{url}/speech")
    assert main(["data", "manifest", f"{url}/speech", "--valid-share", "0", "--test-share", "0"]) == 0
    assert f"{url}/speech/manifest.jsonl: 3 clips" in capsys.readouterr().out
    with fsspec.open(f"{url}/speech/manifest.jsonl", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert sorted(row["audio"].split(".")[0] for row in rows) == ["a/0", "a/2", "b/1"]
    assert main(["data", "manifest", f"{url}/speech", "-o", "local.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("local.jsonl").read_text().splitlines()]
    assert all(row["audio"].startswith(f"{url}/speech/") for row in rows)
    for manifest in (f"{url}/speech/manifest.jsonl", f"{url}/speech", "local.jsonl"):
        target = f"{url}/tokens-{Path(manifest).name}"
        assert main(["tokenize", "--manifest", manifest, "-o", target, "--split", "train"]) in (0, 1)
    assert any(name.startswith("shard-") for name in names(f"{url}/tokens-speech"))
    assert main(["tokens", "verify", f"{url}/tokens-speech"]) == 0


def test_a_report_and_its_values_arrive(url: str):
    assert main(["evaluate", "consistency", "--codec", "bundled", "--clips", "2", "-o", f"{url}/c/consistency"]) == 0
    assert names(f"{url}/c") == ["consistency.json", "consistency.md"]


def test_run_folders_are_resumed_from_their_newest_whole_checkpoint(url: str):
    for name in (
        "run.json",
        "log.jsonl",
        "checkpoints/step_00000001/state.json",
        "checkpoints/step_00000001/a.safetensors",
    ):
        put(f"{url}/run/{name}", b"{}")
    for name in ("state.json", "a.safetensors"):
        put(f"{url}/run/checkpoints/step_00000002/{name}", b"[2]")
    put(f"{url}/run/checkpoints/step_00000003/a.safetensors", b"3")  # its marker never came
    run = Path(local_recipe(recipe_with(f"{url}/run")).run)
    steps = run / "checkpoints"
    assert (steps / "step_00000002" / "a.safetensors").read_bytes() == b"[2]" and (run / "run.json").read_text() == "{}"
    assert (steps / "step_00000001" / "a.safetensors").stat().st_blocks == 0
    assert not (steps / "step_00000003").exists()
    forget_urls()


def test_a_model_comes_without_the_checkpoints_of_its_run(url: str):
    for name in (
        "codec/config.json",
        "codec/model.safetensors",
        "checkpoints/step_00000001/a.safetensors",
        "checkpoint-5/x",
    ):
        put(f"{url}/run/{name}", b"{}")
    for spelled in ("{}", "mine={}", "search:{}", "search@0.2:{}", "auv:{}", "{}:8"):
        taken = local_value("compare", "codec", [spelled.format(f"{url}/run")])[0]
        before, after = spelled.split("{}")
        assert taken.startswith(before) and taken.endswith(after)
        place = Path(taken[len(before) : len(taken) - len(after)])
        assert (place / "codec" / "model.safetensors").read_bytes() == b"{}"
        assert [path.name for path in place.iterdir()] == ["codec"]
    forget_urls()


def test_a_url_that_lost_a_slash_is_that_url_and_a_searching_codec_is_none():
    assert paths.url_of(local_value("encode", "output", "memory:/a/b")) == "memory://a/b"
    for name in ("search:/data/codec", "mine=search@0.5:/data/codec", "auv:/data/auv.pt", "/data/codec:8"):
        assert local_value("compare", "codec", name) == name
    forget_urls()


def test_a_checkpoint_of_the_hub_is_left_to_convert():
    assert local_value("convert", "checkpoint", "hf://owner/name/x.ckpt") == "hf://owner/name/x.ckpt"


def test_several_processes_need_a_run_folder_that_all_see(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"^{url}/run: several processes need a run folder on a disk"):
        local_recipe(recipe_with(f"{url}/run"))


def test_a_resumed_recipe_is_compared_by_its_urls(url: str):
    from llmcodec.io.run_guard import changed_fields

    recipe = recipe_with(f"{url}/run")
    taken = local_recipe(recipe)
    assert taken.run != recipe.run and not changed_fields(dataclasses.asdict(recipe), taken)
    forget_urls()


def test_s3_every_tenth_request_fails_and_nothing_is_written_twice(s3: S3):
    fill(f"{s3.url}/speech")
    s3.requests.clear()
    s3.fail = lambda method, path, count: count % 10 == 0
    assert main(["encode", f"{s3.url}/speech", "-o", f"{s3.url}/tokens"]) == 0
    assert len(s3.requests) > 10
    tokens = [f"tokens/{name}" for name in (".encoded.json", *(f"{clip}.safetensors" for clip in CLIPS))]
    assert sorted(name for name in s3.written() if name.startswith("tokens/")) == tokens


def test_s3_a_store_that_fails_stops_the_run_in_a_line_and_it_resumes(s3: S3, capsys: pytest.CaptureFixture[str]):
    fill(f"{s3.url}/speech")
    s3.fail = lambda method, path, count: method == "PUT" and "/tokens/b" in path
    arguments = ["encode", f"{s3.url}/speech", "-o", f"{s3.url}/tokens", "--workers", "1"]
    assert main(arguments) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{s3.url}/tokens/b/1.safetensors: the store failed to write it" in said and "5 times" in said
    s3.fail = lambda method, path, count: False
    assert main([*arguments, "--resume"]) == 0
    written = [name for name in s3.written() if name.startswith("tokens/")]
    assert sorted(written) == ["tokens/.encoded.json", *(f"tokens/{clip}.safetensors" for clip in CLIPS)]


@pytest.mark.parametrize("refusal", [(403, "AccessDenied"), (400, "ExpiredToken")])
def test_s3_refusals_are_one_line(s3: S3, refusal: tuple[int, str], capsys: pytest.CaptureFixture[str]):
    fill(f"{s3.url}/speech")
    s3.fail = lambda method, path, count: refusal if method == "PUT" and "/tokens/" in path else False
    assert main(["encode", f"{s3.url}/speech", "-o", f"{s3.url}/tokens"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("llmcodec encode: s3://corpus/tokens/") and "no permission to write it" in said
    s3.fail = lambda method, path, count: refusal
    before = len(s3.requests)
    assert main(["encode", f"{s3.url}/speech", "-o", f"{s3.url}/tokens"]) == 1
    said = capsys.readouterr().err.strip()  # the answer to HEAD has no body that could say more
    assert ("no permission to" in said or "expired credentials look like that" in said) and "\n" not in said
    assert len(s3.requests) - before < 5
    s3.fail = lambda method, path, count: False
    assert not any(name.startswith("tokens") for name in s3.names())
