"""A small corpus to search over, a stand-in for the model, and, as a program, a search that kills itself on the way.

Arguments: the workspace's folder, how many trials, and the trial in whose middle to die. The database: ``DATABASE_URL``.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = (
    "anchor",
    "bridge",
    "candle",
    "desert",
    "engine",
    "forest",
    "garden",
    "harbor",
    "island",
    "jacket",
    "kettle",
    "ladder",
)


class FixedEmbedder:
    """Stands for a model: unit vectors that only the text decides and that mean nothing, so that words find more."""

    name, dimension, batch_independent = "fixed", 384, True
    identity = hashlib.sha256(b"fixed").hexdigest()

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def texts() -> dict[str, str]:
    """A document a name: three paragraphs, each a chunk at 40 tokens and all one at 160."""
    return {
        f"{name}.md": f"# The {name}\n\n"
        + "\n\n".join(
            f"The {part} of the {name} is {colour}, as the {name} was made in {year} by the {name} makers of the north."
            for part, colour, year in (("front", "red", 1910), ("middle", "green", 1920), ("end", "blue", 1930))
        )
        + "\n"
        for name in NAMES
    }


def cases() -> dict[str, Any]:
    found = [
        {
            "query_id": f"{name}-{part}",
            "query": f"which colour has the {part} of the {name}?",
            "gt_answer": f"The {part} of the {name} is {colour}.",
            "answerable": True,
            "gold": [{"doc_id": f"{name}.md", "quote": f"The {part} of the {name} is {colour}"}],
        }
        for name in NAMES
        for part, colour in (("front", "red"), ("end", "blue"))
    ]
    none = {"query_id": "none", "query": "who won?", "gt_answer": "Nothing says so.", "answerable": False, "gold": []}
    return {"schema_version": 1, "cases": [*found, none]}


def replace_embedder(setattr_: Any, embedder: Any) -> None:
    for module in ("lib.release.ingesting", "lib.release.optimizing", "lib.evaluation.run"):
        setattr_(f"{module}.load_embedder", lambda workspace, config: embedder)


def main() -> None:
    from importlib import import_module

    from lib.evaluation import settings
    from lib.platform import postgres
    from lib.platform.workspace import Workspace
    from lib.release import optimizing
    from lib.release.optimizing_trials import Bench

    workspace, trials, dies_in = Workspace(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])

    def set_attribute(dotted: str, value: Any) -> None:
        module, _, name = dotted.rpartition(".")
        setattr(import_module(module), name, value)

    replace_embedder(set_attribute, FixedEmbedder())
    latency = Bench._latency

    def dying(self: Bench, release: Any) -> tuple[float, float]:
        if release.release_id == f"trial {dies_in}":
            os.kill(os.getpid(), signal.SIGKILL)
        return latency(self, release)

    Bench._latency = dying
    with postgres.database(workspace, "test search") as connection:
        planned = optimizing.plan(
            workspace, connection, settings.load(workspace), cases_path=workspace.default_cases, trials=trials
        )
        optimizing.optimize(workspace, connection, planned)


if __name__ == "__main__":
    main()
