"""Documents that change after the seal: a release answers from what stands now, whoever wrote it and however."""

from __future__ import annotations

import dataclasses
import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg2.extensions import connection as Connection

from lib.index import changed_chunks, changes, shadow
from lib.index import settings as index_settings
from lib.index.documents import read_documents
from lib.index.embedder import Embedder
from lib.index.executors import open_workers
from lib.index.pipeline import Chunker
from lib.index.releases import Release
from lib.index.retrieval import Retriever
from lib.index.seal import Content, content_of
from lib.index.tokens import TokenCounter
from lib.platform import postgres
from lib.platform.workspace import Workspace
from tests.conftest import PROJECT

BOILERPLATE = "All rights reserved by the lighthouse keepers of the northern coast, whose lamps have burned for a century. "
TEXTS = {
    "apples.md": "Apples are picked in September, when the seeds have turned brown.",
    "bread.md": "Bread rises twice: once in the bowl, once in the tin.",
    "coal.md": "Coal was carried by barge along the canal until the railway came.",
}


@dataclass
class Index:
    """A sealed release over documents that go on changing."""

    connection: Connection
    release: Release
    embedder: Embedder
    counter: TokenCounter

    def write(self, **documents: str | None) -> None:
        """Inserts, updates or (None) deletes documents, as anybody with SQL would."""
        with self.connection, self.connection.cursor() as cursor:
            for name, content in documents.items():
                write(cursor, f"{name}.md", content)

    def catch_up(self, *, logged_only: bool = False) -> list[str]:
        """One pass, as lib.release.catching_up makes it; returns what was pending."""
        found = changes.find_pending(self.connection, self.release, logged_only=logged_only)
        if found.doc_ids:
            with self.connection:
                replacement = changed_chunks.plan(self.connection, self.release, found.doc_ids, self.counter)
            vectors = changed_chunks.embed(replacement, self.embedder)
            with self.connection:
                changed_chunks.apply(self.connection, replacement, vectors, "test")
        with self.connection:
            changes.mark_seen(self.connection, self.release, found.snapshot)
        return found.doc_ids

    def answers(self) -> dict[str, set[str]]:
        """Every text that a search finds, by document; the corpora are so small that a search finds everything."""
        release = self.release
        retriever = Retriever.of(self.connection, release.release_id, release.table, release.locked_config, self.embedder)
        found: dict[str, set[str]] = {}
        for chunk in retriever.retrieve("anything at all").snapshot:
            found.setdefault(chunk.doc_id, set()).add(chunk.bm25_text)
        return found

    def faults(self) -> list[str]:
        with self.connection:
            return changes.find_faults(self.connection, self.release)

    def sealed_content(self) -> Content | None:
        with self.connection:
            return content_of(self.connection, self.release.table_schema, self.release.table_name)

    def coverage(self) -> changes.Coverage:
        with self.connection:
            found = changes.coverage_of(self.connection, self.release)
        assert found is not None
        return found

    def rows(self) -> list[dict[str, Any]]:
        """What stands in the place of changed documents, without when it was made."""
        with self.connection:
            rows = postgres.every(self.connection, "SELECT * FROM golive.changed_chunks ORDER BY id")
            hidden = postgres.every(self.connection, "SELECT * FROM golive.superseded ORDER BY doc_id")
        return [{name: value for name, value in row.items() if name != "created_at"} for row in rows] + hidden


def write(cursor: Any, path: str, content: str | None, source: str = "corpus") -> None:
    if content is None:
        cursor.execute("DELETE FROM documents WHERE id = %s", (f"{source}/{path}",))
        return
    cursor.execute(
        "INSERT INTO documents (id, source, path, title, sections, content, sha256, metadata)"
        " VALUES (%s, %s, %s, %s, '[]', %s, 'never looked at', '{\"type\": \"markdown\"}')"
        " ON CONFLICT (id) DO UPDATE SET content = excluded.content",
        (f"{source}/{path}", source, path, path.removesuffix(".md"), content),
    )


