"""io/structured.py: what may come from anybody ends in values or in one line that names file and line."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmcodec.io.structured import (
    MAX_DEPTH,
    check_yaml,
    parse_json,
    read_json,
    read_lines,
    read_object,
    write_csv,
    write_json,
)

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def refused(function, *arguments, **options) -> str:
    """The message, which is one line and comes at once."""
    started = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        function(*arguments, **options)
    assert time.perf_counter() - started < 2
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


@given(TREES)
def test_json_comes_back_as_it_is(tree):
    text = json.dumps(tree)
    assert parse_json(text, "x") == tree == parse_json(text, "x", strict=True) == parse_json(f"\n{text}\n", "x")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"[[[":'])
def test_json_nested_too_deeply_names_the_line(opening, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"x":\n"]]]]",\n"y": ' + opening * 100_000)
    assert f"{path}, line 3: not JSON (nested too deeply" in refused(read_json, path)
    inside = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_json(f'["{"[" * 300}", {inside}]', "x")[1]
    assert "nested too deeply" in refused(parse_json, f"[[{inside}]]", "x")
    assert len(parse_json("[" + "[]," * 500 + "[]]", "x")) == 501
    assert "not JSON" in refused(parse_json, "[" * 101 + '"' + "a" * 1_000_000, "x")


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "x: not JSON (Expecting value at column 1)"),
        ("{'a': 1}", "x: not JSON (Expecting property name enclosed in double quotes at column 2)"),
        ('{"a":\n 1,\n}', "x: not JSON (Expecting property name enclosed in double quotes at line 3, column 1)"),
        ("9" * 10_000, "x: not JSON (Exceeds the limit"),
    ],
)
def test_what_is_no_json_says_where(text, said):
    assert refused(parse_json, text, "x").startswith(said)


def test_json_has_each_key_once():
    assert refused(parse_json, '{"a": 1, "b": 2, "a": 3}', "x") == "x: not JSON (the key 'a' stands twice)"


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_strict_json_has_finite_numbers(text):
    parse_json(text, "x")
    assert "x: not JSON (" in refused(parse_json, text, "x", strict=True)


def test_files_have_a_size_an_encoding_and_a_kind(tmp_path):
    path = write_json(tmp_path / "new" / "a.json", {"ü": [1.5]}, ensure_ascii=False)
    assert path.read_text("utf-8") == '{\n "ü": [\n  1.5\n ]\n}\n' and read_object(path) == {"ü": [1.5]}
    assert "more than 10 bytes, too large" in refused(read_object, path, max_bytes=10)
    path.write_bytes(b"\xff\xfe")
    assert "not a text in UTF-8" in refused(read_object, path)
    path.write_text("[]")
    assert "not a JSON object" in refused(read_object, path)
    path.write_text("\ufeff{}", encoding="utf-8")
    assert read_object(path) == {}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nowhere")


def test_csv_has_the_columns_asked_for(tmp_path):
    path = write_csv(tmp_path / "rows.csv", ["a", "b"], [{"a": 1, "c": 3}, {"b": "x,y"}])
    assert path.read_text() == 'a,b\n1,\n,"x,y"\n'


def test_lines_are_counted_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n[2]\n')
    assert list(read_lines(path)) == [(1, {"a": 1}), (3, [2])]
    path.write_text('1\n\n{"a": \n')
    assert f"{path}:3: not JSON" in refused(lambda: list(read_lines(path)))
    path.write_text("1\n" + "[" * 100_000)
    assert f"{path}:2: not JSON (nested too deeply" in refused(lambda: list(read_lines(path)))
    path.write_bytes(b"1\n\xff")
    assert "not a text in UTF-8" in refused(lambda: list(read_lines(path)))


def test_yaml_aliases_that_explode_are_refused_at_once():
    assert len(BOMB.splitlines()) == 9
    message = refused(check_yaml, BOMB, "bomb.yaml")
    assert message.startswith("bomb.yaml, line 5: ") and "by its aliases" in message
    check_yaml("\n".join(BOMB.splitlines()[:4]), "x")
    check_yaml("base: &b {lr: 1, steps: [1, 2]}\none: {<<: *b, lr: 2}\ntwo: *b\n", "x")


@pytest.mark.parametrize(
    "text,said",
    [
        ("a: 1\nb: " + "[" * 100_000, "x, line 2: lists or maps nested"),
        ("a: 1\nb: " + "{a: " * 100_000, "x, line 2: lists or maps nested"),
        ("\n".join("  " * i + "a:" for i in range(300)), "x, line 101: lists or maps nested"),
        ("a: &a\n  - *a", "x, line 2: the alias *a names nothing"),
        ("a: *b", "x, line 1: the alias *b names nothing"),
        ("a: [1, 2\nb: 3", "x, line 2: not YAML (expected ',' or ']', but got ':')"),
        ("a: !!python/object:os.system {}\n\x00", "x: not YAML ("),
    ],
)
def test_yaml_that_is_refused_names_the_line(text, said):
    assert refused(check_yaml, text, "x").startswith(said)


@given(TREES)
def test_yaml_of_any_tree_passes(tree):
    check_yaml(yaml.safe_dump(tree, allow_unicode=True), "x")
