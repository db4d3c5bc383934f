"""Documents: what a folder holds, what a sync changes, and the digest of what is there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.index.documents import (
    SyncPlan,
    apply_sync,
    check_mass_delete,
    corpus_digest,
    digest_of_documents,
    plan_sync,
    read_documents,
    scan_folder,
    source_name,
    standing_documents,
)
from lib.platform import postgres
from lib.platform.errors import ConfigInvalid, NotFound, Refused


def test_markdown_and_text_files_are_read_in_path_order(tmp_path):
    for path in ("b/two.markdown", "a.md", "b/one.TXT", "日本語 😀.md"):
        write(tmp_path, path, f"about {path}")
    scan = scan_folder(tmp_path, "docs")
    assert [document.path for document in scan.documents] == ["a.md", "b/one.TXT", "b/two.markdown", "日本語 😀.md"]
    assert [document.doc_id for document in scan.documents][1] == "docs/b/one.TXT"
    assert [document.metadata["type"] for document in scan.documents] == ["markdown", "text", "markdown", "markdown"]
    assert {document.source for document in scan.documents} == {"docs"}
    assert scan.skipped == []


def test_a_document_holds_its_text_hash_title_and_sections(tmp_path):
    text = "# Backups\n\nbody\n\n## Retention\n"
    write(tmp_path, "a.md", text)
    (document,) = scan_folder(tmp_path, "docs").documents
    assert document.content == text
    assert document.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert document.title == "Backups"
    assert document.sections == [
        {"level": 1, "title": "Backups", "start": 0},
        {"level": 2, "title": "Retention", "start": 17},  # 9 + 2 line ends + 4 + 2 line ends
    ]


def test_a_document_without_headings_is_titled_by_its_file_name(tmp_path):
    write(tmp_path, "how-to_restore.md", "no heading")
    write(tmp_path, "notes.txt", "# not Markdown")
    titles = {document.path: (document.title, document.sections) for document in scan_folder(tmp_path, "docs").documents}
    assert titles == {"how-to_restore.md": ("how to restore", []), "notes.txt": ("notes", [])}


def test_line_ends_are_kept_and_a_byte_order_mark_is_not(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Title\r\n\r\nbody\r\n")
    (document,) = scan_folder(tmp_path, "docs").documents
    assert document.content == "# Title\r\n\r\nbody\r\n"
    assert document.sha256 == hashlib.sha256(b"# Title\r\n\r\nbody\r\n").hexdigest()
    assert document.sections[0]["start"] == 0


def test_a_title_has_no_carriage_return(tmp_path):
    (tmp_path / "a.md").write_bytes(b"# Title\r\n\r\nbody\r\n")
    assert scan_folder(tmp_path, "docs").documents[0].title == "Title"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.md", b"text\0text", "binary"),
        ("x.md", "text".encode("utf-16"), "binary"),
        ("x.md", b"", "empty"),
        ("x.txt", b" \r\n\t\n", "empty"),
        ("x.md", b"\xef\xbb\xbf\n", "empty"),
        ("x.md", b"caf\xe9", "not UTF-8 (byte 3)"),
        ("x.md", b"\xed\xa0\x80", "not UTF-8 (byte 0)"),
        ("x.pdf", b"%PDF", "not Markdown or text"),
        ("md", b"no suffix", "not Markdown or text"),
    ],
)
def test_a_file_that_is_no_document_is_skipped_with_the_reason(tmp_path, name, content, reason):
    write(tmp_path, "good.md", "good")
    (tmp_path / name).write_bytes(content)
    scan = scan_folder(tmp_path, "docs")
    assert [document.path for document in scan.documents] == ["good.md"]
    assert scan.skipped == [(name, reason)]


def test_links_are_followed_within_the_folder_and_never_out_of_it(tmp_path):
    folder, outside = tmp_path / "docs", tmp_path / "secret.md"
    write(folder, "real.md", "text")
    outside.write_text("secret")
    (folder / "inside.md").symlink_to("real.md")
    (folder / "outside.md").symlink_to(outside)
    (folder / "dangling.md").symlink_to("gone.md")
    scan = scan_folder(folder, "docs")
    assert {document.path: document.content for document in scan.documents} == {"inside.md": "text", "real.md": "text"}
    assert scan.skipped == [
        ("dangling.md", "unreadable: no such file or directory"),
        ("outside.md", "a link that leads outside of the folder"),
    ]


def test_a_linked_folder_is_not_walked(tmp_path):
    folder = tmp_path / "docs"
    write(folder, "real.md", "text")
    write(tmp_path, "secrets/a.md", "secret")
    (folder / "linked").symlink_to(tmp_path / "secrets")
    (folder / "loop").symlink_to(folder)
    scan = scan_folder(folder, "docs")
    assert [document.path for document in scan.documents] == ["real.md"]
    assert scan.skipped == [("linked", "a link that leads outside of the folder"), ("loop", "a link to a folder")]


def test_a_folder_link_that_leads_outside_is_named(tmp_path):
    folder = tmp_path / "docs"
    write(folder, "real.md", "text")
    write(tmp_path, "secrets/a.md", "secret")
    (folder / "linked").symlink_to(tmp_path / "secrets")
    assert [name for name, _ in scan_folder(folder, "docs").skipped] == ["linked"]


def test_a_link_to_itself_is_skipped(tmp_path):
    write(tmp_path, "real.md", "text")
    (tmp_path / "loop.md").symlink_to("loop.md")
    assert [name for name, _ in scan_folder(tmp_path, "docs").skipped] == ["loop.md"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for path in ("good.md", "locked/a.md", ".hidden/b.md"):
        write(tmp_path, path, "text")
    monkeypatch.setattr(os, "access", lambda path, mode: path.name not in ("locked", ".hidden"))  # root may read everything
    assert ("locked", "an unreadable folder") in scan_folder(tmp_path, "docs").skipped


def test_a_pipe_is_skipped_and_not_waited_for(tmp_path):
    write(tmp_path, "good.md", "text")
    os.mkfifo(tmp_path / "pipe.md")
    assert scan_folder(tmp_path, "docs").skipped == [("pipe.md", "not a regular file")]


def test_a_corpus_folder_may_itself_be_a_link(tmp_path):
    write(tmp_path / "real", "a.md", "text")
    (tmp_path / "linked").symlink_to("real")
    assert [document.doc_id for document in scan_folder(tmp_path / "linked", "docs").documents] == ["docs/a.md"]


def test_hidden_files_and_folders_are_left_out_in_silence(tmp_path):
    for path in ("a.md", ".hidden.md", ".git/b.md", "sub/.obsidian/c.md"):
        write(tmp_path, path, "text")
    scan = scan_folder(tmp_path, "docs")
    assert [document.path for document in scan.documents] == ["a.md"]
    assert scan.skipped == []


def test_a_hidden_folder_above_the_corpus_hides_nothing(tmp_path):
    write(tmp_path / ".cache" / "docs", "a.md", "text")
    assert len(scan_folder(tmp_path / ".cache" / "docs", "docs").documents) == 1


def test_a_file_name_that_is_not_utf8_is_skipped(tmp_path):
    write(tmp_path, "good.md", "text")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("text")
    scan = scan_folder(tmp_path, "docs")
    assert [document.path for document in scan.documents] == ["good.md"]
    assert [reason for _, reason in scan.skipped] == ["its name is not UTF-8"]
    assert scan.skipped[0][0] == r"caf\udce9.md"  # as it can be printed


def test_a_folder_without_a_document_is_refused_and_says_what_it_holds(tmp_path):
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    (tmp_path / "y.md").write_bytes(b"")
    with pytest.raises(ConfigInvalid, match="holds no document") as caught:
        scan_folder(tmp_path, "docs")
    assert str(tmp_path) in caught.value.message
    assert caught.value.detail == "2 files skipped: x.pdf: not Markdown or text; y.md: empty"


@pytest.mark.parametrize("name", ["missing", "file.md"])
def test_what_is_no_folder_is_not_found(tmp_path, name):
    (tmp_path / "file.md").write_text("text")
    with pytest.raises(NotFound, match=name):
        scan_folder(tmp_path / name, "docs")


def test_a_source_is_named_as_given_or_after_its_folder(tmp_path):
    (tmp_path / "my-docs").mkdir()
    assert source_name(tmp_path / "my-docs", None) == "my-docs"
    assert source_name(tmp_path / "my-docs" / ".", "") == "my-docs"
    assert source_name(tmp_path / "my-docs", "v1.2_final") == "v1.2_final"


@pytest.mark.parametrize("name", ["a/b", "a b", ".hidden", "-x", "naïve", "x" * 64, "a;DROP TABLE documents"])
def test_a_name_that_cannot_be_a_source_is_refused(tmp_path, name):
    with pytest.raises(ConfigInvalid, match="cannot be a source name"):
        source_name(tmp_path, name)


def test_a_source_name_with_a_line_end_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid):
        source_name(tmp_path, "docs\n")


def test_a_plan_says_what_has_to_change(make_document):
    wanted = [make_document("same.md", "same"), make_document("changed.md", "new"), make_document("fresh.md", "fresh")]
    standing = {"corpus/same.md": wanted[0].sha256, "corpus/changed.md": "0" * 64, "corpus/gone.md": "1" * 64}
    before = dict(standing)
    plan = plan_sync(standing, wanted)
    assert plan == SyncPlan(["corpus/fresh.md"], ["corpus/changed.md"], ["corpus/gone.md"], 1)
    assert plan.changes == 3
    assert standing == before


contents = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", "3"]))


@settings(deadline=None, derandomize=True)
@given(standing=contents, wanted=contents)
def test_carrying_out_a_plan_gives_what_was_wanted(make_document, standing, wanted):
    documents = [make_document(path, content) for path, content in wanted.items()]
    table = {f"corpus/{path}": make_document(path, content).sha256 for path, content in standing.items()}
    plan = plan_sync(table, documents)
    hashes = {document.doc_id: document.sha256 for document in documents}
    after = {key: value for key, value in table.items() if key not in plan.delete}
    after |= {key: hashes[key] for key in [*plan.add, *plan.update]}
    assert after == hashes
    assert plan.unchanged + len(plan.add) + len(plan.update) == len(documents)
    assert plan_sync(after, documents).changes == 0


def test_a_sync_makes_the_table_equal_the_folder(connection, tmp_path):
    sync(connection, tmp_path, {"a.md": "# A\r\n\ttab \\ 'quote' %s", "b.md": "b", "sub/c.txt": "c 😀"})
    plan = sync(connection, tmp_path, {"b.md": "b, changed", "sub/c.txt": "c 😀", "d.md": "d"})
    assert plan == SyncPlan(["docs/d.md"], ["docs/b.md"], ["docs/a.md"], 1)
    scan = scan_folder(tmp_path, "docs")
    with connection:
        assert read_documents(connection, ["docs"]) == scan.documents
    assert standing_documents(connection, "docs") == {document.doc_id: document.sha256 for document in scan.documents}


def test_a_text_comes_back_from_the_table_unchanged(connection, tmp_path):
    text = "# A\r\n\ttab \\ 'quote' \"double\" %s {x} \\N \u200b e\u0301 שלום 👩‍👩‍👧 \x0c\x7f\n"
    sync(connection, tmp_path, {"a.md": text})
    with connection:
        (document,) = read_documents(connection, ["docs"])
    assert document.content == text


def test_a_second_sync_changes_nothing(connection, tmp_path):
    sync(connection, tmp_path, {"a.md": "a", "b.md": "b"})
    before = rows_of(connection)
    plan = sync(connection, tmp_path, {"a.md": "a", "b.md": "b"})
    assert plan.changes == 0
    assert rows_of(connection) == before  # updated_at included


def test_an_update_touches_only_what_changed(connection, tmp_path):
    sync(connection, tmp_path, {"a.md": "a", "b.md": "b"})
    before = {row["id"]: row for row in rows_of(connection)}
    sync(connection, tmp_path, {"a.md": "a", "b.md": "new"})
    after = {row["id"]: row for row in rows_of(connection)}
    assert after["docs/a.md"] == before["docs/a.md"]
    assert after["docs/b.md"]["updated_at"] > before["docs/b.md"]["updated_at"]


def test_a_sync_brings_back_a_text_that_was_changed_in_the_table_alone(connection, tmp_path):
    sync(connection, tmp_path, {"a.md": "# A\n\ntext"})
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE documents SET content = 'changed, under the old hash'")
    with connection:
        (changed,) = read_documents(connection, ["docs"])
    assert changed.sha256 == hashlib.sha256(b"changed, under the old hash").hexdigest()
    assert sync(connection, tmp_path, {"a.md": "# A\n\ntext"}).update == ["docs/a.md"]
    with connection:
        assert read_documents(connection, ["docs"]) == scan_folder(tmp_path, "docs").documents


def test_a_sync_leaves_other_sources_alone(connection, tmp_path, make_document, store_documents):
    store_documents(connection, [make_document("a.md", "theirs", source="other")], source="other")
    sync(connection, tmp_path, {"a.md": "ours"})
    sync(connection, tmp_path, {"b.md": "ours"})
    with connection:
        assert [document.content for document in read_documents(connection, ["other"])] == ["theirs"]
    assert standing_documents(connection, "nobody") == {}


def test_a_plan_cannot_delete_documents_of_another_source(connection, make_document, store_documents):
    store_documents(connection, [make_document("a.md", "theirs", source="other")], source="other")
    apply_sync(connection, "docs", SyncPlan([], [], ["other/a.md"], 0), [])
    assert list(standing_documents(connection, "other")) == ["other/a.md"]


def test_a_sync_that_fails_halfway_changes_nothing(connection, make_document, store_documents):
    store_documents(connection, [make_document("old.md", "old")])
    before = rows_of(connection)
    wanted = [make_document("new.md", "new"), make_document("bad.md", "nul \0 is not possible in PostgreSQL")]
    with pytest.raises(ValueError, match="NUL"):
        apply_sync(connection, "corpus", SyncPlan(["corpus/bad.md", "corpus/new.md"], [], ["corpus/old.md"], 0), wanted)
    assert rows_of(connection) == before


def test_a_sync_is_in_the_audit_log(connection, tmp_path):
    sync(connection, tmp_path, {"a.md": "a", "b.md": "b"})
    with connection:
        entry = postgres.one(connection, "SELECT action, subject, reason FROM golive.audit_log ORDER BY seq DESC LIMIT 1")
    assert entry == {"action": "sync documents", "subject": "docs", "reason": "2 added, 0 updated, 0 deleted"}


@pytest.mark.parametrize(("deleted", "standing"), [(11, 21), (11, 11), (60, 100)])
def test_deleting_over_half_of_a_source_is_refused_unless_it_was_asked_for(deleted, standing):
    plan = SyncPlan([], [], [str(number) for number in range(deleted)], standing - deleted)
    with pytest.raises(Refused, match=f"delete {deleted} of {standing}") as caught:
        check_mass_delete(plan, standing, allowed=False)
    assert "--allow-mass-delete" in caught.value.hint
    check_mass_delete(plan, standing, allowed=True)


@pytest.mark.parametrize(("deleted", "standing"), [(0, 0), (1, 1), (10, 15), (11, 22), (50, 100)])
def test_deleting_a_few_documents_or_up_to_half_is_not_refused(deleted, standing):
    check_mass_delete(SyncPlan([], [], [str(number) for number in range(deleted)], 0), standing, allowed=False)


def test_documents_are_read_in_code_point_order_and_of_the_sources_asked_for_alone(
    connection, make_document, store_documents
):
    for source in ("one", "two", "three"):
        names = ["b.md", "B.md", "é.md", "a-b.md", "a/b.md", "_.md"]
        store_documents(connection, [make_document(name, name, source=source) for name in names], source=source)
    with connection:
        found = [document.doc_id for document in read_documents(connection, ["two", "one"])]
    assert found == sorted(found)
    assert len(found) == 12
    assert not any(doc_id.startswith("three") for doc_id in found)


def test_the_corpus_digest_is_that_of_the_documents_read(connection, make_document, store_documents):
    store_documents(connection, [make_document(name, name) for name in ("b.md", "B.md", "é.md", "a/b.md")])
    with connection:
        digest = corpus_digest(connection, ["corpus"])
        assert digest == digest_of_documents(read_documents(connection, ["corpus"]))
        assert corpus_digest(connection, ["nobody"]) == digest_of_documents([]) != digest


def test_the_digest_is_sha256_over_ids_hashes_titles_and_metadata(make_document):
    documents = [make_document("a.md", "one"), make_document("é.md", "two")]
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    kind = '{"type":"markdown"}'
    canonical = f'[["corpus/a.md","{one}","a",{kind}],["corpus/é.md","{two}","é",{kind}]]'
    assert digest_of_documents(documents) == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_digest_changes_with_any_content_id_or_number_of_documents(make_document):
    base = [make_document("a.md", "one"), make_document("b.md", "two")]
    others = [
        [make_document("a.md", "one"), make_document("b.md", "two ")],
        [make_document("a.md", "two"), make_document("b.md", "one")],
        [make_document("a.md", "one"), make_document("c.md", "two")],
        base[:1],
        [*base, make_document("c.md", "")],
        [],
    ]
    digests = {digest_of_documents(documents) for documents in [base, *others]}
    assert len(digests) == 1 + len(others)


def test_the_digest_does_not_depend_on_the_order_of_the_documents(make_document):
    documents = [make_document("a.md", "one"), make_document("b.md", "two")]
    assert digest_of_documents(documents) == digest_of_documents(documents[::-1])


@pytest.mark.parametrize("change", ["content = 'new text'", "title = 'New'", 'metadata = \'{"type": "runbook"}\''])
def test_the_corpus_digest_notices_what_changes_a_chunks_text(connection, make_document, store_documents, change):
    store_documents(connection, [make_document("a.md", "old text")])
    with connection, connection.cursor() as cursor:
        before = corpus_digest(connection, ["corpus"])
        cursor.execute(f"UPDATE documents SET {change}")
        assert corpus_digest(connection, ["corpus"]) != before


def sync(connection, folder: Path, files: dict[str, str]) -> SyncPlan:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    for path, content in files.items():
        write(folder, path, content)
    scan = scan_folder(folder, "docs")
    plan = plan_sync(standing_documents(connection, "docs"), scan.documents)
    apply_sync(connection, "docs", plan, scan.documents)
    return plan


def write(folder: Path, path: str, content: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content.encode())


def rows_of(connection):
    with connection:
        return postgres.every(connection, "SELECT * FROM documents ORDER BY id")
