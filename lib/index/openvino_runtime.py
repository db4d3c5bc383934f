"""The one way to the package openvino: present, and without its telemetry."""

from __future__ import annotations

import sys
from types import ModuleType

from lib.platform.errors import Unavailable


def import_openvino() -> ModuleType:
    """The package ``openvino``.

    As shipped, importing it and converting a model report to Google Analytics and leave an id under ``~/intel``, unless
    that was declined before. Where its telemetry package cannot be imported it takes a stub of its own: so that is kept
    from it.

    Raises:
        Unavailable: it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: "cannot be imported"
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise Unavailable("the runtime openvino is not installed", hint="make setup") from error
    module: ModuleType = openvino
    return module
