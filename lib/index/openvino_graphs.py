"""OpenVINO graphs of sentence-transformers models: converted once, quantised where asked, kept in a folder, checked again.

A graph takes the token ids of one text, ``int64[1, n_tokens]`` for each of the model's inputs, and gives its unit vector,
``float32[1, dimension]``, and its contextual token vectors, ``float32[1, n_tokens, hidden_size]``. It is the model's own
modules (transformer, pooling, dense, normalisation) as they run on torch; nothing of their meaning is written again here.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config.embedder_files import EmbedderFiles
from lib.index import openvino_int8
from lib.index.embedder import load_sentence_transformer
from lib.index.openvino_runtime import import_openvino
from lib.platform.errors import GoliveError, IntegrityMismatch
from lib.platform.files import digest_of, read_json, sha256_file, sync_folder, write_json, writing

if TYPE_CHECKING:
    import openvino

RUNTIMES = ("openvino", "openvino_int8")
GRAPH, TOKENIZER = "graph.xml", "tokenizer.json"
_RECIPE = 1  # raised with every change of this module or of openvino_int8 that changes a graph
_KEPT = (GRAPH, "graph.bin", TOKENIZER)
_DIGESTS = "digests.json"


def recipe(files: EmbedderFiles, runtime: str) -> dict[str, Any]:
    """What decides a graph: the model's files, the runtime's version and how it is made."""
    openvino = import_openvino()

    return {
        "weights": files.weights_hash,
        "tokenizer": files.tokenizer_hash,
        "runtime": runtime,
        "openvino": openvino.__version__,
        "recipe": _RECIPE,
    }


def graph_folder(files: EmbedderFiles, runtime: str, cache: Path) -> Path:
    """The folder under ``cache`` that holds the graph and the tokenizer; made where it is missing or damaged.

    Raises:
        Unavailable: the model does not load, or the folder cannot be written.
        IntegrityMismatch: the model cannot be converted, or its int8 form is too far from it.
    """
    folder = cache / digest_of(recipe(files, runtime))[:32]
    if not _is_whole(folder):
        with writing(cache):
            cache.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}."))
            try:
                _make(files, runtime, made)
                _publish(made, folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    if not (folder / _DIGESTS).exists():
        return False
    try:
        return bool(read_json(folder / _DIGESTS, "digests") == _digests(folder))
    except (GoliveError, OSError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in _KEPT}


def _publish(made: Path, folder: Path) -> None:
    """Gives a finished folder its name. Of two makers the first wins; a damaged folder is put aside first."""
    write_json(made / _DIGESTS, _digests(made))
    made.chmod(0o755)
    for _ in range(3):
        try:
            made.rename(folder)
            break
        except OSError:
            if _is_whole(folder):
                return
            with contextlib.suppress(FileNotFoundError):
                folder.rename(made.with_name(f"{made.name}.damaged"))
            shutil.rmtree(made.with_name(f"{made.name}.damaged"), ignore_errors=True)
    sync_folder(folder.parent)


def _make(files: EmbedderFiles, runtime: str, folder: Path) -> None:
    openvino = import_openvino()

    with _quiet():
        model = load_sentence_transformer(files)
        tokenizer = model.tokenizer.backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.save(str(folder / TOKENIZER))
        try:
            graph = _convert(model)
        except Exception as error:  # tracing runs the model's own code, and the converter raises many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IntegrityMismatch(
                f"the embedder {files.name} cannot be converted for OpenVINO",
                detail=reason[:300],
                hint="embedder_runtime: torch runs every model",
            ) from error
    if runtime == "openvino_int8":
        graph = openvino_int8.quantise(graph, tokenizer, files.name, files.max_sequence_length)
    openvino.save_model(graph, str(folder / GRAPH), compress_to_fp16=False)


def _convert(model: Any) -> openvino.Model:
    """Traces the model's modules in their order, then the normalisation that every vector here gets."""
    openvino = import_openvino()
    import torch

    inputs = [name for name in model.tokenizer.model_input_names if name != "special_tokens_mask"]

    class Whole(torch.nn.Module):
        """The model's modules as one function from its inputs, by position, to its two outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(list(model))

        def forward(self, *values: Any) -> tuple[Any, Any]:
            features = dict(zip(inputs, values, strict=True))
            tokens = None
            for part in self.parts:
                features = part(features)
                tokens = features["token_embeddings"] if tokens is None else tokens
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=-1), tokens

    encoded = model.tokenizer(["one text that is traced"], return_tensors="pt")
    example = tuple(encoded[name] for name in inputs)
    with torch.inference_mode():
        graph = openvino.convert_model(Whole().eval(), example_input=example, input=[[1, -1]] * len(inputs))
    for name, port in zip(inputs, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    for name, port in zip(("sentence_embedding", "token_embeddings"), graph.outputs, strict=True):
        port.get_tensor().set_names({name})
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what torch and transformers say about being traced; it is for those who write models."""
    import logging

    import transformers  # noqa: F401  it sets its logger's level when it is first imported

    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers", "openvino")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
