"""Backups that were damaged or altered: no bit, no row and no agreement between data and manifest gets through."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.index.seal import content_of
from lib.platform.files import read_json, write_json
from tests.conftest import Finished
from tests.faults.cases import Case
from tests.faults.invariants import visible_backups, visible_backups_whole

_SEED = 20261126
_RESTORES = ("restore table", "restore fresh")


@pytest.mark.fault("verify.flip")
def test_one_flipped_bit_in_any_file_of_a_backup_is_found(open_case: Callable[[str], Case], rounds: int) -> None:
    case = open_case("restore table")
    folder = visible_backups(case.project.workspace)[-1]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in (
        files if rounds > 1 else [path for path in files if path.suffix in (".zst", ".sh") or path.parent == folder]
    ):
        chosen, sound = random.Random(f"{_SEED} {path.name}"), path.read_bytes()
        for _ in range(rounds):
            place = chosen.randrange(8 * len(sound))
            damaged = bytearray(sound)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            done = case.run()
            assert done.code == 14, (path, place, done)
            assert path.name in done.err or "manifest" in done.err
            case.check(but=(visible_backups_whole,))
            assert case.project.pointer().generation == case.before.generation
        path.write_bytes(sound)
    case.repeat()


@pytest.mark.fault("verify.cut")
@pytest.mark.parametrize("step", _RESTORES)
def test_rows_that_were_cut_off_are_missed(step: str, open_case: Callable[[str], Case]) -> None:
    case = open_case(step)
    fewer = _backup_of_fewer_rows(open_case, case)
    undo = _replace_data(case, fewer)
    _refused(case, case.run())
    undo()
    case.repeat()


@pytest.mark.fault("verify.both")
@pytest.mark.parametrize("step", _RESTORES)
@pytest.mark.parametrize("altered", ["hashes", "hashes, rows and digest"])
def test_data_and_manifest_that_were_altered_together_do_not_go_live(
    step: str, altered: str, open_case: Callable[[str], Case]
) -> None:
    case = open_case(step)
    fewer = _backup_of_fewer_rows(open_case, case)
    undo = _replace_data(case, fewer)
    path = visible_backups(case.project.workspace)[-1] / "manifest.json"
    sound = path.read_bytes()
    manifest, other = read_json(path, "manifest"), read_json(fewer / "manifest.json", "manifest")
    entry, replaced = _live_table(manifest), _live_table(other)
    for name, name_of_other in zip(_files(entry), _files(replaced), strict=True):
        manifest["files"][name] = other["files"][name_of_other]
    if "digest" in altered:
        entry.update(rows=replaced["rows"], digest=replaced["digest"])
    write_json(path, manifest)
    _refused(case, case.run())
    path.write_bytes(sound)
    undo()
    case.repeat()


def _backup_of_fewer_rows(open_case: Callable[[str], Case], case: Case) -> Path:
    """A backup as somebody would make it who deletes a row and makes all records agree; ``case`` is the newest again."""
    other = open_case("backup")
    live = other.project.release(other.project.live_id())
    other.project.tamper("DELETE FROM {table} WHERE id = (SELECT max(id) FROM {table})", live.table_name)
    with other.project.connection:
        content = content_of(other.project.connection, live.table_schema, live.table_name)
    assert content is not None
    other.project.execute(
        "UPDATE golive.releases SET content_digest = %s, row_count = %s WHERE release_id = %s",
        (content.digest, content.row_count, live.release_id),
    )
    done = other.run()
    assert done.code == 0, done
    case.choose()
    return visible_backups(other.project.workspace)[-1]


def _replace_data(case: Case, fewer: Path) -> Callable[[], None]:
    """Puts the other backup's files of the live table into the case's backup; returns what undoes it."""
    folder = visible_backups(case.project.workspace)[-1]
    entry = _live_table(read_json(folder / "manifest.json", "manifest"))
    replaced = _live_table(read_json(fewer / "manifest.json", "manifest"))
    sound = {folder / name: (folder / name).read_bytes() for name in _files(entry)}
    for path, name in zip(sound, _files(replaced), strict=True):
        path.write_bytes((fewer / name).read_bytes())
    assert any(path.read_bytes() != content for path, content in sound.items())

    def undo() -> None:
        for path, content in sound.items():
            path.write_bytes(content)

    return undo


def _live_table(manifest: dict[str, Any]) -> dict[str, Any]:
    """The entry of the release that the backup restores, in the manifest itself."""
    wanted = manifest["restores"]["release_id"]
    return next(table for table in manifest["tables"] if table["release_id"] == wanted)


def _files(entry: dict[str, Any]) -> list[str]:
    return list(entry["files"])


def _refused(case: Case, done: Finished) -> None:
    assert done.code == 14, done
    case.check(but=(visible_backups_whole,))
    assert case.project.pointer().generation == case.before.generation
