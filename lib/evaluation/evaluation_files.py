"""The files of an evaluation, written as its cases are done and put in place together once it is whole."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Any

from lib.evaluation import ragchecker_metrics, results
from lib.evaluation.rows import HELD_BYTES, StoredRows, read_rows
from lib.platform import failpoints
from lib.platform.files import canonical_json, sync_folder, write_json, writing

ROWS, LABELS, ANSWERS = "case_results.jsonl", "ragchecker.json", "answers.jsonl"


class EvaluationFiles:
    """A context manager that collects an evaluation beside its folder. Without ``finish`` the folder stays as it was.

    What an evaluation that was killed left beside the folder is removed; one that runs at the same time is left alone.

    ``case_results.jsonl`` and ``ragchecker.json`` are the same for equal evaluations; ``answers.jsonl`` holds what is not:
    how long each answer took.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._staging, self._lock = _stage(folder)
            self.rows = StoredRows(self._staging / ROWS, create=True)
            self._answers: BufferedWriter = (self._staging / ANSWERS).open("wb")
            self._labels = _LabelsFile((self._staging / LABELS).open("wb"))

    def __enter__(self) -> EvaluationFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._answers.close()
        self._labels.stream.close()
        shutil.rmtree(self._staging, ignore_errors=True)
        os.close(self._lock)

    def add(self, row: Mapping[str, Any], labelled: Any, timings: Mapping[str, float]) -> None:
        """One case, in ``query_id`` order; ``labelled`` is its RAGChecker result, None where it was not judged."""
        with writing(self._folder):
            self.rows.append(row)
            answer = {"query_id": row["query_id"], **{name: round(value, 3) for name, value in timings.items()}}
            self._answers.write(canonical_json(answer) + b"\n")
            if labelled is not None:
                self._labels.add(labelled)

    def finish(self, summary: dict[str, Any], timings: Mapping[str, Any]) -> results.Evaluation:
        """Puts the files in place, ``metrics.json`` last: a folder that has one is whole."""
        rows: Sequence[Mapping[str, Any]] = self.rows
        with writing(self._folder):
            self._labels.end()
            for stream in (self._answers, self._labels.stream):
                stream.flush()
                os.fsync(stream.fileno())
            self.rows.sync()
            if (self._staging / ROWS).stat().st_size <= HELD_BYTES:
                rows = read_rows(self._staging / ROWS)
            evaluation = results.Evaluation(summary, rows)
            digest = evaluation.digest
            self._folder.mkdir(parents=True, exist_ok=True)
            failpoints.reach("evaluate.unlink_metrics")
            (self._folder / "metrics.json").unlink(missing_ok=True)
            for name in (ROWS, LABELS, ANSWERS):
                failpoints.reach("evaluate.replace")
                (self._staging / name).replace(self._folder / name)
            sync_folder(self._folder)
        failpoints.reach("evaluate.metrics")
        write_json(self._folder / "timings.json", dict(timings))
        write_json(self._folder / "metrics.json", {**summary, "evaluation_digest": digest})
        return evaluation


def _stage(folder: Path) -> tuple[Path, int]:
    """A new folder beside ``folder``, and the lock on it that this process holds while it lives; dead ones are removed."""
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # so that none is looked at between its making and its locking
        for found in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            _remove_dead(found)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        lock = os.open(staging, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return staging, lock
    finally:
        os.close(parent)


def _remove_dead(staging: Path) -> None:
    """Removes a folder of an evaluation that no process holds; whatever else has such a name stays."""
    if not staging.is_dir() or staging.is_symlink() or {path.name for path in staging.iterdir()} - {ROWS, LABELS, ANSWERS}:
        return
    handle = os.open(staging, os.O_RDONLY)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staging)
    finally:
        os.close(handle)


class _LabelsFile:
    """``ragchecker_metrics.to_json``, a result at a time: the same bytes."""

    def __init__(self, stream: BufferedWriter) -> None:
        self.stream = stream
        self._head, self._tail = "", ""
        self._count = 0

    def add(self, result: Any) -> None:
        text = json.dumps(result.to_dict(), indent=1).replace("\n", "\n  ")
        self._begin()
        self.stream.write(f"{',' if self._count else '['}\n  {text}".encode())
        self._count += 1

    def end(self) -> None:
        self._begin()
        self.stream.write(("\n ]" if self._count else "[]").encode() + self._tail.encode())

    def _begin(self) -> None:
        if not self._head:
            self._head, _, self._tail = ragchecker_metrics.to_json([]).partition("[]")
            self.stream.write(self._head.encode())
