"""Failpoints: named places in the code at which a test lets a run die, fail or wait. They do nothing unless asked to.

``GOLIVE_FAILPOINT=name=action`` asks for it, ``name=action@3`` for the third time that the place is reached. The actions:

* ``kill``: SIGKILL of this process, as ``kill -9`` does it
* ``ENOSPC``, ``EIO``, any other name in ``errno``: an OSError
* ``wait:/path``: makes the file ``/path``, then goes on when somebody has removed it
* ``*=trace:/path`` appends the name of every place that is reached to that file: what there is to ask for

A name says the step and what would come next: ``backup.manifest`` is reached just before the manifest is written.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from pathlib import Path

VARIABLE = "GOLIVE_FAILPOINT"
_POLL_S = 0.01
_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Does what ``GOLIVE_FAILPOINT`` asks for at this place, usually nothing.

    Raises:
        OSError: asked for.
    """
    asked, _, what = os.environ.get(VARIABLE, "").partition("=")
    if asked == "*":
        with Path(what.removeprefix("trace:")).open("a") as trace:
            trace.write(name + "\n")
    if asked != name:
        return
    action, _, time_asked = what.partition("@")
    _reached[name] += 1
    if _reached[name] == int(time_asked or 1):
        _act(action)


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.startswith("wait:"):
        mark = Path(action.removeprefix("wait:"))
        mark.touch()
        while mark.exists():
            time.sleep(_POLL_S)
    else:
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))
