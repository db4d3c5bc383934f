"""Near-duplicates: CPU seconds of the exact answer beside those of MinHash peers, at 20,000 and 100,000 chunks.

The chunks are 330 words (about 450 tokens) of real text in shuffled runs of 1 to 6 words, so that words and short
phrases have their real frequencies; each overlaps its neighbour by a tenth, one in five is an edit of an earlier one at a
similarity of 0.70 to 0.95, one in fifty a copy. Every system runs in a process of its own on the same texts, with its
library's own settings, and does all of the work, shingling included. Compared is CPU time (user and system, of all
threads), as gaoya uses every core and ours one. Recall and precision are over dropped chunks: at 20,000 against comparing
every pair by a sparse matrix product, which ours must equal pair by pair, at 100,000 against ours. ``peak_mib``: what a
system needs beyond the texts.
"""

from __future__ import annotations

import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.index.near_duplicates import find_duplicates
from tests.benchmarks.harness import PROJECT, SHARED_DATA, Comparison, Run, cpu_s, memory_mib

THRESHOLD = 0.8
CHUNK_WORDS, OVERLAP_WORDS, CHUNKS_PER_DOCUMENT = 330, 33, 8
# rounds by system; datasketch needs minutes at 100,000, rensa's rho sketches sample and drop as much that is no duplicate
ROUNDS = {
    20_000: {"golive": 3, "gaoya": 3, "rensa": 3, "rensa_rho": 1, "datasketch": 1},
    100_000: {"golive": 2, "gaoya": 2, "rensa": 2},
}
_WORD = re.compile(r"\w+")


def run() -> list[Comparison]:
    """A comparison a size, against the peer that took the least CPU time."""
    return [_compare(count, rounds) for count, rounds in ROUNDS.items()]


def _compare(count: int, rounds: dict[str, int]) -> Comparison:
    texts = chunks(count)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "texts"
        given.write_bytes(pickle.dumps(texts))
        turns = [system for turn in range(max(rounds.values())) for system, times in rounds.items() if turn < times]
        results = [(system, _in_a_process(system, given)) for system in turns]
    ours = next(set(result["dropped"]) for system, result in results if system == "golive")
    proved = count <= 20_000
    if proved:
        expected = by_every_pair(texts)
        if find_duplicates(texts, THRESHOLD) != expected or ours != set(expected):
            raise AssertionError("what was dropped is not what comparing every pair drops")
    runs = [_judged(system, result, ours, proved) for system, result in results]
    cpu = {name: statistics.median(run.facts["cpu_s"] for run in runs if run.system == name) for name in rounds}
    peer = min((name for name in rounds if name != "golive"), key=cpu.__getitem__)
    return Comparison(f"near_duplicates {count:,} chunks, CPU", cpu[peer] / cpu["golive"], 1.0, peer, runs)


def _judged(system: str, result: dict[str, Any], truth: set[int], proved: bool) -> Run:
    dropped = set(result.pop("dropped"))
    seconds = result.pop("seconds")
    right = len(dropped & truth)
    against = "every pair" if proved else "golive"
    quality = {"recall": right / len(truth), "precision": right / len(dropped), "dropped": len(dropped), "against": against}
    return Run(system, seconds, {**result, **quality})


