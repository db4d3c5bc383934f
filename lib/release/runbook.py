"""The evaluation runbook of one locked config: the exact commands, in order, ready to paste."""

from __future__ import annotations

import shlex
from pathlib import Path

from lib.config.locked_config import LockedConfig
from lib.platform.files import write_text
from lib.platform.workspace import CHECKOUT, Workspace

_TEXT = """# Runbook for {release_id}

Locked {created_at} by {created_by}: chunk {chunk_size} tokens, overlap {overlap_ratio}, Jaccard {jaccard_threshold},
prefix policy {prefix_policy}, embedder {embedder}. Every command is pasted into a shell as it stands.

## Environment

```sh
cd {checkout}
export GOLIVE_HOME={home}
source "$GOLIVE_HOME/configs/deterministic_evaluation.env"
export CHUNK_SIZE={chunk_size} OVERLAP_RATIO={overlap_ratio}
export JACCARD_THRESHOLD={jaccard_threshold} PREFIX_POLICY={prefix_policy}
export CHUNK_VERSION={chunk_version} INGEST_RUN_ID={release_id}
```

## Build and look

```sh
.venv/bin/python scripts/shadow_ingest.py
.venv/bin/python scripts/eval_manifest_generator.py --format yaml
.venv/bin/python scripts/health_gated_evaluation.py --check-only
```

## Evaluate and decide

```sh
.venv/bin/python scripts/production_evaluation.py --skip-ingest
```

## Back up, check, promote

```sh
.venv/bin/python scripts/backup_production_state.py
.venv/bin/python scripts/production_validation.py --full-check
.venv/bin/python scripts/promote_production_config.py
```

## Look after it

```sh
.venv/bin/python scripts/production_health_monitor.py
.venv/bin/python scripts/restore_production_state.py --list
```

Going back: `make rollback BACKUP=<an id of the list>`.
"""


def render(config: LockedConfig, root: Path) -> str:
    """The runbook's Markdown."""
    return _TEXT.format(
        release_id=config.ingest_run_id,
        chunk_version=config.chunk_version,
        created_at=config.created_at,
        created_by=config.created_by,
        chunk_size=config.chunk_size,
        overlap_ratio=config.overlap_ratio,
        jaccard_threshold=config.jaccard_threshold,
        prefix_policy=config.prefix_policy,
        embedder=config.embedder_name,
        checkout=shlex.quote(str(CHECKOUT)),
        home=shlex.quote(str(root)),
    )


def write(workspace: Workspace, config: LockedConfig) -> Path:
    path = workspace.locked_configs / f"runbook-{config.chunk_version}.md"
    write_text(path, render(config, workspace.root))
    return path
