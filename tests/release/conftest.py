"""Fixtures for releases at each stage; see ``staged`` and ``evaluated``."""

from tests.platform.s3_servers import real, stub
from tests.release.evaluated import evaluated
from tests.release.staged import empty_database, live, open_stage, ready, sealed, second
from tests.release.synthetic import open_synthetic

__all__ = [
    "empty_database",
    "evaluated",
    "live",
    "open_stage",
    "open_synthetic",
    "ready",
    "real",
    "sealed",
    "second",
    "stub",
]
