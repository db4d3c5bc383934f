"""Files appear whole or not at all, and equal values give equal bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.platform import files
from lib.platform.errors import ConfigInvalid, NotFound, Unavailable

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
_JSON = st.recursive(_SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4))


def test_canonical_json_has_sorted_keys_no_blanks_and_plain_utf8() -> None:
    assert files.canonical_json({"b": [1, 2.5, None, True], "a": "é\n"}) == b'{"a":"\xc3\xa9\\n","b":[1,2.5,null,true]}'


def test_a_digest_is_the_sha256_of_the_canonical_json() -> None:
    assert files.digest_of({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()


@given(_JSON)
@settings(deadline=None, derandomize=True, max_examples=80)
def test_canonical_json_forgets_the_order_of_keys_and_nothing_else(value: Any) -> None:
    assert files.canonical_json(_reordered(value)) == files.canonical_json(value)
    assert json.loads(files.canonical_json(value)) == value
    assert json.loads(files.pretty_json(value)) == value
    assert files.pretty_json(_reordered(value)) == files.pretty_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_a_number_that_json_does_not_have_is_never_written(value: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    for write in (files.canonical_json, files.pretty_json, files.digest_of):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(target, value)
    assert _content(tmp_path) == {"x.json": b"old"}


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "big").write_bytes(content)
    assert files.sha256_file(tmp_path / "big") == hashlib.sha256(content).hexdigest()


def test_a_write_makes_the_folders_and_leaves_one_readable_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "x.json"
    files.write_json(target, {"b": 1, "a": "é"})
    assert _content(tmp_path) == {"a/b/x.json": '{\n  "a": "é",\n  "b": 1\n}\n'.encode()}
    assert target.stat().st_mode & 0o777 == 0o644


def test_json_lines_hold_one_canonical_document_a_line(tmp_path: Path) -> None:
    files.write_json_lines(tmp_path / "x.jsonl", [{"b": 1, "a": "two\nlines"}, [None]])
    assert (tmp_path / "x.jsonl").read_bytes() == b'{"a":"two\\nlines","b":1}\n[null]\n'


def test_a_write_replaces_the_whole_old_content(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "x", b"a long old content")
    files.write_bytes(tmp_path / "x", b"new")
    assert _content(tmp_path) == {"x": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_is_interrupted_leaves_the_old_content_alone(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(error), files.atomic_file(tmp_path / "x") as stream:
        stream.write(b"half of the n")
        raise error
    assert _content(tmp_path) == {"x": b"old"}


def test_a_writer_killed_half_way_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    code = (
        "import sys; from pathlib import Path; from lib.platform import files\n"
        "with files.atomic_file(Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); print('half written', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half written\n"
        writer.send_signal(signal.SIGKILL)
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_content_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    code = (
        "import resource, sys; from pathlib import Path; from lib.platform import cli, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "cli.run(lambda: files.write_bytes(Path(sys.argv[1]), b'n' * 100_000) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 13
    assert f"error: cannot write {tmp_path / 'x'}: file too large" in done.stderr
    assert "hint: free some space" in done.stderr
    assert _content(tmp_path) == {"x": b"old"}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Unavailable, match=f"cannot write {tmp_path}/file"):
        files.write_text(tmp_path / "file" / "x", "new")
    assert _content(tmp_path) == {"file": b"old"}


def test_a_missing_file_is_named_by_kind_and_path(tmp_path: Path) -> None:
    for read in (files.read_text, files.read_json):
        with pytest.raises(NotFound, match=f"no manifest at {tmp_path}/x"):
            read(tmp_path / "x", "manifest")


def test_a_folder_in_the_place_of_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"cannot read manifest {tmp_path}"):
        files.read_text(tmp_path, "manifest")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigInvalid, match=f"manifest {tmp_path}/x is not UTF-8"):
        files.read_text(tmp_path / "x", "manifest")


@given(_JSON)
@settings(deadline=None, derandomize=True, max_examples=30)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    target = tmp_path_factory.getbasetemp() / "round.json"
    files.write_json(target, value)
    assert files.read_json(target, "thing") == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"x": {"b": 1, "c": 2, "b": 1}}', "duplicate key 'b'"),
        ("[1, NaN]", "NaN is not a JSON value"),
        ("Infinity", "Infinity is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ('{"a": 1,\n "b" 2}', r"line 2 column 6"),
        ("{} trailing", "line 1 column 4"),
        ("", "line 1 column 1"),
        ("\ufeff{}", "BOM"),
        ("1" * 5000, "digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_could_be_misread_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=complaint) as caught:
        files.read_json(tmp_path / "x.json", "thing")
    assert str(tmp_path / "x.json") in caught.value.message


@pytest.mark.parametrize("text", ["1e999", '{"floor": -1e999}'])
def test_a_number_too_big_for_a_float_is_not_read_as_infinity(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigInvalid):
        files.read_json(tmp_path / "x.json", "thing")


def test_text_that_cannot_be_written_again_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(r'"\ud800"')
    with pytest.raises(ConfigInvalid):
        files.read_json(tmp_path / "x.json", "thing")


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reordered(value[key]) for key in reversed(list(value))}
    return [_reordered(item) for item in value] if isinstance(value, list) else value
