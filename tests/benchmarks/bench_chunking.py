"""Chunking: seconds for whole corpora beside the tokenizer's own batch encode, and beside peers that respect overlap.

The corpora are the five of chroma_chunking (1.4 MB) and 20 MB made of them: their paragraphs shuffled into documents of
about 50 kB, with each word that they have once altered anew in every copy, so that the vocabulary grows about as fast as
with real text, and no system lives on the words it remembers. Chunks have 250 tokens of all-MiniLM-L6-v2 and overlap by 25.
Every run is a process of its own: loading is not timed, what a system remembers is empty. ``encode_batch`` may use every
core; so may a peer whose library does by itself. ``over_size`` is how many chunks have more tokens than asked for, by the
tokenizer on the chunk's own text; ``verbatim`` the share that stands in the source to the byte; ``peak_mib`` what a
system needed beyond the texts. Peers that need more than a minute for the large corpus are timed on the small one alone.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lib.config import embedder_files
from lib.index.chunking import chunk_text
from lib.index.tokens import TokenCounter
from lib.platform.workspace import Workspace
from tests.benchmarks.harness import PROJECT, SHARED_DATA, Comparison, Run, cpu_s, fastest, median_s, memory_mib

SIZE, OVERLAP = 250, 25
STREAM = "stream:"  # what a process is given instead of a file: so many bytes, made as it goes
REFERENCE = "encode_batch"
LARGE_BYTES, DOCUMENT_CHARACTERS = 20_000_000, 50_000
# rounds by system, for the small corpus and the large one
ROUNDS = {
    "golive": (3, 3),
    "encode_batch": (3, 3),
    "encode_batch_fast": (3, 1),  # leaves out the offsets, without which no text is cut: shown, not compared
    "chonkie": (3, 2),
    "chonkie_sentence": (2, 0),
    "semchunk": (1, 0),
    "langchain_tokens": (3, 1),
    "langchain_recursive": (1, 0),
    "llama_index": (1, 0),
    "semantic_text_splitter": (1, 0),
}
PEERS = [system for system in ROUNDS if system not in ("golive", "encode_batch", "encode_batch_fast")]
Chunks = Iterable[str]
Work = Callable[[list[str]], Chunks]


def run() -> list[Comparison]:
    """For each corpus, ours against the batch encode and the fastest peer; then the memory for four times the text."""
    small = corpora()
    large = list(grown(small, LARGE_BYTES))
    comparisons = []
    for index, (name, texts) in enumerate((("1.4 MB", small), ("20 MB", large))):
        runs = _runs(texts, {system: rounds[index] for system, rounds in ROUNDS.items()})
        for what, systems, target in (("batch encode", [REFERENCE], 1.0), ("peers", PEERS, 3.0)):
            peer = fastest(runs, [system for system in systems if ROUNDS[system][index]])
            ratio = median_s(runs, peer) / median_s(runs, "golive")
            shown = [run for run in runs if run.system not in PEERS or run.system in systems]
            comparisons.append(Comparison(f"chunking {name}, {what}", ratio, target, peer, shown))
    return [*comparisons, _memory()]


def _memory() -> Comparison:
    """Ours over documents that are made as it goes; both amounts are far beyond what fills the memory that is bounded."""
    amounts = (LARGE_BYTES, 4 * LARGE_BYTES)
    runs = [_in_a_process(f"golive, {amount // 1_000_000} MB", "golive", f"{STREAM}{amount}") for amount in amounts]
    once, four_times = (run.facts["peak_mib"] for run in runs)
    return Comparison("chunking, memory at 4 times the text", once / four_times, 0.8, "itself at 20 MB", runs)


def corpora() -> list[str]:
    files = sorted((SHARED_DATA / "chroma_chunking" / "corpora").glob("*.md"))
    return [file.read_text(encoding="utf-8") for file in files]


def grown(texts: list[str], size: int) -> Iterator[str]:
    """``size`` bytes in documents made of the paragraphs of ``texts``, the same ones every time."""
    chance = random.Random(42)
    letters = "abcdefghijklmnopqrstuvwxyz"
    paragraphs = [part for text in texts for part in re.findall(r"[^\n]+\n*", text)]
    counts = Counter(word for text in texts for word in text.split())
    current: list[str] = []
    have, length = 0, 0
    while have < size:
        chance.shuffle(paragraphs)
        altered = str.maketrans(letters, "".join(chance.sample(letters, 26)))
        renamed = {word: word.translate(altered) for word, count in counts.items() if count == 1}
        for original in paragraphs:
            part = "".join([renamed.get(piece, piece) for piece in re.split(r"(\s+)", original)])
            current.append(part)
            length += len(part)
            have += len(part.encode())
            if length >= DOCUMENT_CHARACTERS or have >= size:
                yield "".join(current)
                current, length = [], 0
            if have >= size:
                return


def _runs(texts: list[str], rounds: dict[str, int]) -> list[Run]:
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "texts"
        given.write_bytes(pickle.dumps(texts))
        turns = [system for turn in range(max(rounds.values())) for system, times in rounds.items() if turn < times]
        return [_in_a_process(system, system, str(given)) for system in turns]


def _in_a_process(name: str, system: str, given: str) -> Run:
    command = [sys.executable, "-m", "tests.benchmarks.bench_chunking", system, given]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return Run(name, result.pop("seconds"), result)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_model() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _model() -> Path:
    return embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2").folder


def _length(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _golive() -> Work:
    counter = TokenCounter(_model())

    def chunk(texts: list[str]) -> Iterator[str]:
        for text in texts:
            yield from (text[span.start : span.end] for span in chunk_text(text, counter, SIZE, OVERLAP / SIZE))

    return chunk


def _encode_batch() -> Work:
    tokenizer = _tokenizer()
    return lambda texts: _nothing(tokenizer.encode_batch(texts, add_special_tokens=False))


def _encode_batch_fast() -> Work:
    tokenizer = _tokenizer()
    return lambda texts: _nothing(tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def _nothing(_: Any) -> Chunks:
    return ()


def _chonkie() -> Work:
    from chonkie import TokenChunker

    chunker = TokenChunker(_tokenizer(), SIZE, OVERLAP)
    return lambda texts: (chunk.text for text in texts for chunk in chunker.chunk(text))


def _chonkie_sentence() -> Work:
    from chonkie import SentenceChunker

    chunker = SentenceChunker(_tokenizer(), SIZE, OVERLAP)
    return lambda texts: (chunk.text for text in texts for chunk in chunker.chunk(text))


def _semchunk() -> Work:
    import semchunk

    chunker = semchunk.semchunk.chunkerify(_length(_tokenizer()), SIZE)
    return lambda texts: (str(chunk) for text in texts for chunk in chunker(text, overlap=OVERLAP))


def _langchain_tokens() -> Work:
    from langchain_text_splitters.base import Tokenizer, split_text_on_tokens

    tokenizer = _tokenizer()
    slicing = Tokenizer(
        chunk_overlap=OVERLAP,
        tokens_per_chunk=SIZE,
        decode=tokenizer.decode,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    )
    return lambda texts: (chunk for text in texts for chunk in split_text_on_tokens(text=text, tokenizer=slicing))


def _langchain_recursive() -> Work:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    length = _length(_tokenizer())
    splitter = RecursiveCharacterTextSplitter(chunk_size=SIZE, chunk_overlap=OVERLAP, length_function=length)
    return lambda texts: (chunk for text in texts for chunk in splitter.split_text(text))


def _llama_index() -> Work:
    from llama_index.core.node_parser import SentenceSplitter

    tokenizer = _tokenizer()
    splitter = SentenceSplitter(
        chunk_size=SIZE, chunk_overlap=OVERLAP, tokenizer=lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    )
    return lambda texts: (chunk for text in texts for chunk in splitter.split_text(text))


def _semantic_text_splitter() -> Work:
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_huggingface_tokenizer(_tokenizer(), SIZE, overlap=OVERLAP)
    return lambda texts: (chunk for text in texts for chunk in splitter.chunks(text))


SYSTEMS: dict[str, Callable[[], Work]] = {
    "golive": _golive,
    "encode_batch": _encode_batch,
    "encode_batch_fast": _encode_batch_fast,
    "chonkie": _chonkie,
    "chonkie_sentence": _chonkie_sentence,
    "semchunk": _semchunk,
    "langchain_tokens": _langchain_tokens,
    "langchain_recursive": _langchain_recursive,
    "llama_index": _llama_index,
    "semantic_text_splitter": _semantic_text_splitter,
}


def main(system: str, given: str) -> None:
    """Runs one system on pickled texts, or on a stream; looks at the chunks of the small corpus in a second run."""
    make = SYSTEMS[system]
    for _ in make()(["Imports, and tables that are built once, are not what is measured."]):
        pass
    streamed = given.startswith(STREAM)
    source = corpora() if streamed else pickle.loads(Path(given).read_bytes())
    batches = ([text] for text in grown(source, int(given.removeprefix(STREAM)))) if streamed else iter([source])
    work = make()
    before, cpu, started = memory_mib("VmRSS"), cpu_s(), time.perf_counter()
    chunks = sum(1 for texts in batches for _ in work(texts))
    facts: dict[str, Any] = {"seconds": time.perf_counter() - started, "cpu_s": cpu_s() - cpu}
    facts["peak_mib"] = round(memory_mib("VmHWM") - before, 1)
    if chunks and not streamed and sum(map(len, source)) < LARGE_BYTES / 2:
        length = _length(_tokenizer())
        made = [(chunk, text) for text in source for chunk in work([text])]
        facts |= {
            "chunks": chunks,
            "over_size": sum(length(chunk) > SIZE for chunk, _ in made),
            "verbatim": sum(chunk in text for chunk, text in made) / chunks,
        }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
