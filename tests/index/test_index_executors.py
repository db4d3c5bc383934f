"""Where units of work run: in order, bounded, again where a worker died, and with the same rows on a cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from lib.index import executors, pipeline, shadow
from lib.index.executors import Workers, open_workers
from lib.index.ingest import WorkUnit, chunk_unit, describe_unit, work_units
from lib.index.pipeline import Chunker, ClusterEmbedder
from lib.index.releases import Release
from lib.index.settings import BuildSettings
from lib.platform.errors import IntegrityMismatch, NotFound, Unavailable
from tests.index.executor_work import die_at_five, die_once, double, fail_at_three, sleep_and_tell

PROJECT = Path(__file__).resolve().parents[2]
LOCAL = BuildSettings("local", 2, 2, 64, 0)


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    """Two local processes."""
    with open_workers(LOCAL, characters=10**9) as workers:
        yield workers


def test_results_come_in_the_order_of_the_units(processes):
    assert list(processes.run(double, range(50), str)) == [2 * number for number in range(50)]


def test_only_a_few_units_are_on_their_way_at_a_time(processes):
    taken = []

    def units() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = processes.run(double, units(), str)
    for number in range(5):
        assert next(results) == 2 * number
        assert len(taken) <= number + 2 * processes.count
    results.close()


def test_an_error_of_the_work_itself_is_raised_as_it_is(processes):
    with pytest.raises(NotFound, match="no three") as caught:
        list(processes.run(fail_at_three, range(10), str))
    assert (caught.value.detail, caught.value.hint) == ("the detail", "the hint")
    assert list(processes.run(double, [1, 2], str)) == [2, 4]


def test_work_whose_process_was_killed_is_done_again(processes, tmp_path):
    mark = tmp_path / "killed"
    units = [(number, mark) for number in range(12)]
    assert list(processes.run(die_once, units, str)) == list(range(12))
    assert mark.exists()


def test_work_that_kills_every_process_is_named_and_what_came_before_it_is_there(processes):
    results = processes.run(die_at_five, range(8), lambda number: f"document {number}")
    done = []
    with pytest.raises(Unavailable, match="a worker process died 3 times over the same work") as caught:
        done.extend(iter(results))
    assert caught.value.detail == "document 5"
    assert "documents_per_unit" in caught.value.hint


def test_workers_end_with_the_process_that_they_work_for(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(
        "from lib.index.executors import open_workers\n"
        "from lib.index.settings import BuildSettings\n"
        "from tests.index.executor_work import sleep_and_tell\n"
        "if __name__ == '__main__':\n"
        "    with open_workers(BuildSettings('local', 2, 2, 64, 0), characters=10**9) as workers:\n"
        "        for pid in workers.run(sleep_and_tell, [0.0, 0.0, 60.0], str):\n"
        "            print(pid, flush=True)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not psutil.pid_exists(pid))


def test_little_text_is_not_worth_a_process():
    with open_workers(LOCAL, characters=10_000) as workers:
        assert list(workers.run(sleep_and_tell, [0.0], str)) == [os.getpid()]


def test_units_hold_every_document_once_and_are_described_by_their_documents(make_document, make_config):
    documents = [make_document(f"{number}.md", "text") for number in range(5)]
    units = list(work_units(documents, make_config(), Path("model"), 2))
    assert [document for unit in units for document in unit.documents] == documents
    assert [describe_unit(unit) for unit in units] == [
        "2 documents, corpus/0.md to corpus/1.md",
        "2 documents, corpus/2.md to corpus/3.md",
        "document corpus/4.md",
    ]


def test_a_unit_is_refused_where_another_tokenizer_lies(make_document, make_config, tmp_path):
    unit = WorkUnit([make_document("a.md", "text")], make_config(tokenizer_hash="0" * 64), tmp_path)
    with pytest.raises(IntegrityMismatch, match="on a worker is not the one that was locked"):
        chunk_unit(unit)


def test_a_cluster_that_does_not_answer_is_said_so(monkeypatch):
    monkeypatch.setattr(executors, "_CONNECT_TIMEOUT_S", 1)
    with (
        pytest.raises(Unavailable, match=r"no Dask scheduler answers at 127\.0\.0\.1:1") as caught,
        open_workers(replace(LOCAL, executor="dask://127.0.0.1:1"), characters=1),
    ):
        pass
    assert "EXECUTOR" in caught.value.hint


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_whose_package_is_not_installed_is_said_so(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[kind], None)
    with (
        pytest.raises(Unavailable, match="is not installed") as caught,
        open_workers(replace(LOCAL, executor=f"{kind}://host:1"), characters=1),
    ):
        pass
    assert f"golive[{kind}]" in caught.value.hint


@dataclass
class Cluster:
    """A Dask scheduler and its two workers, each a process."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("dask")
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}

    def start(kind: str, *arguments: str) -> subprocess.Popen:
        with (folder / "log").open("a") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, "--no-dashboard"]
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    host, port = address.split(":")
    scheduler = start("scheduler", "--host", host, "--port", port)
    each = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(folder))
    workers = [start("worker", f"tcp://{address}", *each) for _ in range(2)]
    wait_until(lambda: (folder / "log").read_text().count("Registered to:") == 2)
    yield Cluster(address, scheduler, workers)
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


