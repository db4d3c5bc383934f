"""Documents: a folder of Markdown and text files brought into the table ``documents``, the source of truth."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extras import execute_values

from lib.index.structure import sections_of
from lib.platform import audit
from lib.platform.errors import ConfigInvalid, NotFound, Refused
from lib.platform.files import digest_of
from lib.platform.postgres import every

_SUFFIXES = {".md": "markdown", ".markdown": "markdown", ".txt": "text"}
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MASS_DELETE_SHARE = 0.5
_MASS_DELETE_FROM = 10
# never the stored hash: a row whose content was changed by other hands would keep the old one
_SHA256 = "encode(sha256(convert_to(content, 'UTF8')), 'hex') AS sha256"


@dataclass(frozen=True)
class Document:
    """One file as it is indexed; ``sha256`` is over the UTF-8 bytes of ``content``."""

    doc_id: str
    source: str
    path: str
    title: str
    sections: list[dict[str, Any]]
    content: str
    sha256: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """What a folder holds: documents, and the files that were skipped with the reason."""

    documents: list[Document]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class SyncPlan:
    """What has to change so that the table equals the folder."""

    add: list[str]
    update: list[str]
    delete: list[str]
    unchanged: int

    @property
    def changes(self) -> int:
        return len(self.add) + len(self.update) + len(self.delete)


def source_name(folder: Path, given: str | None) -> str:
    """The name under which a folder's documents stand: the one given, else the folder's own.

    Raises:
        ConfigInvalid: it cannot be a source's name.
    """
    name = given or folder.resolve().name
    if not _SOURCE_NAME.fullmatch(name):
        raise ConfigInvalid(
            f"{name!r} cannot be a source name", hint="letters, digits, dot, dash, underscore: --source NAME"
        )
    return name


def scan_folder(folder: Path, source: str) -> Scan:
    """Reads every Markdown and text file below ``folder``, in path order. Hidden files are left out.

    Binary, empty, non-UTF-8 and unreadable files, unreadable folders, links to folders, and links that lead outside are
    named in ``skipped``.

    Raises:
        NotFound: there is no such folder. ConfigInvalid: it holds no document.
    """
    if not folder.is_dir():
        raise NotFound(f"no corpus folder {folder}", hint="CORPUS=path/to/folder")
    documents: list[Document] = []
    skipped: list[tuple[str, str]] = []
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        found = _read_document(path, relative.as_posix(), source, root)
        if isinstance(found, Document):
            documents.append(found)
        elif found:
            skipped.append((relative.as_posix().encode(errors="backslashreplace").decode(), found))
    if not documents:
        raise ConfigInvalid(
            f"corpus folder {folder} holds no document",
            detail=f"{len(skipped)} files skipped: " + "; ".join(f"{name}: {why}" for name, why in skipped[:5])
            if skipped
            else "",
            hint="put .md or .txt files there",
        )
    return Scan(documents, skipped)


def _read_document(path: Path, relative: str, source: str, root: Path) -> Document | str:
    """The document, or why the file is none; "" for a folder, whose files are read."""
    try:
        raw = _read_file(path, root)
        relative.encode()
    except OSError as error:
        return f"unreadable: {(error.strerror or 'error').lower()}"
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if isinstance(raw, str):
        return raw
    if b"\0" in raw:
        return "binary"
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    if not content.strip():
        return "empty"
    kind = _SUFFIXES[path.suffix.lower()]
    sections = sections_of(content) if kind == "markdown" else []
    title = next((section.title for section in sections if section.title), path.stem.replace("-", " ").replace("_", " "))
    return Document(
        doc_id=f"{source}/{relative}",
        source=source,
        path=relative,
        title=title,
        sections=[{"level": s.level, "title": s.title, "start": s.start} for s in sections],
        content=content,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        metadata={"type": kind},
    )


def _read_file(path: Path, root: Path) -> bytes | str:
    """A file's bytes, or why it is not read; "" for a folder."""
    if not Path(os.path.realpath(path)).is_relative_to(root):
        return "a link that leads outside of the folder"
    if path.is_dir():
        if path.is_symlink():
            return "a link to a folder"
        return "" if os.access(path, os.R_OK | os.X_OK) else "an unreadable folder"
    if path.suffix.lower() not in _SUFFIXES:
        return "not Markdown or text"
    if path.exists() and not path.is_file():
        return "not a regular file"
    return path.read_bytes()


