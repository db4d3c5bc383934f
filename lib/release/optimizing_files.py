"""What a search leaves: candidates that can be locked as they are, the front as JSON and as a plot, a text for people."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.config import strict_yaml
from lib.platform.errors import ConfigInvalid
from lib.platform.files import read_text, write_json, write_text
from lib.platform.workspace import Workspace
from lib.release import assessment, locking, optimizing_plot
from lib.release.optimizing import Outcome, Plan, parts_text
from lib.release.optimizing_space import Space, Values, lock, over
from lib.release.optimizing_study import Trial
from lib.release.tables import number, text_table

_LINE = re.compile(r"(?P<head>\s*[a-z0-9_]+:\s+)(?P<value>\S+)(?P<gap>\s*)(?P<comment>#.*)?")


def write(workspace: Workspace, planned: Plan, found: Outcome) -> dict[str, Any]:
    """Writes ``candidates/NN.yaml``, ``pareto.svg`` and, last, ``pareto.json`` into the study's folder; returns the last.

    Raises:
        ConfigInvalid: a candidate does not read back as the config that was measured.
    """
    folder = planned.folder
    for path in (folder / "candidates").glob("*.yaml"):
        path.unlink()  # of a front that was shorter
    for trial in found.front:
        if trial.number:
            write_candidate(workspace, planned.space, trial, path_of(folder, trial))
    drawn = optimizing_plot.pareto_svg(planned.search["objectives"]["quality"], planned.search["limits"], found)
    write_text(folder / "pareto.svg", drawn)
    content = to_dict(workspace, planned, found)
    write_json(folder / "pareto.json", content)
    return content


def path_of(folder: Path, trial: Trial) -> Path:
    return folder / "candidates" / f"{trial.number:02d}.yaml"


def write_candidate(workspace: Workspace, space: Space, trial: Trial, path: Path) -> None:
    """The candidate's own file with a trial's values in it, read back as locking would read it."""
    base = workspace.configs / "candidate.yaml"
    write_text(path, candidate_text(read_text(base, "config"), strict_yaml.load(base, "config"), trial.values))
    read = locking.read_candidate(workspace, file=str(path))
    if lock(read).config_hash != trial.config_hash:
        raise ConfigInvalid(f"{workspace.show(path)} does not read back as the config of trial {trial.number}")


def candidate_text(text: str, file: strict_yaml.YamlFile, values: Values) -> str:
    """A candidate's text with other values on their lines; comments are lost where such a line is of another form."""
    lines = text.split("\n")
    for name, value in values.items():
        place = file.lines[name] - 1
        match = _LINE.fullmatch(lines[place])
        if match is None:
            return strict_yaml.dump(over(file.values, values))
        written = _scalar(value)
        if strict_yaml.scalar(match["value"].strip("\"'")) != value:
            comment = match["comment"] or ""
            kept = max(1, len(match["value"]) + len(match["gap"]) - len(written)) if comment else 0  # comments stay in line
            lines[place] = f"{match['head']}{written}{' ' * kept}{comment}"
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    return strict_yaml.plain(value) if isinstance(value, (int, float)) else strict_yaml.dump(value).split("\n")[0]


def to_dict(workspace: Workspace, planned: Plan, found: Outcome) -> dict[str, Any]:
    """Everything that a search found, as JSON."""
    winner = found.winner
    return {
        **planned.to_dict(workspace),
        "trials_done": len(found.trials) - 1,
        "identity": planned.identity,
        "limits": planned.search["limits"],
        "base": asdict(found.trials[0]),
        "front": [
            {
                **asdict(trial),
                "config": planned.space.candidate(trial.values).layered.values,
                "file": workspace.show(path_of(planned.folder, trial)) if trial.number else "configs/candidate.yaml",
            }
            for trial in found.front
        ],
        "all": [asdict(trial) for trial in found.trials],
        "failed": {str(trial.number): trial.reason for trial in found.trials if not trial.objectives},
        "winner": winner.number if winner else None,
        "winner_file": workspace.show(path_of(planned.folder, winner)) if winner else None,
        "verdict": found.word,
        "reasons": reasons(found),
        "optimism": optimism(found),
        "held_out_looks": found.looks,
        "judged": found.verdict,
    }


