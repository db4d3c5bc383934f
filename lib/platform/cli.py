"""The command line that every script shares: parser, output, and the one place where errors are caught.

Only the standard library is imported here, so that ``--help`` stays fast.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from lib.platform.errors import ExitCode, GoliveError, Unavailable, exit_code_table, redact, redact_all
from lib.platform.progress import note


def parser(docstring: str | None, *, dry_run: bool = False) -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the script's docstring followed by the exit codes; ``--json`` is always there."""
    made = argparse.ArgumentParser(
        description=inspect.cleandoc(docstring or ""),
        epilog=exit_code_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    if dry_run:
        made.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    return made


def emit(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Prints the result on stdout: as JSON with ``--json``, else as ``text``."""
    if args.json:
        print(json.dumps(redact_all(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(redact(text.rstrip("\n")))


def run(main: Callable[[], int]) -> NoReturn:
    """Runs ``main`` and exits with its code, or with the code of the error that it raised."""
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file-size limit then is an OSError, not a kill
    sys.stdout, sys.stderr = _unhindered(sys.stdout), _unhindered(sys.stderr)
    try:
        code = int(main())
        print(end="", flush=True)  # a full disk shows here, while an error still can be told
    except KeyboardInterrupt:
        note("interrupted; run the same command again to go on")
        code = int(ExitCode.INTERRUPTED)
    except Exception as error:  # the one place where every error ends: it becomes a line and an exit code
        code = report(error)
    sys.exit(code)


def report(error: Exception) -> int:
    """Prints ``error`` as people need it and returns its exit code; a bug keeps its traceback."""
    known = translate(error)
    if known is None:
        note("".join(traceback.format_exception(error)))
        note("this is a bug in Golive: please report it with the lines above")
        return int(ExitCode.BUG)
    if "--json" in sys.argv:
        print(json.dumps(known.to_dict(), indent=2, ensure_ascii=False))
    note(f"error: {known.message}")
    for line in filter(None, (known.detail, known.hint and f"hint: {known.hint}")):
        note(f"  {line}")
    return int(known.exit_code)


def translate(error: Exception) -> GoliveError | None:
    """``error`` in Golive's words, or None for what only a bug explains."""
    if isinstance(error, GoliveError):
        return error
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("lib"):
        return Unavailable(f"the package {error.name} is not installed", hint="make setup")
    if "psycopg2" in sys.modules:
        from lib.platform.postgres import translate as translate_database_error

        return translate_database_error(error)
    return None


class _Unread(io.FileIO):
    """A stream whose reader may go away: what nobody reads is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _unhindered(stream: Any) -> Any:
    """``stream`` so that neither a reader that went away nor a letter that it lacks stops the work half-way."""
    if stream is None:  # the caller closed it
        return None
    stream.flush()
    raw = io.BufferedWriter(_Unread(stream.fileno(), "wb", closefd=False))
    by_line = stream.line_buffering or stream.write_through  # as stderr is: its lines must not fall behind those of stdout
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors="backslashreplace", line_buffering=by_line)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
