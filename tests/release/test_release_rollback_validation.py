"""What a rollback left behind, held against the backup: whatever is not as it was is named, and nothing is equal unseen."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib.config import store
from lib.index import settings as index_settings
from lib.index.bm25 import weigh
from lib.index.chunk_table import build_index, create_chunk_table
from lib.index.loading import COLUMNS
from lib.index.retrieval import search_lists
from lib.platform import postgres
from lib.platform.errors import NotFound
from lib.platform.files import read_json, sha256_file, write_json
from lib.release import backup, backup_files, catching_up, probes, promotion, restore, rollback_validation, traffic
from lib.release.backup_files import Backup
from tests.conftest import HANDBOOK
from tests.release import forked, staged, synthetic
from tests.release.staged import Project

TABLE = "document_chunks_2026_01_02_030405_v1"
DECIDING = ["pointer", "record", "rows", "indexes", "answers", "search", "config files"]
TOLD = ["documents", "settings"]


@pytest.fixture
def live(open_synthetic) -> Project:
    return open_synthetic("live")


@pytest.fixture
def second(open_synthetic) -> Project:
    return open_synthetic("second")


def test_a_sound_live_state_is_the_backups(live):
    checks = validate(live, newest(live))
    assert [check["name"] for check in checks if not check["told"]] == DECIDING
    assert [check["name"] for check in checks if check["told"]] == TOLD
    assert failing(checks) == set()
    assert "3 probes have the very rows as answers" in found(checks, "answers")
    assert "recall 1.000" in found(checks, "search")


def test_without_a_backup_the_state_is_held_against_what_was_sealed(live):
    checks = validate(live, None)
    assert [check["name"] for check in checks] == ["rows", "indexes", "search", "config files"]
    assert failing(checks) == set()
    assert "held against the table itself" in found(checks, "search")


@pytest.mark.parametrize(
    ("expected", "damage"),
    [
        ({"rows", "answers", "search"}, "DELETE FROM {table} WHERE doc_id = 'corpus/pointer.md'"),
        ({"rows", "answers", "search"}, "DELETE FROM {table}"),
        (
            {"rows", "answers"},
            "UPDATE {table} SET embedding = (SELECT embedding FROM {table} WHERE doc_id = 'corpus/backups.md')"
            " WHERE doc_id = 'corpus/pointer.md'",
        ),
        ({"rows", "answers", "search"}, "UPDATE {table} SET bm25_weights = NULL WHERE doc_id = 'corpus/pointer.md'"),
        ({"rows"}, "UPDATE {table} SET bm25_text = 'other words, and the same weights' WHERE doc_id = 'corpus/pointer.md'"),
        ({"rows"}, "DROP TABLE {table}"),
        ({"indexes", "search"}, "DROP TABLE {table}_terms"),
        ({"search"}, "DELETE FROM {table}_terms WHERE dimension IN (SELECT dimension FROM {table}_terms LIMIT 40)"),
        ({"indexes"}, "DROP INDEX {table}_hnsw"),
        ({"indexes"}, "DROP INDEX {table}_hnsw; CREATE INDEX ON {table} USING hnsw (embedding vector_l2_ops)"),
        ({"indexes"}, "CREATE INDEX ON {table} (doc_id)"),
        ({"indexes"}, "DROP TRIGGER sealed ON {table}"),
        ({"indexes"}, "ALTER TABLE {table}_terms DISABLE TRIGGER sealed"),
        ({"record"}, "UPDATE golive.releases SET corpus_digest = 'other'"),
        ({"record"}, "UPDATE golive.releases SET state = 'retired'"),
        ({"record"}, "UPDATE golive.releases SET ingest_stats = '{{}}'"),
        ({"pointer"}, "UPDATE golive.pointer SET generation = 0"),
        ({"pointer"}, "UPDATE golive.pointer SET release_id = NULL"),
    ],
)
def test_what_is_not_as_it_was_is_named(live, expected, damage):
    made = promoted_and_backed_up(live)
    with live.connection, live.connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(damage.format(table=TABLE))
    checks = validate(live, made)
    assert failing(checks) == expected, checks


def test_an_altered_embedding_of_one_chunk_is_named_by_what_it_answers(live):
    live.tamper("UPDATE {table} SET embedding = embedding * embedding WHERE doc_id = 'corpus/pointer.md'")
    text = found(validate(live, newest(live)), "answers")
    assert "nearest of corpus/" in text and "was recorded" in text


@pytest.mark.parametrize("change", [{"is_production": False}, {"created_by": "somebody@else"}])
def test_an_active_config_that_is_not_the_live_one(live, change):
    path = store.active_path(live.workspace)
    write_json(path, {**read_json(path, "config"), **change})
    assert failing(validate(live, None)) == failing(validate(live, newest(live))) == {"config files"}


def test_config_files_that_were_lost_or_altered(second):
    made, release = newest(second), second.pointer().release
    assert release is not None
    path = store.history_path(second.workspace, release.chunk_version)
    text = path.read_text()
    traffic.stop(second.connection, "rollback")
    for damage in (path.unlink, lambda: path.write_text(text.replace("450", "451")), lambda: path.write_text("")):
        damage()
        assert path.name in found(validate(second, made), "config files")
        path.write_text(text)
    other = store.history_path(second.workspace, second.release().chunk_version)
    store.write_active(second.workspace, release.locked_config.in_production(True))
    assert "2 locked configs unchanged" in found(validate(second, made), "config files")
    other.rename(other.with_suffix(".away"))
    checks = validate(second, made)
    assert "config files" not in failing(checks)
    assert "of other releases 1 are not here" in found(checks, "config files")
    other.write_text("{}")
    assert f"{other.name} was changed" in found(validate(second, made), "config files")


def test_no_active_config(live):
    store.active_path(live.workspace).unlink()
    assert failing(validate(live, newest(live))) == {"config files"}


def test_settings_of_the_next_candidate_are_told_and_decide_nothing(live):
    with (live.workspace.configs / "gates.yaml").open("a") as stream:
        stream.write("# a word\n")
    checks = validate(live, newest(live))
    assert failing(checks) == set()
    assert found(checks, "settings") == "changed since the backup: gates.yaml"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (probes.FILE, {"indexes", "answers", "search"}),
        ("state.json", {"pointer", "record"}),
        ("configs/history/2026-01-02-030405-v1.json", {"config files"}),
        ("configs/gates.yaml", set()),  # only told
    ],
)
@pytest.mark.parametrize("damage", ["altered", "lost", "link"])
def test_a_file_of_the_backup_that_is_not_what_was_written_there(live, tmp_path, name, expected, damage):
    made = newest(live)
    path = made.folder / name
    text = path.read_text()
    path.unlink()
    if damage == "altered":
        path.write_text(text.replace("2", "3", 1))
    if damage == "link":
        (tmp_path / "kept").write_text(text)
        path.symlink_to(tmp_path / "kept")
    checks = validate(live, made)
    assert failing(checks) == expected
    assert any(f"{name} " in check["found"] for check in checks)


def test_answers_altered_in_a_backup_that_agrees_with_itself(live):
    made = newest(live)
    recorded = read_json(made.folder / probes.FILE, "probes")
    nearest = recorded[live.live_id()]["probes"][0]["nearest"]
    nearest[0], nearest[1] = [nearest[0][0], nearest[1][1]], [nearest[1][0], nearest[0][1]]
    write_json(made.folder / probes.FILE, recorded)
    assert failing(validate(live, agreeing(live, made))) == {"answers"}


def test_a_backup_made_before_there_were_probes_is_not_silently_equal(live):
    made = newest(live)
    (made.folder / probes.FILE).unlink()
    del made.manifest["files"][probes.FILE]
    write_json(made.folder / "manifest.json", made.manifest)
    checks = validate(live, backup_files.read(live.workspace, made.backup_id))
    assert failing(checks) == set()
    (answers,) = [check for check in checks if check["name"] == "answers"]
    assert answers["told"] and answers["found"].startswith("no probe answers in this backup")
    live.tamper(f"DELETE FROM {TABLE}_terms")
    assert failing(validate(live, backup_files.read(live.workspace, made.backup_id))) == {"search"}


def test_documents_that_changed_since_are_told_and_the_sealed_table_alone_is_probed(live):
    made = newest(live)
    staged.sync(
        live, {**HANDBOOK, "pointer.md": "# The pointer\n\nTwo rows name the table.\n", "backups.md": "# Other\n\nNew.\n"}
    )
    with synthetic.without_a_model():
        assert catching_up.catch_up(live.workspace, live.connection).releases[0]["documents"] == 2
    checks = validate(live, made)
    assert failing(checks) == set()
    assert found(checks, "documents") == (
        "3 that differ from the backup's 3; 2 changed since the seal are answered beside the sealed table,"
        " which alone was probed"
    )


def test_after_a_rollback_into_new_tables_everything_is_as_it_was(live):
    made = newest(live)
    live.tamper("DELETE FROM {table}")
    assert failing(validate(live, made)) >= {"rows", "answers"}
    restore.apply_restore(live.workspace, live.connection, made, restore.plan_restore(live.connection, made))
    assert live.release().table_name == f"{TABLE}_r1"
    assert failing(validate(live, made)) == set()
    release = live.release()
    with live.connection:
        taken = probes.take(live.connection, release)
    assert taken == read_json(made.folder / probes.FILE, "probes")[release.release_id]


def test_in_another_database_generations_are_counted_anew(live, empty_database, monkeypatch):
    made = promoted_and_backed_up(live)
    monkeypatch.setenv("DATABASE_URL", empty_database)
    elsewhere = Project(live.workspace, empty_database, postgres.connect(empty_database, "test"))
    postgres.create_state(elsewhere.connection)
    restore.apply_restore(live.workspace, elsewhere.connection, made, restore.plan_restore(elsewhere.connection, made))
    checks = validate(elsewhere, made)
    elsewhere.connection.close()
    assert failing(checks) == set()
    assert "generation 1 of a database that this backup was not made from" in found(checks, "pointer")


def test_nothing_is_live(open_synthetic):
    checks = validate(open_synthetic("documents"), None)
    assert [(check["name"], check["holds"], check["found"]) for check in checks] == [
        ("pointer", False, "no release is live")
    ]


def test_another_release_is_live_than_the_backup_restores(second):
    made, first = newest(second), second.live_id()
    candidate = second.release().release_id
    assert validate(second, made)[0]["holds"]
    promotion.promote(second.workspace, second.connection)
    checks = validate(second, made)
    assert {"pointer", "rows"} <= failing(checks)
    assert found(checks, "pointer") == f"live is {candidate}, not {first}"
    assert failing(validate(second, made, candidate)) == set()


def test_a_release_that_the_backup_does_not_hold(second):
    oldest = backup_files.every(second.workspace)[-1]
    assert isinstance(oldest, Backup)
    with pytest.raises(NotFound, match="does not hold"):
        validate(second, oldest, second.release().release_id)


def test_the_script_says_so_by_its_exit_code_and_as_json(live):
    made, environment = newest(live), dict(os.environ)
    sound = forked.run("validate_rollback", "--backup-id", made.backup_id, "--json", environment=environment)
    assert (sound.code, sound.json["valid"]) == (0, True)
    assert [check["name"] for check in sound.json["checks"] if not check["told"]] == DECIDING
    live.tamper(f"DROP INDEX {TABLE}_hnsw")
    damaged = forked.run("validate_rollback", "--backup-id", made.backup_id, environment=environment)
    assert damaged.code == 14
    assert "  FAILS  indexes: no valid vector index" in damaged.out
    assert "  told   documents: the backup's" in damaged.out
    assert "INVALID" in damaged.out


def test_the_exact_answers_are_those_of_a_search_through_every_row(live):
    """Over more rows than the sample that bounds them: by numpy, and by the search whose BM25 list is exact."""
    release = replace(live.release(), table_name="many")
    config = release.locked_config
    rng, words = np.random.default_rng(7), ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    vectors = rng.standard_normal((2500, 8)).astype(np.float32)
    vectors[100:110] = vectors[100]  # ties
    texts = [" ".join(rng.choice(words, 6)) for _ in vectors]
    with live.connection, live.connection.cursor() as cursor:
        create_chunk_table(live.connection, release.table, 8)
        rows = (
            (f"c{n:04}", "d", n, text, text, 6, 6, "v", "r", 0, 1, "x", vector.tolist())
            for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        )
        postgres.copy_rows(cursor, release.table, COLUMNS, rows)
        weigh(live.connection, release.table, config)
        build_index(live.connection, release.table, "many", config)
        taken = probes.take(live.connection, release)
        assert probes.compare_rows(live.connection, release, taken) == []
        problems, _ = probes.compare_search(live.connection, release, taken, index_settings.load(live.workspace).recall)
    assert problems == []
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(taken["probes"]) == 10
    for probe in taken["probes"]:
        number = int(probe["chunk_id"][1:])
        distances = 1 - unit @ unit[number]
        nearest = sorted(range(2500), key=lambda row: (round(distances[row], 9), row))[: config.retrieval.vector_top_k]
        assert probes.differ([[f"c{row:04}", distances[row]] for row in nearest], probe["nearest"]) == ""
        rows = search_lists(live.connection, release.table, config.retrieval, probe["query"], [1.0] * 8)
        ranked = sorted((row for row in rows if row["bm25_rank"]), key=lambda row: row["bm25_rank"])
        assert probes.differ([[row["chunk_id"], row["bm25_score"]] for row in ranked], probe["words"]) == ""
        assert len(probe["words"]) == config.retrieval.bm25_top_k


def test_an_index_that_misses_neighbours_is_told_from_one_that_finds_them(live):
    release, floors = live.release(), index_settings.load(live.workspace).recall
    with live.connection:
        recorded = probes.take(live.connection, release)
        for probe in recorded["probes"]:  # as if nearer rows had been there, which the index does not find
            probe["nearest"] = [[name, value / 100] for name, value in probe["nearest"]]
        problems, _ = probes.compare_search(live.connection, release, recorded, floors)
    assert problems == ["the vector index misses too much"]


LISTS = st.lists(
    st.tuples(st.integers(0, 99).map(str), st.floats(0, 2, width=32)), min_size=1, max_size=9, unique_by=lambda x: x[0]
)


@given(LISTS)
@hypothesis_settings(deadline=None, derandomize=True, max_examples=50)
def test_a_list_is_itself_whatever_is_rounded(rows):
    rows = sorted(rows, key=lambda row: row[1])
    assert probes.differ(rows, rows) == ""
    rounded = sorted(((name, value + random.Random(name).uniform(-1e-7, 1e-7)) for name, value in rows), key=lambda r: r[1])
    assert probes.differ(rows, rounded) == ""


@given(LISTS, st.data())
@hypothesis_settings(deadline=None, derandomize=True, max_examples=100)
def test_another_value_and_a_missing_row_are_differences(rows, data):
    rows = sorted(rows, key=lambda row: row[1])
    place = data.draw(st.integers(0, len(rows) - 1))
    assert probes.differ(rows, rows[:place] + rows[place + 1 :])
    name, value = rows[place]
    assert probes.differ(rows, [*rows[:place], (name, value + 0.01), *rows[place + 1 :]])
    other = [*rows[:place], ("another", value), *rows[place + 1 :]]
    assert bool(probes.differ(rows, other)) == (abs(value - rows[-1][1]) > 1e-5 * max(1, value))


@pytest.mark.parametrize(
    ("nearest", "found", "share"),
    [([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 1.0), ([0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.5, 0.6], 0.5),
     ([0.1, 0.2], [0.2, 0.2, 0.2], 1.0), ([0.1, 0.2], [], 0.0), ([], [], 1.0), ([0.1, 0.2], [0.1], 0.5)],
)  # fmt: skip
def test_recall_by_hand(nearest, found, share):
    assert probes.recall(nearest, found) == share


def validate(project: Project, made: Backup | None, release_id: str | None = None) -> list[dict]:
    return rollback_validation.validate(project.workspace, project.connection, made, release_id)


def failing(checks: list[dict]) -> set[str]:
    return {check["name"] for check in checks if not check["holds"] and not check["told"]}


def found(checks: list[dict], name: str) -> str:
    (text,) = [check["found"] for check in checks if check["name"] == name]
    return str(text)


def newest(project: Project) -> Backup:
    made = backup_files.every(project.workspace)[0]
    assert isinstance(made, Backup)
    return made


def promoted_and_backed_up(project: Project) -> Backup:
    """A backup made after the promotion: its pointer has the generation that is live now."""
    return backup.create(project.workspace, project.connection)


def agreeing(project: Project, made: Backup) -> Backup:
    """The backup with a manifest that fits its files as they are now."""
    for name, item in made.manifest["files"].items():
        path: Path = made.folder / name
        item.update(sha256=sha256_file(path), bytes=path.stat().st_size)
    write_json(made.folder / "manifest.json", made.manifest)
    return backup_files.read(project.workspace, made.backup_id)
