"""Fixtures for releases at each stage; see ``staged``."""

from tests.release.staged import empty_database, live, open_stage, ready, sealed, second

__all__ = ["empty_database", "live", "open_stage", "ready", "sealed", "second"]