def plan_sync(standing: Mapping[str, str], documents: Sequence[Document]) -> SyncPlan:
    """Compares what stands (``doc_id`` → SHA-256) with what a scan found."""
    wanted = {document.doc_id: document.sha256 for document in documents}
    return SyncPlan(
        add=sorted(wanted.keys() - standing.keys()),
        update=sorted(key for key in wanted.keys() & standing.keys() if wanted[key] != standing[key]),
        delete=sorted(standing.keys() - wanted.keys()),
        unchanged=sum(1 for key in wanted.keys() & standing.keys() if wanted[key] == standing[key]),
    )


def standing_documents(connection: Connection, source: str) -> dict[str, str]:
    """``doc_id`` → SHA-256 of what the table holds of one source."""
    with connection:
        rows = every(connection, f"SELECT id, {_SHA256} FROM documents WHERE source = %s", (source,))  # nosec B608  # constants of this module; values are parameters
    return {row["id"]: row["sha256"] for row in rows}


def check_mass_delete(plan: SyncPlan, standing: int, allowed: bool) -> None:
    """Raises Refused where more than half of a source's documents would go without being asked for."""
    if not allowed and len(plan.delete) > _MASS_DELETE_FROM and len(plan.delete) > standing * _MASS_DELETE_SHARE:
        raise Refused(
            f"the sync would delete {len(plan.delete)} of {standing} documents",
            hint="is this the right folder? if so, add --allow-mass-delete; or keep both under another --source NAME",
        )


def apply_sync(connection: Connection, source: str, plan: SyncPlan, documents: Iterable[Document]) -> None:
    """Carries out a plan in one transaction."""
    wanted = {*plan.add, *plan.update}
    rows = [
        (d.doc_id, d.source, d.path, d.title, json.dumps(d.sections), d.content, d.sha256, json.dumps(d.metadata))
        for d in documents
        if d.doc_id in wanted
    ]
    with connection, connection.cursor() as cursor:
        if plan.delete:
            cursor.execute("DELETE FROM documents WHERE source = %s AND id = ANY(%s)", (source, plan.delete))
        if rows:
            execute_values(
                cursor,
                "INSERT INTO documents (id, source, path, title, sections, content, sha256, metadata) VALUES %s"
                " ON CONFLICT (id) DO UPDATE SET title = excluded.title, sections = excluded.sections,"
                " content = excluded.content, sha256 = excluded.sha256, metadata = excluded.metadata, updated_at = now()",
                rows,
                page_size=100,
            )
        counts = f"{len(plan.add)} added, {len(plan.update)} updated, {len(plan.delete)} deleted"
        audit.record(connection, "sync documents", source, counts)


def read_documents(connection: Connection, sources: Sequence[str]) -> list[Document]:
    """All documents of ``sources``, in id order (by code point, whatever the database's collation)."""
    rows = every(
        connection,
        f"SELECT id AS doc_id, source, path, title, sections, content, {_SHA256}, metadata FROM documents"  # nosec B608  # constants of this module; values are parameters
        ' WHERE source = ANY(%s) ORDER BY id COLLATE "C"',
        (list(sources),),
    )
    return [Document(**row) for row in rows]


def digest_of_documents(documents: Sequence[Document]) -> str:
    """SHA-256 over all that decides the chunks' texts: ids, content hashes, titles and metadata, in id order."""
    return _digest_of_rows((d.doc_id, d.sha256, d.title, d.metadata) for d in documents)


def corpus_digest(connection: Connection, sources: Sequence[str]) -> str:
    """``digest_of_documents`` of what the table holds now, without fetching the contents."""
    query = f"SELECT id, {_SHA256}, title, metadata FROM documents WHERE source = ANY(%s)"  # nosec B608  # constants of this module; values are parameters
    rows = every(connection, query, (list(sources),))
    return _digest_of_rows((row["id"], row["sha256"], row["title"], row["metadata"]) for row in rows)


def _digest_of_rows(rows: Iterable[tuple[Any, ...]]) -> str:
    return digest_of(sorted(rows, key=lambda row: row[0]))
