"""Where units of work run: local processes, or the executor of a Dask or Ray cluster.

Results come in the order of the units. Only a few units are on their way at a time, so that memory stays flat. A unit whose
worker died is done again, a bounded number of times.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from lib.index.settings import BuildSettings
from lib.platform.errors import Unavailable

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 10
_PROCESSES_FROM_CHARACTERS = 4_000_000  # below, starting a process costs more than it gives


class Workers:
    """Runs functions over units on one executor at a time; a broken executor is replaced by a new one.

    ``on_cluster``: units may run on other machines, with this same code and model installed there.
    """

    def __init__(
        self, open_executor: Callable[[], AbstractContextManager[Executor]], count: int, *, on_cluster: bool
    ) -> None:
        self.count = count
        self.on_cluster = on_cluster
        self._open = open_executor
        self._stack = ExitStack()
        self._executor = self._stack.enter_context(open_executor())

    def close(self) -> None:
        self._stack.close()

    def run(
        self, function: Callable[[Unit], Result], units: Iterable[Unit], describe: Callable[[Unit], str]
    ) -> Iterator[Result]:
        """``function`` of each unit, in order; ``function`` and units must be picklable, and ``function`` pure.

        Raises:
            Unavailable: the workers died repeatedly over one unit, which ``describe`` names, or the cluster went away.
        """
        waiting: deque[tuple[Unit, Future[Result]]] = deque()
        source = iter(units)
        try:
            while True:
                for unit in source:
                    waiting.append((unit, self._submit(function, unit)))
                    if len(waiting) >= 2 * self.count:
                        break
                if not waiting:
                    return
                unit, future = waiting.popleft()
                try:
                    result = future.result()
                except BrokenExecutor:
                    result = self._alone(function, unit, describe)
                    waiting = deque((u, f if _succeeded(f) else self._submit(function, u)) for u, f in waiting)
                except Exception as error:
                    raise self._translated(error, describe(unit)) or error from error
                yield result
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, function: Callable[[Unit], Result], unit: Unit) -> Future[Result]:
        try:
            return self._executor.submit(function, unit)
        except BrokenExecutor as error:  # the pool broke over a unit before this one: it is found out when its turn comes
            broken: Future[Result] = Future()
            broken.set_exception(error)
            return broken

    def _alone(self, function: Callable[[Unit], Result], unit: Unit, describe: Callable[[Unit], str]) -> Result:
        """The unit in a new executor with nothing beside it, so that it is known which one kills its workers."""
        for _ in range(_ATTEMPTS):
            self._stack.close()
            self._executor = self._stack.enter_context(self._open())
            try:
                return self._executor.submit(function, unit).result()
            except BrokenExecutor:
                continue
        raise Unavailable(
            f"a worker process died {_ATTEMPTS} times over the same work",
            detail=describe(unit),
            hint="too little memory? lower build.documents_per_unit in configs/index.yaml, then the same command again",
        )

    def _translated(self, error: Exception, what: str) -> Unavailable | None:
        """A cluster's failure in Golive's words; None for an error of the work itself."""
        if not self.on_cluster:
            return None
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "lib":
            return Unavailable(
                "the cluster's workers cannot import Golive",
                detail=str(error),
                hint="install this same version where the workers run",
            )
        if type(error).__name__ in (
            "KilledWorker",
            "WorkerCrashedError",
            "NodeDiedError",
        ):  # of packages that may be absent
            return Unavailable("the cluster's workers died repeatedly over the same work", detail=what, hint="more memory?")
        if isinstance(error, (CancelledError, OSError, TimeoutError)):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return Unavailable("the cluster went away", detail=reason, hint="start it, then run the same command again")
        return None


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


@contextmanager
def open_workers(settings: BuildSettings, *, characters: int) -> Iterator[Workers]:
    """Workers as ``settings.executor`` says; closed at the end.

    Args:
        characters: how much text there is to work on; for little of it, one thread does it.

    Raises:
        Unavailable: the cluster does not answer, has no worker, or its package is not installed.
    """
    kind, _, address = settings.executor.partition("://")
    count = settings.workers or os.cpu_count() or 1
    if kind == "dask":
        workers = _dask(address)
    elif kind == "ray":
        workers = _ray(address)
    elif count == 1 or characters < _PROCESSES_FROM_CHARACTERS:
        workers = Workers(lambda: ThreadPoolExecutor(1, "chunk"), 1, on_cluster=False)
    else:
        workers = Workers(lambda: _processes(count), count, on_cluster=False)
    try:
        yield workers
    finally:
        workers.close()


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """A pool of processes that are spawned, not forked: a fork of a process with a model's threads can hang."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leaves an interrupt to the parent, and ends the worker when the parent is killed (its queue would wait for ever)."""
    import multiprocessing
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _dask(address: str) -> Workers:
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise _missing("dask", error) from error
    try:
        client = distributed.Client(f"tcp://{address}", timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"no Dask scheduler answers at {address}",
            detail=(str(error).splitlines() or [type(error).__name__])[0],
            hint="start it, correct EXECUTOR or build.executor in configs/index.yaml, or use EXECUTOR=local",
        ) from error
    threads = sum(client.nthreads().values())
    if not threads:
        client.close()
        raise Unavailable(f"the Dask cluster at {address} has no worker", hint=f"dask worker tcp://{address}")

    @contextmanager
    def executor() -> Iterator[Executor]:
        try:
            yield client.get_executor(pure=False)
        finally:
            client.close()

    return Workers(executor, threads, on_cluster=True)


def _ray(address: str) -> Workers:
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise _missing("ray", error) from error
    try:
        ray.init(f"ray://{address}", log_to_driver=False)
    except (ConnectionError, OSError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"no Ray cluster answers at {address}",
            detail=(str(error).splitlines() or [type(error).__name__])[0],
            hint="start it, correct EXECUTOR or build.executor in configs/index.yaml, or use EXECUTOR=local",
        ) from error

    class RayExecutor(Executor):
        def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
            future: Future[Any] = ray.remote(function).remote(*arguments, **named).future()
            return future

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            ray.shutdown()

    return Workers(RayExecutor, int(ray.cluster_resources().get("CPU", 1)), on_cluster=True)


def _missing(extra: str, error: ModuleNotFoundError) -> Unavailable:
    return Unavailable(
        f"the package {error.name} is not installed", hint=f"pip install 'golive[{extra}]', or EXECUTOR=local"
    )
