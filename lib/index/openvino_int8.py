"""An int8 form of an OpenVINO graph: weights in 8 bits by output channel, activations in 8 bits by matrix product.

Post-training quantisation after Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018): activations are affine over the range seen in calibration, weights are
symmetric. OpenVINO's own low-precision pass turns the pattern written here into int8 products. Only products with weights
are quantised; attention stays in float32.

The model is calibrated on texts drawn from its own vocabulary. That needs no data in the model's languages, and on
all-MiniLM-L6-v2 the vectors came out as near to float32 as with prose (mean cosine .9948 against .9947).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lib.index.openvino_runtime import import_openvino
from lib.platform.errors import IntegrityMismatch

if TYPE_CHECKING:
    import numpy as np
    import openvino
    from numpy.typing import NDArray

LEAST_COSINE = 0.97  # of the int8 form with float32, the mean over texts that it was not calibrated on
_CALIBRATION_TEXTS, _CHECKED_TEXTS = 32, 8
_LONGEST_TEXT = 256
_LEVELS = 256


@dataclass
class _Range:
    """An activation that feeds matrix products: the port it comes from, the products, and the values seen."""

    source: tuple[str, int]
    products: list[str]
    low: float = 0.0
    high: float = 0.0


def quantise(graph: openvino.Model, tokenizer: Any, name: str, max_tokens: int) -> openvino.Model:
    """The int8 form of a float32 graph (which is left as it is).

    Raises:
        IntegrityMismatch: it is too far from the float32 form to stand in for it, or has nothing to quantise.
    """
    texts = drawn_texts(tokenizer, _CALIBRATION_TEXTS + _CHECKED_TEXTS, min(max_tokens, _LONGEST_TEXT))
    ranges = _activations(graph)
    if not ranges:
        raise IntegrityMismatch(
            f"the embedder {name} has no matrix products to quantise", hint="embedder_runtime: openvino"
        )
    _calibrate(graph, ranges, texts[_CHECKED_TEXTS:])
    small = graph.clone()
    _rewrite(small, ranges)
    checked = texts[:_CHECKED_TEXTS]
    cosine = float((_vectors(graph, checked) * _vectors(small, checked)).sum(axis=1).mean())
    if not cosine >= LEAST_COSINE:
        raise IntegrityMismatch(
            f"the int8 form of the embedder {name} is too far from the model",
            detail=f"mean cosine {cosine:.4f} on {_CHECKED_TEXTS} texts, at least {LEAST_COSINE} is asked for",
            hint="embedder_runtime: openvino runs it in float32",
        )
    return small


def drawn_texts(tokenizer: Any, count: int, longest: int) -> list[NDArray[np.int64]]:
    """Token ids of ``count`` texts of 8 to ``longest`` tokens from the vocabulary; the same on every machine."""
    import numpy as np

    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
    around = tokenizer.encode("").ids
    before, after = around[: (len(around) + 1) // 2], around[(len(around) + 1) // 2 :]
    texts = []
    for index in range(count):
        length = 8 + index * (max(longest, 9) - 8) // count
        drawn = np.frombuffer(hashlib.shake_256(f"text {index}".encode()).digest(4 * length), dtype="<u4")
        texts.append(np.concatenate([before, ordinary[drawn % len(ordinary)], after]).astype(np.int64)[:longest])
    return texts


def _activations(graph: openvino.Model) -> list[_Range]:
    """Inputs of the products with constant weights; queries, keys and values share one."""
    found: dict[tuple[str, int], _Range] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        port = node.input_value(0)
        source = (port.get_node().get_friendly_name(), port.get_index())
        found.setdefault(source, _Range(source, [])).products.append(node.get_friendly_name())
    return list(found.values())


def _calibrate(graph: openvino.Model, ranges: list[_Range], texts: list[NDArray[np.int64]]) -> None:
    watched = graph.clone()
    nodes = {node.get_friendly_name(): node for node in watched.get_ops()}
    first = len(watched.outputs)
    watched.add_outputs([nodes[item.source[0]].output(item.source[1]) for item in ranges])
    request = _request(watched)
    for ids in texts:
        request.infer(inputs_of(request.model_inputs, ids))
        for index, item in enumerate(ranges):
            values = request.get_output_tensor(first + index).data
            item.low, item.high = min(item.low, float(values.min())), max(item.high, float(values.max()))
    for item in ranges:  # three digits, so that another processor's last bits give the same graph
        item.low, item.high = float(f"{item.low:.3g}"), float(f"{item.high:.3g}")


def _rewrite(graph: openvino.Model, ranges: list[_Range]) -> None:
    import numpy as np
    import openvino.opset13 as ops

    nodes = {node.get_friendly_name(): node for node in graph.get_ops()}
    for item in ranges:
        products = [nodes[name] for name in item.products]
        step = (item.high - item.low) / (_LEVELS - 1) or 1.0
        zero = round(-item.low / step)  # zero stays exact
        low, high = np.float32(-zero * step), np.float32((_LEVELS - 1 - zero) * step)
        activation = ops.fake_quantize(products[0].input_value(0), low, high, low, high, _LEVELS).output(0)
        for product in products:
            product.input(0).replace_source_output(activation)
            weights = product.input_value(1).get_node().data.astype(np.float32)
            axis = 1 if product.get_attributes()["transpose_b"] else 0  # of the inputs; the other one is the channels'
            scale = np.abs(weights).max(axis=axis, keepdims=True) / 127
            scale[scale == 0] = 1.0
            eight_bits = ops.convert(ops.constant(np.rint(weights / scale).astype(np.int8)), "f32")
            product.input(1).replace_source_output(ops.multiply(eight_bits, ops.constant(scale)).output(0))
    graph.validate_nodes_and_infer_types()


def _vectors(graph: openvino.Model, texts: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    import numpy as np

    request = _request(graph)
    found = []
    for ids in texts:
        request.infer(inputs_of(request.model_inputs, ids))
        found.append(request.get_output_tensor(0).data[0].copy())
    return np.stack(found)


def _request(graph: openvino.Model) -> openvino.InferRequest:
    openvino = import_openvino()

    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    return openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()


def inputs_of(ports: Any, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A graph's inputs, by the names of its ports, for the token ids of one text."""
    import numpy as np

    row = ids[None]
    values = {"input_ids": row, "attention_mask": np.ones_like(row)}
    return [values.get(port.get_any_name(), np.zeros_like(row)) for port in ports]
