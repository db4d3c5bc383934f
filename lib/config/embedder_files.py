"""An embedder's files: where they are, their hashes, and what they say the model reads. Needs no model runtime."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib.config import schemas, strict_yaml
from lib.platform.errors import ConfigInvalid, Unavailable
from lib.platform.files import digest_of, read_json, sha256_file
from lib.platform.workspace import Workspace

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_DECIDING = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*/config.json",
    "*/*.safetensors",
    "*/pytorch_model.bin",
)
_TOKENIZER = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_ROBERTA_OFFSET = 2  # its position table starts at the padding index + 1


@dataclass(frozen=True)
class RemoteSettings:
    """How an embedder behind a service is reached. ``api_key_variable`` names a variable; its value is never kept.

    ``attempts`` is the most that one request is sent; ``batch_size`` the most texts in one; ``timeout_s`` of each attempt.
    """

    provider: str
    model: str
    url: str = ""
    format: str = "openai"
    region: str = ""
    api_key_variable: str = ""
    allow_internal: bool = False
    requests_per_second: float = 10.0
    max_in_flight: int = 4
    batch_size: int = 32
    timeout_s: float = 60.0
    attempts: int = 6


@dataclass(frozen=True)
class EmbedderFiles:
    """What the files of one embedder say. Lengths are in tokens, special tokens included; dimension in floats.

    Of a remote one, ``folder`` is that of its tokenizer, and ``weights_hash`` the digest of what it is declared to be.
    """

    name: str
    folder: Path
    dimension: int
    max_sequence_length: int
    position_table: int
    query_prompt: str
    document_prompt: str
    tokenizer_name: str
    tokenizer_hash: str
    weights_hash: str
    remote: RemoteSettings | None = None


def find(workspace: Workspace, name: str) -> EmbedderFiles:
    """Finds an embedder by a name of ``configs/embedders.yaml``, as a folder, or by its Hugging Face name.

    Raises:
        ConfigInvalid: no such embedder, or its files do not make one.
        Unavailable: it is known but its files are not here and cannot be fetched.
    """
    known = registry(workspace)
    entry = known.get(name)
    if entry and "provider" in entry:
        return _remote(workspace, name, entry, known)
    folder = _folder(workspace, name, entry, known)
    try:
        return _inspect(name, folder, entry or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # its JSON files hold something else than they should
        raise ConfigInvalid(
            f"{folder} is not a sentence-transformers model", detail=f"{type(error).__name__}: {error}"
        ) from error


def runtime_problem(files: EmbedderFiles, runtime: str) -> str | None:
    """Why ``runtime`` (a candidate's ``embedder_runtime``) does not run this embedder; None where it does."""
    if files.remote and runtime != "remote":
        return f"embedder {files.name} is behind {files.remote.provider}: embedder_runtime must be remote, not {runtime}"
    if not files.remote and runtime == "remote":
        return f"embedder {files.name} is a model in files: embedder_runtime must be torch, openvino or openvino_int8"
    return None


def registry(workspace: Workspace) -> dict[str, Any]:
    file = strict_yaml.load(workspace.configs / "embedders.yaml", "embedder list")
    shown = workspace.show(file.path)
    schemas.check(file.values, "embedders", lambda dotted: f"{shown}:{file.lines.get(dotted, 1)}")
    return file.values


def _folder(workspace: Workspace, name: str, entry: dict[str, Any] | None, known: dict[str, Any]) -> Path:
    if entry is None:
        folder = workspace.root / name
        if (folder / "config.json").exists():
            return folder
        if "/" not in name or name.startswith((".", "/")):
            raise ConfigInvalid(
                f"unknown embedder {name!r}", detail=f"known: {', '.join(known)}", hint="or give a model folder"
            )
        entry = {"hub_name": name}
    if path := entry.get("model_path"):
        folder = workspace.root / str(path)
        if not (folder / "config.json").exists():
            raise Unavailable(f"no model in {path}", hint=f"correct model_path of {name} in configs/embedders.yaml")
        return folder
    if package := entry.get("package"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise Unavailable(f"the package of the embedder {name} is not installed", hint="make setup")
        return Path(spec.origin).parent / str(entry.get("package_folder", "."))
    if hub_name := entry.get("hub_name"):
        return _from_hub(hub_name)
    raise ConfigInvalid(
        f"the embedder {name} has no files", hint="give it a package, a hub_name or a model_path in configs/embedders.yaml"
    )


def _from_hub(hub_name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise Unavailable("a Hugging Face model needs the eval packages", hint="make setup") from error
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json", "*/*.safetensors"]
    for local_only in (True, False):
        try:
            return Path(str(snapshot_download(hub_name, allow_patterns=wanted, local_files_only=local_only)))  # nosec B615  # what came is held against the locked hash of its files
        except Exception as error:  # the hub client raises many kinds; every one means: not here
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    raise Unavailable(
        f"the embedder {hub_name} is not on this machine and could not be fetched",
        detail=reason,
        hint="check the name, or give its folder as model_path in configs/embedders.yaml",
    )


def _remote(workspace: Workspace, name: str, entry: dict[str, Any], known: dict[str, Any]) -> EmbedderFiles:
    """An embedder behind a service: what its entry declares, and the tokenizer that counts for it."""
    remote = RemoteSettings(**{item.name: entry[item.name] for item in fields(RemoteSettings) if item.name in entry})
    if "@" in urlsplit(remote.url).netloc:
        raise ConfigInvalid(
            f"the url of the embedder {name} holds a password", hint="name the variable of a key as api_key_variable"
        )
    counts_with = entry["tokenizer"]
    folder = _tokenizer_folder(workspace, name, counts_with, known)
    length = int(entry["max_sequence_length"])
    # what decides a vector; how often it may be asked does not
    declared = {"provider": remote.provider, "model": remote.model, "url": remote.url, "dimension": entry["dimension"]}
    return EmbedderFiles(
        name=name,
        folder=folder,
        dimension=int(entry["dimension"]),
        max_sequence_length=length,
        position_table=length,
        query_prompt=entry.get("query_prompt", ""),
        document_prompt=entry.get("document_prompt", ""),
        tokenizer_name=counts_with,
        tokenizer_hash=sha256_file(folder / _TOKENIZER[0]),
        weights_hash=digest_of(declared),
        remote=remote,
    )


def _tokenizer_folder(workspace: Workspace, name: str, counts_with: str, known: dict[str, Any]) -> Path:
    other = known.get(counts_with)
    if other and "provider" in other:
        raise ConfigInvalid(
            f"the tokenizer of the embedder {name} is no model in files",
            detail=f"{counts_with} is behind {other['provider']} itself",
            hint="name a folder with tokenizer.json, or an embedder in files",
        )
    folder = _folder(workspace, counts_with, other, known) if other else workspace.root / counts_with
    if not (folder / _TOKENIZER[0]).exists():
        raise Unavailable(
            f"no {_TOKENIZER[0]} in {counts_with}", hint=f"correct tokenizer of {name} in configs/embedders.yaml"
        )
    return folder


def _inspect(name: str, folder: Path, entry: dict[str, Any]) -> EmbedderFiles:
    config = _read(folder / "config.json")
    declared = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    positions = int(config.get("max_position_embeddings", 0)) or 1_000_000
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= _ROBERTA_OFFSET
    length = min(int(entry.get("max_sequence_length") or declared or positions), positions)
    weights = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    tokenizers = [folder / file for file in _TOKENIZER if (folder / file).exists()]
    if not weights or not tokenizers or "hidden_size" not in config:
        raise ConfigInvalid(
            f"{folder} is not a sentence-transformers model", detail="weights, tokenizer or config are missing"
        )
    deciding = sorted({*weights, *(path for pattern in _DECIDING for path in folder.glob(pattern))})
    return EmbedderFiles(
        name=name,
        folder=folder,
        dimension=_dimension(folder, config),
        max_sequence_length=length,
        position_table=positions,
        query_prompt=entry.get("query_prompt", ""),
        document_prompt=entry.get("document_prompt", ""),
        tokenizer_name=str(_read(folder / "tokenizer_config.json").get("name_or_path") or name),
        tokenizer_hash=_sha256(tokenizers[0]),
        weights_hash=digest_of({str(path.relative_to(folder)): _sha256(path) for path in deciding}),
    )


def _sha256(path: Path) -> str:
    """Of a file that was not touched since the last call the digest of that call: weights are read once a process."""
    found = path.stat()
    return _digest(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, *state: int) -> str:
    return sha256_file(path)


def _dimension(folder: Path, config: dict[str, Any]) -> int:
    """The output's width: that of the last Dense layer where there is one, else the hidden size."""
    modules = _read(folder / "modules.json")
    for module in reversed(modules or []):
        if module["type"].endswith("Dense"):
            return int(_read(folder / module["path"] / "config.json")["out_features"])
    return int(config["hidden_size"])


def _read(path: Path) -> Any:
    """The file's JSON value; an empty mapping where there is no file."""
    return read_json(path, "embedder file") if path.exists() else {}