@pytest.fixture
def release(connection, make_config, corpus_texts, make_document, store_documents, lock_release) -> Release:
    """A locked release whose documents give a dozen units of work."""
    texts = [text[:1500] for text in list(corpus_texts.values())[:24]]
    store_documents(connection, [make_document(f"{number:02}.md", text) for number, text in enumerate(texts)])
    return lock_release(connection, make_config(chunk_size=40))


@pytest.fixture
def expected(
    new_database, release, build, fixed_embedder, corpus_texts, make_document, store_documents, lock_release
) -> str:
    """The digest of the same release, built in one thread."""
    texts = [text[:1500] for text in list(corpus_texts.values())[:24]]
    with new_database() as connection:
        store_documents(connection, [make_document(f"{number:02}.md", text) for number, text in enumerate(texts)])
        return build(connection, lock_release(connection, release.locked_config), fixed_embedder).content_digest


class Acting:
    """Embeds as another embedder does, and does something else first at the second call."""

    def __init__(self, embedder, act):
        self.embedder, self.act, self.calls = embedder, act, 0
        self.name, self.dimension, self.identity = embedder.name, embedder.dimension, embedder.identity
        self.batch_independent = True

    def embed_documents(self, texts):
        self.calls += 1
        if self.calls == 2:
            self.act()
        return self.embedder.embed_documents(texts)

    def embed_query(self, text):
        return self.embedder.embed_query(text)


def test_a_local_worker_that_is_killed_half_way_changes_no_row(
    connection, release, expected, index_settings, fixed_embedder, model_folder, monkeypatch
):
    monkeypatch.setattr(pipeline, "CALL_ROWS", 16)
    killed = []

    def kill() -> None:
        killed.append(
            next(process for process in psutil.Process().children() if "spawn_main" in " ".join(process.cmdline()))
        )
        killed[0].kill()

    with open_workers(LOCAL, characters=10**9) as workers:
        chunker = Chunker(model_folder, workers, 1)
        sealed = shadow.build(connection, release, Acting(fixed_embedder, kill), chunker, index_settings)
    assert killed
    assert sealed.content_digest == expected


def test_a_cluster_whose_worker_is_killed_half_way_gives_the_same_rows(
    connection, release, expected, index_settings, fixed_embedder, model_folder, monkeypatch, cluster
):
    monkeypatch.setattr(pipeline, "CALL_ROWS", 16)
    with open_workers(replace(LOCAL, executor=f"dask://{cluster.address}"), characters=0) as workers:
        assert workers.count == 2
        pids = set(workers.run(sleep_and_tell, [0.1] * 4, str))
        assert pids == {process.pid for process in cluster.workers}
        acting = Acting(fixed_embedder, cluster.workers[0].kill)
        sealed = shadow.build(connection, release, acting, Chunker(model_folder, workers, 1), index_settings)
    assert cluster.workers[0].wait() == -9
    assert sealed.content_digest == expected


def test_a_cluster_embeds_to_the_same_bits_as_here(cluster, embedder, make_config, workspace):
    texts = ["a backup is proven", "", "by restoring it " * 40]
    with open_workers(replace(LOCAL, executor=f"dask://{cluster.address}"), characters=0) as workers:
        there = ClusterEmbedder(embedder, make_config(), workers).embed_documents(texts)
    assert np.array_equal(there, np.concatenate([embedder.embed_documents([text]) for text in texts]))


def test_a_cluster_that_goes_away_is_said_so(cluster):
    with (
        open_workers(replace(LOCAL, executor=f"dask://{cluster.address}"), characters=0) as workers,
        pytest.raises(Unavailable, match="the cluster went away"),
    ):
        results = workers.run(sleep_and_tell, [0.0, 30.0, 30.0], str)
        next(results)
        cluster.scheduler.kill()
        next(results)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