def reasons(found: Outcome) -> list[str]:
    if found.verdict:
        return list(found.verdict["reasons"])
    return ["no trial within the limits is better than the candidate as it stands: no held-out case was asked"]


def optimism(found: Outcome) -> dict[str, Any] | None:
    """How much better the winner is than the base, where it was chosen and where it was judged."""
    base, winner = found.trials[0], found.winner
    if winner is None or winner.quality is None or base.quality is None:
        return None
    theirs, ours = found.held_out[1], found.held_out[0]
    training = winner.quality - base.quality
    held_out = ours - theirs if ours is not None and theirs is not None else None
    return {
        "training": {"winner": winner.quality, "base": base.quality, "gain": training},
        "held_out": {"winner": ours, "base": theirs, "gain": held_out},
        "lost": training - held_out if held_out is not None else None,
    }


def to_text(workspace: Workspace, planned: Plan, found: Outcome) -> str:
    """The search for a terminal."""
    lines = [
        f"study {planned.folder.name}: {len(found.trials) - 1} of {planned.space.size} configs tried,"
        f" {sum(trial.built for trial in found.trials)} tables built,"
        f" {sum(trial.embedded for trial in found.trials)} chunks embedded or taken from the cache",
        parts_text(planned.split),
        _front_table(planned, found),
    ]
    lines += [f"failed: trial {trial.number}: {trial.reason}" for trial in found.trials if not trial.objectives]
    if found.winner and found.verdict:
        lines.append(
            f"winner: trial {found.winner.number}, judged on the held-out cases against the candidate as it stands"
        )
        lines.append(assessment.verdict_text(found.verdict))
        lines.append(_optimism_text(planned, found))
    else:
        lines += [f"{found.word}: {reason}" for reason in reasons(found)]
    lines.append(f"written: {workspace.show(planned.folder)} (pareto.svg, pareto.json, candidates/)")
    if found.winner and found.word == "PASS":
        path = workspace.show(path_of(planned.folder, found.winner))
        lines.append(f"next: cp {path} configs/candidate.yaml && make golive")
    elif found.winner:
        lines.append("next: keep configs/candidate.yaml as it is: on cases that it was not chosen by, this did not pass")
    return "\n".join(lines)


def _front_table(planned: Plan, found: Outcome) -> str:
    base = found.trials[0]
    rows = [["", "trial", planned.search["objectives"]["quality"], "latency", "index", "changed"]]
    shown = found.front if base in found.front else [*found.front, base]
    for trial in shown:
        mark = "*" if found.winner and trial.number == found.winner.number else ""
        name = str(trial.number) if trial.number else "candidate" + ("" if base in found.front else " (not on the front)")
        latency = f"{trial.latency_ratio:.2f}x, {trial.latency_ms:.1f} ms"
        rows.append([mark, name, number(trial.quality), latency, _megabytes(trial), _changed(planned.space, trial)])
    return text_table(rows)


def _megabytes(trial: Trial) -> str:
    return f"{(trial.index_bytes or 0) / 1e6:.2f} MB"


def _changed(space: Space, trial: Trial) -> str:
    base = space.base_point
    return ", ".join(f"{name} {trial.values[name]}" for name in base if trial.values[name] != base[name]) or "nothing"


def _optimism_text(planned: Plan, found: Outcome) -> str:
    facts = optimism(found)
    assert facts is not None
    metric = planned.search["objectives"]["quality"]
    training, held_out = facts["training"], facts["held_out"]
    gains = [f"{part['gain']:+.3f}" if part["gain"] is not None else "unknown" for part in (training, held_out)]
    lost = f"optimism {facts['lost']:+.3f}" if facts["lost"] is not None else "optimism unknown"
    looks = "" if found.looks < 2 else f"; these cases have judged {found.looks} configs by now, which wears them out"
    return (
        f"{metric}: training {number(training['base'])} -> {number(training['winner'])} ({gains[0]}), held-out"
        f" {number(held_out['base'])} -> {number(held_out['winner'])} ({gains[1]}): {lost}{looks}"
    )
