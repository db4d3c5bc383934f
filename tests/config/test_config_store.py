"""Locked configs as files: the history is written once, and what was changed by hand is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.config import store
from lib.config.locked_config import LockedConfig
from lib.platform.errors import ConfigInvalid, IntegrityMismatch, NotFound, Refused
from lib.platform.workspace import Workspace

Make = Callable[..., LockedConfig]


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_the_history_has_one_readable_file_a_version(project: Workspace, make_config: Make) -> None:
    config = make_config()
    store.write_history(project, config)
    path = project.root / "configs/locked_configs/history/2026-01-02-030405-v1.json"
    assert store.history_path(project, config.chunk_version) == path
    assert json.loads(path.read_text()) == config.to_dict()


def test_the_same_config_again_leaves_its_history_file_untouched(project: Workspace, make_config: Make) -> None:
    config = make_config()
    store.write_history(project, config)
    before = store.history_path(project, config.chunk_version).stat()
    store.write_history(project, config.in_production(True))
    after = store.history_path(project, config.chunk_version).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("changes", [{"chunk_size": 300}, {"created_by": "somebody@else"}, {"baseline_metrics": {"f1": 1}}])
def test_history_is_never_rewritten(changes: dict[str, object], project: Workspace, make_config: Make) -> None:
    store.write_history(project, make_config())
    path = store.history_path(project, "2026-01-02-030405-v1")
    before = path.read_bytes()
    with pytest.raises(Refused, match=r"configs/locked_configs/history/2026-01-02-030405-v1\.json holds another config"):
        store.write_history(project, make_config(**changes))
    assert path.read_bytes() == before


def test_a_history_file_edited_by_hand_is_left_as_evidence(project: Workspace, make_config: Make) -> None:
    store.write_history(project, make_config())
    path = store.history_path(project, "2026-01-02-030405-v1")
    path.write_text(path.read_text().replace("450", "451"))
    with pytest.raises(Refused):
        store.write_history(project, make_config())
    assert "451" in path.read_text()


def test_being_live_stands_in_the_active_file_only(project: Workspace, make_config: Make) -> None:
    live = make_config().in_production(True)
    store.write_history(project, live)
    store.write_active(project, live)
    assert store.read_active(project) == live
    assert json.loads(store.history_path(project, live.chunk_version).read_text())["is_production"] is False


def test_the_active_file_follows_the_config_at_work(project: Workspace, make_config: Make) -> None:
    for config in (make_config(), make_config(chunk_size=300), make_config(chunk_size=300, is_production=True)):
        store.write_active(project, config)
        assert store.read_active(project) == config
    before = store.active_path(project).stat().st_ino
    store.write_active(project, config)
    assert store.active_path(project).stat().st_ino == before


def test_nothing_locked_is_not_found_and_says_what_to_do(project: Workspace) -> None:
    with pytest.raises(NotFound, match="no config is locked yet") as caught:
        store.read_active(project)
    assert "scripts/lock_production_config.py" in caught.value.hint


def test_an_active_file_that_was_edited_is_noticed(project: Workspace, make_config: Make) -> None:
    store.write_active(project, make_config())
    path = store.active_path(project)
    path.write_text(path.read_text().replace('"chunk_size": 450', '"chunk_size": 300'))
    with pytest.raises(IntegrityMismatch, match="2026-01-02-030405-v1 does not match its config_hash"):
        store.read_active(project)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"chunk_size": 450, "chunk_size": 300}',
        "null",
    ],
)
def test_an_active_file_that_is_no_config_is_refused(text: str, project: Workspace) -> None:
    path = store.active_path(project)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigInvalid):
        store.read_active(project)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xfe",
    ],
)
def test_a_damaged_active_file_is_mended_by_locking_again(damaged: bytes, project: Workspace, make_config: Make) -> None:
    path = store.active_path(project)
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged)
    store.write_active(project, make_config())
    assert store.read_active(project) == make_config()