@pytest.fixture(scope="module")
def make_index(
    make_config: Callable[..., Any],
    lock_release: Callable[..., Release],
    fixed_embedder: Embedder,
    counter: TokenCounter,
    model_folder: Path,
    new_database: Callable[[], Any],
) -> Iterator[Callable[..., Index]]:
    """A sealed release over these texts, which are all documents of its database; sealed once, afresh in all else."""
    made: dict[Any, Index] = {}
    loaded = index_settings.load(Workspace(PROJECT))

    with ExitStack() as stack:

        def make(texts: dict[str, str], *, twin: int = 0) -> Index:
            key = (*texts.items(), twin)
            if key not in made:
                connection = stack.enter_context(new_database())
                put(connection, texts)
                release = lock_release(connection, make_config())
                with open_workers(loaded.build, characters=0) as workers:
                    chunker = Chunker(model_folder, workers, loaded.build.documents_per_unit)
                    release = shadow.build(connection, release, fixed_embedder, chunker, loaded)
                made[key] = Index(connection, release, fixed_embedder, counter)
            index = made[key]
            put(index.connection, texts)
            with index.connection:
                changes.record_coverage(index.connection, index.release, read_documents(index.connection, ["corpus"]))
            return index

        yield make


@pytest.fixture
def index(make_index: Callable[..., Index]) -> Index:
    return make_index(TEXTS)


@pytest.fixture
def other(index: Index) -> Iterator[Connection]:
    """Somebody else's session."""
    made = postgres.connect(index.connection.dsn, "writer")
    yield made
    made.close()


def put(connection: Connection, texts: dict[str, str]) -> None:
    """Makes these the only documents, and forgets what was written before."""
    connection.rollback()
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE documents")
        for path, content in texts.items():
            write(cursor, path, content)
        cursor.execute("TRUNCATE golive.document_changes")


def test_a_sealed_release_covers_what_it_was_built_from(index):
    covered = index.coverage()
    assert (covered.origin, covered.documents, covered.sealed, covered.changed) == ("seal", 3, 3, 0)
    with index.connection:
        assert changes.digest_of_standing(index.connection, ["corpus"]) == covered.digest
    assert (index.catch_up(), index.faults(), index.rows()) == ([], [], [])


