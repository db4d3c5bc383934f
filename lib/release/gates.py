"""The gate's limits in force."""

from __future__ import annotations

import os
from typing import Any

from lib.config import layers
from lib.evaluation import gate
from lib.platform.workspace import Workspace


def load_gates(workspace: Workspace) -> dict[str, Any]:
    """``configs/gates.yaml`` with the environment's layer, checked."""
    gates = layers.load(workspace, "gates", environment=layers.environment_name(workspace, os.environ)).values
    gate.check(gates)
    return gates
