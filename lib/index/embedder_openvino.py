"""Embedders on OpenVINO, in float32 or int8: a vector is a pure function of its text, to the bit, on one kind of processor.

Each text is a request of its own, without padding, run by one thread; as many run at once as there are streams. So neither
the batch, nor its order, nor the number of workers changes a vector. It is also the fastest way found: no token is padding.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config.embedder_files import EmbedderFiles
from lib.index import openvino_graphs
from lib.index.embedder import check_vectors, deciding
from lib.index.openvino_int8 import inputs_of
from lib.index.openvino_runtime import import_openvino
from lib.platform.errors import Unavailable
from lib.platform.files import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SENTENCE, _TOKENS = 0, 1


class OpenVinoEmbedder:
    """A sentence-transformers model that OpenVINO runs on the CPU. Threads may share one; processes that fork may not."""

    batch_independent = True

    def __init__(self, files: EmbedderFiles, runtime: str, cache_folder: Path, streams: int = 0) -> None:
        openvino = import_openvino()
        from tokenizers import Tokenizer

        folder = openvino_graphs.graph_folder(files, runtime, cache_folder)
        self.name = files.name
        self.dimension = files.dimension
        self._query_prompt = files.query_prompt
        self._document_prompt = files.document_prompt
        self._tokenizer = Tokenizer.from_file(str(folder / openvino_graphs.TOKENIZER))
        self._tokenizer.enable_truncation(files.max_sequence_length)
        core = openvino.Core()
        threads = str(streams or len(os.sched_getaffinity(0)))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # left to itself, a processor with AMX would take bf16
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": "NO",  # other processes embed on the same cores
        }
        try:
            self._model = core.compile_model(str(folder / openvino_graphs.GRAPH), "CPU", settings)
        except RuntimeError as error:
            raise Unavailable(
                f"the embedder {files.name} does not load in OpenVINO", detail=str(error).strip().splitlines()[-1]
            ) from error
        self._queue = openvino.AsyncInferQueue(self._model, int(threads))
        self._queue_lock = threading.Lock()
        self._own = threading.local()
        processor = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        recipe = openvino_graphs.recipe(files, runtime)
        self.identity = digest_of({**deciding(files), **recipe, "processor": processor})

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``float32[n_texts, dimension]``, as many texts at a time as there are streams.

        Raises:
            BadVector: a vector is not finite or has another width than the locked one.
        """
        import numpy as np

        prompted = [self._document_prompt + text for text in texts]
        if not prompted:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors = np.stack(self._run(prompted, _SENTENCE))
        return check_vectors(self.name, vectors, self.dimension, prompted)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """One text, on the calling thread's own request, so that queries do not wait for each other."""
        import numpy as np

        prompted = self._query_prompt + text
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._model.create_infer_request()
        request.infer(self._inputs(self._encode([prompted])[0]))
        vector = np.array(request.get_output_tensor(_SENTENCE).data, dtype=np.float32)
        checked: NDArray[np.float32] = check_vectors(self.name, vector, self.dimension, [prompted])[0]
        return checked

    def embed_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """As ``TokenEmbedder`` says."""
        import numpy as np

        encoded = self._encode(texts)
        found = []
        for vectors, text in zip(self._run(texts, _TOKENS, encoded), encoded, strict=True):
            kept = vectors[np.array(text.special_tokens_mask) == 0]
            found.append(kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12))
        return found

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        return list(self._tokenizer.encode_batch(list(texts)))

    def _inputs(self, encoded: Any) -> list[NDArray[np.int64]]:
        import numpy as np

        return inputs_of(self._model.inputs, np.array(encoded.ids, dtype=np.int64))

    def _run(self, texts: Sequence[str], output: int, encoded: list[Any] | None = None) -> list[NDArray[np.float32]]:
        """One output for each text. The longest go first, so that the streams end at about the same time."""
        import numpy as np

        encoded = encoded or self._encode(texts)
        found: dict[int, NDArray[np.float32]] = {}

        def keep(request: Any, index: int) -> None:
            found[index] = np.array(request.get_output_tensor(output).data[0], dtype=np.float32)

        with self._queue_lock:
            self._queue.set_callback(keep)
            for index in sorted(range(len(encoded)), key=lambda index: -len(encoded[index].ids)):
                self._queue.start_async(self._inputs(encoded[index]), index)
            self._queue.wait_all()
        return [found[index] for index in range(len(encoded))]


@cache
def openvino_embedder(files: EmbedderFiles, runtime: str, cache_folder: Path, streams: int = 0) -> OpenVinoEmbedder:
    """The model of these files on this runtime, loaded once in a process; ``streams`` 0: one a core."""
    return OpenVinoEmbedder(files, runtime, cache_folder, streams)
