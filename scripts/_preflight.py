"""Imported first by every script: a Python without Golive's packages is told apart from a bug, with what to type."""

import importlib.util
import sys

if not all(importlib.util.find_spec(name) for name in ("lib", "yaml", "psycopg2")):
    sys.stderr.write(
        f"error: {sys.executable} does not have Golive's packages\n"
        f"  hint: in the project's folder: make setup-core, then .venv/bin/python {sys.argv[0]}\n"
    )
    sys.exit(13)
