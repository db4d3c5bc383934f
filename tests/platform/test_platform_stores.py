"""A folder as a store: written once, whole or not at all, and no name leads out of it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.platform.errors import IntegrityMismatch, NotFound, Unavailable
from lib.platform.stores import AlreadyThere, FolderStore, check_key

ONE = "20260101-000000-aaaaaa/state.json"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "disk").mkdir()
    return FolderStore(tmp_path / "disk")


def write(store: FolderStore, key: str, content: bytes) -> None:
    store.write(key, io.BytesIO(content), len(content))


def test_what_was_written_is_read_listed_and_deleted(store: FolderStore, tmp_path: Path) -> None:
    write(store, "b/configs/history/x.json", b"one")
    write(store, "b/state.json", b"three")
    write(store, "c/state.json", b"")
    assert [(item.key, item.bytes) for item in store.objects("b/")] == [
        ("b/configs/history/x.json", 3),
        ("b/state.json", 5),
    ]
    assert [item.key for item in store.objects()] == ["b/configs/history/x.json", "b/state.json", "c/state.json"]
    with store.read("b/state.json") as stream:
        assert stream.read() == b"three"
    assert store.head("b/configs") is None
    assert store.head("b/other") is None
    store.delete("b/configs/history/x.json")
    assert sorted(os.listdir(tmp_path / "disk" / "b")) == ["state.json"]
    store.delete("b/state.json")
    store.delete("b/state.json")
    assert os.listdir(tmp_path / "disk") == ["c"]
    with pytest.raises(NotFound, match=r"no b/state\.json in"):
        store.read("b/state.json")


def test_a_key_is_written_once(store: FolderStore) -> None:
    write(store, ONE, b"first")
    with pytest.raises(AlreadyThere):
        write(store, ONE, b"second")
    with store.read(ONE) as stream:
        assert stream.read() == b"first"
    assert [item.key for item in store.objects()] == [ONE]


def test_a_source_that_fails_leaves_nothing(store: FolderStore, tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise Unavailable("the source is gone")

    with pytest.raises(Unavailable, match="source is gone"):
        store.write(ONE, Broken(), 10)  # type: ignore[arg-type]
    assert not [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]


def test_a_full_disk_is_said_and_leaves_nothing(store: FolderStore, tmp_path: Path) -> None:
    done = in_another_process(tmp_path / "disk", limit_bytes=1000)
    assert (done.returncode, "cannot write" in done.stderr) == (13, True), done.stderr
    assert not [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]


def test_a_killed_write_leaves_no_object_and_its_rest_is_cleaned(store: FolderStore, tmp_path: Path) -> None:
    done = in_another_process(tmp_path / "disk", failpoint="store.link=kill")
    assert done.returncode == -signal.SIGKILL
    assert list(store.objects()) == []
    assert len([path for path in (tmp_path / "disk").rglob("*") if path.is_file()]) == 1
    assert store.clean("20260101-000000-aaaaaa/") == []
    assert not [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]


def test_a_folder_that_is_not_there_is_no_empty_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "unmounted")
    with pytest.raises(NotFound, match=r"no folder .*unmounted"):
        write(store, ONE, b"x")
    with pytest.raises(NotFound):
        list(store.objects())
    assert not (tmp_path / "unmounted").exists()


def test_links_are_neither_followed_nor_listed(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "disk" / "b").mkdir()
    (tmp_path / "disk" / "b" / "state.json").symlink_to(tmp_path / "secret")
    (tmp_path / "disk" / "c").symlink_to(tmp_path)
    assert list(store.objects()) == []
    assert store.head("b/state.json") is None
    with pytest.raises(Unavailable):
        store.read("b/state.json")
    with pytest.raises(IntegrityMismatch, match="leads out"):
        store.read("c/secret")
    with pytest.raises(IntegrityMismatch, match="leads out"):
        write(store, "c/other", b"x")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\b", "a\0b", "a/.", "ü"])
def test_a_name_that_could_lead_elsewhere_is_refused(store: FolderStore, key: str) -> None:
    with pytest.raises(IntegrityMismatch, match="cannot be the name"):
        write(store, key, b"x")


@given(st.text(max_size=40))
def test_every_accepted_key_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except IntegrityMismatch:
        return
    assert Path(os.path.normpath(Path("/root") / key)) == Path("/root") / key
    assert Path("/root") in (Path("/root") / key).parents


def in_another_process(
    folder: Path, *, failpoint: str = "", limit_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Writes 100 kB there, under a limit of file size or up to a failpoint."""
    program = f"""
import io, pathlib, resource, sys
from lib.platform import cli
from lib.platform.stores import FolderStore
def main():
    limit = {limit_bytes}
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    FolderStore(pathlib.Path({str(folder)!r})).write({ONE!r}, io.BytesIO(bytes(100_000)), 100_000)
    return 0
cli.run(main)
"""
    environment = {**os.environ, "GOLIVE_FAILPOINT": failpoint}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