CHANGES = {
    "insert": (["INSERT INTO documents VALUES ('corpus/new.md', 'corpus', 'new.md', 'new', '[]', 'Tea.', 'x')"], ["new"]),
    "update": (["UPDATE documents SET content = 'Stollen.' WHERE path = 'bread.md'"], ["bread"]),
    "update of the title": (["UPDATE documents SET title = 'Loaves' WHERE path = 'bread.md'"], ["bread"]),
    "update of the metadata": (["UPDATE documents SET metadata = '{\"type\": \"x\"}' WHERE path = 'coal.md'"], ["coal"]),
    "update that indexes nothing new": (["UPDATE documents SET updated_at = now()"], []),
    "delete": (["DELETE FROM documents WHERE path = 'coal.md'"], ["coal"]),
    "truncate": (["TRUNCATE documents"], ["apples", "bread", "coal"]),
    "another id": (
        ["UPDATE documents SET id = 'corpus/cakes.md', path = 'cakes.md' WHERE path = 'bread.md'"],
        ["bread", "cakes"],
    ),
    "another source": (["UPDATE documents SET source = 'archive' WHERE path = 'apples.md'"], ["apples"]),
    "upsert": (
        [
            "INSERT INTO documents SELECT id, source, path, title, sections, content || '!', sha256 FROM documents"
            " ON CONFLICT (id) DO UPDATE SET content = excluded.content"
        ],
        ["apples", "bread", "coal"],
    ),
    "replicated": (
        [
            "SET LOCAL session_replication_role = replica",
            "UPDATE documents SET content = 'Soda bread.' WHERE path = 'bread.md'",
        ],
        ["bread"],
    ),
    "nothing but blanks": (["UPDATE documents SET content = E' \\n\\t ' WHERE path = 'bread.md'"], ["bread"]),
    "copy": (
        [
            "CREATE TEMP TABLE copied AS SELECT * FROM documents",
            "UPDATE copied SET id = 'corpus/z.md', path = 'z.md' WHERE path = 'coal.md'",
        ],
        ["z"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_write_is_seen_and_answers(index, other, name):
    commands, touched = CHANGES[name]
    sealed = index.sealed_content()
    with other, other.cursor() as cursor:
        for command in commands:
            cursor.execute(command)
        if name == "copy":
            lines = io.StringIO()
            cursor.copy_expert("COPY (SELECT * FROM copied WHERE path = 'z.md') TO STDOUT", lines)
            lines.seek(0)
            cursor.copy_expert("COPY documents FROM STDIN", lines)
    index.catch_up()  # marks the log as seen up to the seal's own documents
    expected = standing(index.connection)
    assert (index.answers(), index.faults()) == (expected, [])
    assert index.coverage().changed == len(touched)
    assert index.sealed_content() == sealed


@pytest.mark.parametrize("name", CHANGES)
def test_the_log_alone_names_every_write(index, other, name):
    index.catch_up()
    commands, touched = CHANGES[name]
    with other, other.cursor() as cursor:
        for command in commands:
            cursor.execute(command)
        if name == "copy":
            cursor.execute("INSERT INTO documents SELECT * FROM copied WHERE path = 'z.md'")
    assert index.catch_up(logged_only=True) == [f"corpus/{path}.md" for path in touched]
    assert index.faults() == []
    assert index.catch_up(logged_only=True) == index.catch_up() == []


def test_a_role_that_may_write_documents_needs_no_other_right(index, other):
    with other, other.cursor() as cursor:
        cursor.execute("CREATE ROLE author; GRANT ALL ON documents TO author; SET ROLE author")
        write(cursor, "tea.md", "Tea is grown on hills.")
        cursor.execute("RESET ROLE; DROP OWNED BY author; DROP ROLE author")
    assert index.catch_up() == ["corpus/tea.md"]


def test_a_transaction_that_commits_late_is_not_missed(index, other):
    index.catch_up()
    with other.cursor() as cursor:
        write(cursor, "late.md", "Written first, committed last.")
        index.write(early="Written last, committed first.")
        assert index.catch_up(logged_only=True) == ["corpus/early.md"]
        other.commit()
    assert index.catch_up(logged_only=True) == ["corpus/late.md"]


def test_a_deleted_document_never_answers_and_does_not_come_back(index):
    index.write(coal="Coal is no longer carried.")
    index.catch_up()
    index.write(coal=None)
    index.catch_up()
    assert "corpus/coal.md" not in index.answers()
    index.write(coal="Coal again.")
    index.catch_up()
    assert index.answers()["corpus/coal.md"] == {"Coal again."}


def test_a_document_that_is_as_it_was_sealed_again_answers_from_the_sealed_table(index):
    index.write(bread="Something else.")
    index.catch_up()
    assert index.rows() != []
    index.write(bread=TEXTS["bread.md"])
    assert index.catch_up() == ["corpus/bread.md"]
    assert (index.rows(), index.faults(), index.coverage().changed) == ([], [], 0)


def test_what_is_made_of_a_change_does_not_depend_on_what_changed_with_it(make_index):
    together, alone = make_index(TEXTS), make_index(TEXTS, twin=1)
    together.write(apples="Pears.", bread="Rolls. " * 500)
    together.catch_up()
    for name, content in (("bread", "Rolls. " * 500), ("apples", "Pears.")):
        alone.write(**{name: content})
        alone.catch_up()
    assert len(alone.rows()) > 3
    assert alone.rows() == together.rows()


def shared(name: str) -> str:
    """A document of one chunk that is nearly the same in every one of them."""
    return BOILERPLATE * 8 + f"This is the copy of {name}."


def test_where_the_chunk_that_stood_for_others_is_changed_their_text_is_still_found(make_index):
    index = make_index({f"{name}.md": shared(name) for name in "abcd"} | TEXTS)
    assert set(index.answers()) & {f"corpus/{name}.md" for name in "abcd"} == {"corpus/a.md"}
    index.write(a="Nothing is reserved any more.")
    index.catch_up()
    answers = index.answers()
    assert answers["corpus/a.md"] == {"Nothing is reserved any more."}
    assert answers["corpus/b.md"] == {shared("b")}, "the first of the others answers"
    assert not {"corpus/c.md", "corpus/d.md"} & set(answers), "and stands for the rest"
    (row,) = [row for row in index.rows() if row.get("instead_of")]
    assert [place["doc_id"] for place in row["duplicates"]] == ["corpus/c.md", "corpus/d.md"]
    assert index.faults() == []


def test_near_duplicates_are_found_whatever_becomes_of_the_ones_that_stand_for_them(make_index):
    index = make_index({f"{name}.md": shared(name) for name in "abc"} | TEXTS)
    for change, first in (({"a": None}, "b"), ({"b": "Gone."}, "c"), ({"b": shared("b")}, "b"), ({"a": shared("a")}, "a")):
        index.write(**change)
        index.catch_up()
        answering = {doc_id for doc_id, texts in index.answers().items() if any(BOILERPLATE in text for text in texts)}
        assert answering == {f"corpus/{first}.md"}
        assert index.faults() == []
    assert index.rows() == []


def test_a_text_is_never_lost_between_two_batches(make_index):
    index = make_index({f"{name}.md": shared(name) for name in "ab"} | TEXTS)
    index.write(a="Changed.", b=shared("b") + " And changed.")
    with index.connection:
        replacement = changed_chunks.plan(index.connection, index.release, ["corpus/a.md"], index.counter)
    assert [version.doc_id for version in replacement.versions] == ["corpus/a.md", "corpus/b.md"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("UPDATE documents SET content = 'x' WHERE path = 'bread.md'", "1 documents are not covered in the version"),
        ("DELETE FROM documents WHERE path = 'bread.md'", "1 deleted documents are still covered"),
        ("DELETE FROM golive.superseded WHERE doc_id = 'corpus/coal.md'", "1 documents that do not stand would answer"),
        ("UPDATE golive.changed_chunks SET doc_sha256 = 'x'", "1 documents would answer from another content"),
        ("DELETE FROM golive.changed_chunks", "1 changed documents lack new chunks"),
        ("DELETE FROM golive.superseded WHERE doc_id = 'corpus/apples.md'", "1 documents have old chunks"),
        ("INSERT INTO golive.superseded SELECT release_id, 'corpus/bread.md' FROM golive.coverage", "1 documents have old"),
        ("DELETE FROM golive.release_documents WHERE doc_id = 'corpus/bread.md'", "1 documents are not covered"),
    ],
)
def test_the_proof_finds_each_thing_that_is_wrong(index, command, said):
    index.write(apples="Apples are stored in straw.", coal=None)
    index.catch_up()
    assert index.faults() == []
    with index.connection, index.connection.cursor() as cursor:
        cursor.execute(command)
    assert any(fault.startswith(said) for fault in index.faults())


def test_changes_whose_rows_were_lost_are_made_again(index):
    index.write(apples="Apples are stored in straw.", coal=None, tea="Tea.")
    index.catch_up()
    rows = index.rows()
    with index.connection, index.connection.cursor() as cursor:
        cursor.execute("TRUNCATE golive.changed_chunks, golive.superseded")
    with index.connection:
        changes.ensure_coverage(index.connection, index.release)
    assert index.coverage().changed == 0
    assert index.catch_up() == ["corpus/apples.md", "corpus/coal.md", "corpus/tea.md"]
    assert (index.rows(), index.faults()) == (rows, [])


def forget_coverage(index: Index) -> None:
    """As in a database that an earlier Golive set up, or into which a backup was restored."""
    with index.connection, index.connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE golive.coverage, golive.release_documents, golive.changed_chunks, golive.superseded,"
            " golive.document_changes"
        )


def test_coverage_that_was_never_recorded_is_rebuilt_from_the_documents_it_was_sealed_from(index):
    before = index.coverage()
    forget_coverage(index)
    with index.connection:
        changes.ensure_coverage(index.connection, index.release)
    assert index.coverage() == dataclasses.replace(before, origin="rebuilt")
    assert index.catch_up() == []


def test_coverage_that_cannot_be_rebuilt_is_read_off_the_table(make_index):
    index = make_index({f"{name}.md": shared(name) for name in "ab"} | TEXTS)
    index.write(apples="Apples are stored in straw.", coal=None, tea="Tea.")
    forget_coverage(index)
    with index.connection:
        changes.ensure_coverage(index.connection, index.release)
    assert (index.coverage().origin, index.coverage().sealed) == ("derived", 5)
    assert index.catch_up() == ["corpus/apples.md", "corpus/coal.md", "corpus/tea.md"]
    assert index.faults() == []
    assert index.answers()["corpus/a.md"] == {shared("a")}


def test_a_document_written_while_the_table_was_built_is_pending_after_the_seal(index, make_document):
    built = [make_document(path, text) for path, text in {**TEXTS, "bread.md": "As it was when it was read."}.items()]
    with index.connection:
        changes.record_coverage(index.connection, index.release, built)
    assert index.catch_up() == ["corpus/bread.md"]


def test_how_far_a_release_is_behind_shows_from_the_log(index):
    index.catch_up()
    with index.connection:
        assert changes.lag_of(index.connection, index.release) == changes.Lag(0, None)
    index.write(tea="Tea.")
    index.write(tea="Green tea.", bread=None)
    with index.connection:
        lag = changes.lag_of(index.connection, index.release)
        (first, *_) = postgres.every(index.connection, "SELECT changed_at FROM golive.document_changes ORDER BY seq")
    assert lag.pending == 2
    assert lag.oldest >= first["changed_at"]
    index.catch_up()
    with index.connection:
        assert changes.lag_of(index.connection, index.release).pending == 0


def test_a_snapshot_of_another_server_is_not_believed(index):
    index.catch_up()
    with index.connection, index.connection.cursor() as cursor:
        cursor.execute("UPDATE golive.coverage SET seen = '900000000:900000000:'")
    index.write(tea="Tea.")
    assert index.catch_up(logged_only=True) == ["corpus/tea.md"]


def test_the_log_keeps_what_some_kept_release_has_not_seen(index, other):
    index.catch_up()
    with other.cursor() as cursor:
        write(cursor, "late.md", "Committed last.")
        index.write(early="Committed first.")
        index.catch_up()
        other.commit()
    with index.connection:
        changes.prune_log(index.connection, [index.release])
        left = postgres.every(index.connection, "SELECT doc_id FROM golive.document_changes")
    assert left == [{"doc_id": "corpus/late.md"}]
    assert index.catch_up(logged_only=True) == ["corpus/late.md"]


def test_whoever_writes_while_it_catches_up_is_caught_up_with(index):
    stop = threading.Event()

    def keep_writing(seed: int) -> None:
        connection, number, draw = postgres.connect(index.connection.dsn, "writer"), 0, random.Random(seed)
        while not stop.is_set():
            with connection, connection.cursor() as cursor:
                for _ in range(draw.randint(1, 3)):
                    path = f"{draw.choice('pqrs')}{seed}.md"
                    write(cursor, path, draw.choice([None, f"Text {number} of {path}.", shared(path)]))
                    number += 1
        connection.close()

    writers = [threading.Thread(target=keep_writing, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    passes = [index.catch_up(logged_only=bool(n)) for n in range(12)]
    stop.set()
    for writer in writers:
        writer.join()
    index.catch_up(logged_only=True)
    assert sum(map(len, passes)) > 0
    assert index.faults() == []
    assert set(index.answers()) == set(standing(index.connection))


class Life(RuleBasedStateMachine):
    """Documents come, change and go; the release catches up now and then. ``start`` is set by the test below."""

    start: Callable[[], Index]
    texts = st.sampled_from(["Tea.", "Rye bread, sliced.", " \n", shared("x"), shared("y"), TEXTS["bread.md"], None])

    @initialize()
    def begin(self) -> None:
        self.index = type(self).start()

    @rule(name=st.sampled_from("abcde"), content=texts)
    def write(self, name: str, content: str | None) -> None:
        self.index.write(**{name: content})

    @rule(first=st.sampled_from("abcde"), second=st.sampled_from("abcde"))
    def swap(self, first: str, second: str) -> None:
        with self.index.connection, self.index.connection.cursor() as cursor:
            cursor.execute(
                "UPDATE documents d SET content = o.content FROM documents o"
                " WHERE (d.id, o.id) IN ((%(a)s, %(b)s), (%(b)s, %(a)s))",
                {"a": f"corpus/{first}.md", "b": f"corpus/{second}.md"},
            )

    @rule(logged_only=st.booleans())
    def catch_up(self, logged_only: bool) -> None:
        self.index.catch_up(logged_only=logged_only)
        assert self.index.faults() == []
        answers, wanted = self.index.answers(), standing(self.index.connection)
        assert all(texts <= wanted[doc_id] for doc_id, texts in answers.items())
        lost = {text for texts in wanted.values() for text in texts} - {
            text for texts in answers.values() for text in texts
        }
        assert all(BOILERPLATE in text for text in lost), "only a near-duplicate may be left to another document"
        assert any(BOILERPLATE in text for texts in answers.values() for text in texts) or not lost

    @rule()
    def start_over(self) -> None:
        """What stands beside the sealed table is the same as if all changes had come at once."""
        self.index.catch_up()
        rows = self.index.rows()
        with self.index.connection:
            changes.reset_to_seal(self.index.connection, self.index.release)
        self.index.catch_up()
        assert self.index.rows() == rows

    @invariant()
    def nothing_deleted_answers_that_the_release_knows_of(self) -> None:
        if hasattr(self, "index"):
            with self.index.connection:
                behind = changes.pending_documents(self.index.connection, self.index.release)
            assert set(self.index.answers()) <= set(standing(self.index.connection)) | set(behind)


def test_through_any_life_of_the_documents_a_release_answers_from_what_stands(make_index):
    texts = {"a.md": shared("a"), "b.md": shared("b"), "c.md": TEXTS["coal.md"], "z.md": TEXTS["apples.md"]}

    def start() -> Index:
        return make_index(texts)

    Life.start = staticmethod(start)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )


def standing(connection: Connection) -> dict[str, set[str]]:
    """The text of every document that holds any, as one chunk: all are short."""
    with connection:
        rows = postgres.every(connection, "SELECT id, content FROM documents WHERE source = 'corpus'")
    return {row["id"]: {row["content"].strip()} for row in rows if row["content"].strip()}