def _in_a_process(system: str, given: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_near_duplicates", system, str(given)]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def chunks(count: int) -> list[str]:
    """``count`` chunks in the words of ``chroma_chunking``: the same ones every time."""
    files = sorted((SHARED_DATA / "chroma_chunking" / "corpora").glob("*.md"))
    source = [word for file in files for word in file.read_text(encoding="utf-8").split()]
    rng = np.random.default_rng(42)
    made: list[NDArray[np.int64]] = []
    for index in range(count):
        kind = rng.random() if index else 1.0
        if kind < 0.22:
            words = made[int(rng.integers(index))]
            words = words if kind < 0.02 else _edited(words, rng, len(source))
        else:
            repeated = made[-1][-OVERLAP_WORDS:] if index % CHUNKS_PER_DOCUMENT else np.zeros(0, np.int64)
            words = np.concatenate([repeated, _shuffled(rng, len(source))])[:CHUNK_WORDS]
        made.append(words)
    return [" ".join([source[place] for place in words.tolist()]) for words in made]


def _shuffled(rng: np.random.Generator, words: int) -> NDArray[np.int64]:
    lengths = rng.integers(1, 7, 160)
    return np.repeat(rng.integers(0, words - 6, 160) - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def _edited(words: NDArray[np.int64], rng: np.random.Generator, source: int) -> NDArray[np.int64]:
    """Words replaced here and there, or a run of them: n shingles of which s are left have a similarity of s / (2n - s)."""
    similarity = rng.uniform(0.70, 0.95)
    lost = round(len(words) * (1 - 2 * similarity / (1 + similarity)))
    words = words.copy()
    if rng.random() < 0.5:
        places = rng.integers(0, len(words), max(lost // 5, 1))  # each stands in five shingles
    else:
        places = int(rng.integers(0, len(words) - lost)) + np.arange(max(lost - 4, 1))
    words[places] = rng.integers(0, source, len(places))
    return words


def by_every_pair(texts: Sequence[str]) -> dict[int, int]:
    """What ``find_duplicates`` promises, by comparing every pair: what they share is a product of the incidence matrix."""
    from scipy.sparse import csr_matrix

    grams, owners = _numbered_shingles(texts)
    incidence = csr_matrix((np.ones(len(grams), np.int32), (owners, grams)), shape=(len(texts), int(grams.max()) + 1))
    incidence.data[:] = 1  # repeats within a text were added up
    sizes = np.diff(incidence.indptr)
    others = incidence.T.tocsr()
    dropped: dict[int, int] = {}
    for start in range(0, len(texts), 1000):
        shared = (incidence[start : start + 1000] @ others).tocoo()
        rows, columns = shared.row + start, shared.col
        similar = (shared.data * 10 >= (sizes[rows] + sizes[columns] - shared.data) * 8) & (columns < rows)
        for row, column in sorted(zip(rows[similar].tolist(), columns[similar].tolist(), strict=True)):
            if row not in dropped and column not in dropped:
                dropped[row] = column
    return dropped


def _numbered_shingles(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every word 5-gram as a number of its own, without hashes (each text here has more than 5 words), and whose it is."""
    vocabulary: dict[str, int] = {}
    words = [[vocabulary.setdefault(word, len(vocabulary)) for word in _WORD.findall(text.casefold())] for text in texts]
    counts = np.array([len(each) for each in words])
    flat = np.fromiter((number for each in words for number in each), np.int64, int(counts.sum()))
    owners = np.repeat(np.arange(len(texts)), counts)
    grams = flat[:-4]
    for shift in range(1, 5):
        pairs = (grams << 32) | flat[shift : len(flat) - 4 + shift]
        grams = np.unique(pairs, return_inverse=True)[1]
    whole = owners[:-4] == owners[4:]
    return grams[whole], owners[:-4][whole]


def _grams(text: str) -> list[str]:
    words = _WORD.findall(text.casefold())
    return [" ".join(words[start : start + 5]) for start in range(len(words) - 4)]


def _golive(texts: list[str]) -> Iterator[int]:
    yield from find_duplicates(texts, THRESHOLD)


def _gaoya(texts: list[str]) -> Iterator[int]:
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(jaccard_threshold=THRESHOLD, analyzer="word", lowercase=True, ngram_range=(5, 5))
    index.par_bulk_insert_docs(list(range(len(texts))), texts)
    dropped: set[int] = set()
    for number, found in enumerate(index.par_bulk_query(texts)):
        if any(other < number and other not in dropped for other in found):
            dropped.add(number)
            yield number


def _rensa(texts: list[str]) -> Iterator[int]:
    from rensa import RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True)
    kept = deduplicator.add_pairs((str(number), _grams(text)) for number, text in enumerate(texts))
    yield from (number for number, keep in enumerate(kept) if not keep)


def _rensa_rho(texts: list[str]) -> Iterator[int]:
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets_rho([_grams(text) for text in texts], 128, 42)
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=8)
    yield from (number for number, repeats in enumerate(lsh.query_duplicate_flags_matrix_one_shot(matrix)) if repeats)


def _datasketch(texts: list[str]) -> Iterator[int]:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    sets = ([gram.encode() for gram in _grams(text)] for text in texts)
    for number, signature in enumerate(MinHash.generator(sets, num_perm=128)):
        if lsh.query(signature):
            yield number
        else:
            lsh.insert(number, signature)


SYSTEMS: dict[str, Callable[[list[str]], Iterator[int]]] = {
    "golive": _golive,
    "gaoya": _gaoya,
    "rensa": _rensa,
    "rensa_rho": _rensa_rho,
    "datasketch": _datasketch,
}


def main(system: str, given: str) -> None:
    """Runs one system on pickled texts; prints what it dropped and what that took."""
    texts = pickle.loads(Path(given).read_bytes())
    work = SYSTEMS[system]
    list(work(["a text of more than five words"] * 3))  # imports and tables are not what is measured
    before, started, cpu = memory_mib("VmRSS"), time.perf_counter(), cpu_s()
    dropped = list(work(texts))
    cpu, seconds = cpu_s() - cpu, time.perf_counter() - started
    peak = round(memory_mib("VmHWM") - before)
    print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_mib": peak, "dropped": dropped}))


if __name__ == "__main__":
    main(*sys.argv[1:])
