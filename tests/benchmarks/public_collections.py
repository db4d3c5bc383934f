"""Public collections as documents, queries and qrels: CACM, Cranfield, XQuAD, chroma_chunking, BEIR folders."""

from __future__ import annotations

import csv
import html
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.config import embedder_files, layers
from lib.config.locked_config import FilterSettings, LockedConfig, RerankSettings, RetrievalSettings
from lib.evaluation import imports
from lib.index.chunking import chunk_text
from lib.index.tokens import TokenCounter
from lib.platform.workspace import Workspace
from tests.benchmarks.harness import PROJECT, SHARED_DATA

CHUNK_TOKENS, OVERLAP = 450, 0.10


@dataclass(frozen=True)
class Collection:
    """``qrels``: query -> document -> grade above 0; queries without a judgement are left out.

    ``measure`` names what is reported first: ``nDCG@10`` or ``any-hit@5``.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    measure: str = "nDCG@10"


def cacm() -> Collection:
    folder = SHARED_DATA / "cacm"
    rows = [json.loads(line) for line in (folder / "cacm.json").read_text(encoding="utf-8").splitlines()]
    topics = (folder / "topics.cacm.txt").read_text(encoding="utf-8")
    asked = re.findall(r"<DOCNO>\s*(\S+)\s*</DOCNO>(.*?)</DOC>", topics, re.DOTALL)
    qrels = _qrels(folder / "qrels.cacm.txt")
    return _judged("cacm", {row["id"]: row["contents"] for row in rows}, dict(asked), qrels)


def cranfield() -> Collection:
    """Its judgements name queries by their place, 1 to 225, and not by ``<num>``."""
    folder = SHARED_DATA / "cranfield"
    text = (folder / "cran.all.1400.xml").read_text(encoding="utf-8")
    found = re.findall(r"<docno>(.*?)</docno>.*?<title>(.*?)</title>.*?<text>(.*?)</text>", text, re.DOTALL)
    documents = {number.strip(): html.unescape(body) or title for number, title, body in found}
    titles = re.findall(r"<title>(.*?)</title>", (folder / "cran.qry.xml").read_text(encoding="utf-8"), re.DOTALL)
    queries = {str(place): html.unescape(title) for place, title in enumerate(titles, 1)}
    return _judged("cranfield", documents, queries, _qrels(folder / "cranqrel.trec.txt"))


def xquad() -> Collection:
    """A question's one relevant document is its paragraph."""
    articles = json.loads((SHARED_DATA / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    documents = {f"p{place:03d}": paragraph["context"] for place, paragraph in enumerate(paragraphs)}
    queries, qrels = {}, {}
    for place, paragraph in enumerate(paragraphs):
        for question in paragraph["qas"]:
            queries[question["id"]] = question["question"]
            qrels[question["id"]] = {f"p{place:03d}": 1}
    return _judged("xquad", documents, queries, qrels)


def chroma_chunking() -> Collection:
    """The pooled corpora in chunks of 450 tokens; a chunk is relevant where it overlaps a reference."""
    folder = SHARED_DATA / "chroma_chunking"
    counter = TokenCounter(embedder_files.find(Workspace(PROJECT), "all-MiniLM-L6-v2").folder)
    documents, spans = {}, defaultdict(list)
    for path in sorted((folder / "corpora").glob("*.md")):
        text = path.read_bytes().decode("utf-8")
        for place, span in enumerate(chunk_text(text, counter, CHUNK_TOKENS, OVERLAP)):
            name = f"{path.stem}#{place:04d}"
            documents[name] = text[span.start : span.end]
            spans[path.stem].append((name, span.start, span.end))
    queries, qrels = {}, {}
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as stream:
        for place, row in enumerate(csv.DictReader(stream)):
            wanted = [(r["start_index"], r["end_index"]) for r in json.loads(row["references"])]
            queries[f"q{place:03d}"] = row["question"]
            qrels[f"q{place:03d}"] = {
                name: 1 for name, low, high in spans[row["corpus_id"]] if any(a < high and low < b for a, b in wanted)
            }
    return _judged("chroma_chunking", documents, queries, qrels, "any-hit@5")


def beir(folder: Path, split: str = "test") -> Collection:
    """A BEIR folder, with its own ids; raises as ``imports.read_beir``."""
    found = imports.read_beir(folder, split)
    return _judged(folder.name, found.documents, found.queries, found.qrels)


def shipped() -> list[Collection]:
    """The four collections under ``../shared/data``."""
    return [cacm(), cranfield(), xquad(), chroma_chunking()]


def _judged(
    name: str,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    measure: str = "nDCG@10",
) -> Collection:
    relevant = {query: {doc: grade for doc, grade in found.items() if grade > 0} for query, found in qrels.items()}
    kept = {query: found for query, found in relevant.items() if found and query in queries}
    return Collection(
        name=name,
        documents={doc: text for doc, text in documents.items() if text.strip()},
        queries={query: " ".join(queries[query].split()) for query in kept},
        qrels=kept,
        measure=measure,
    )


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        query, _, doc, grade = line.split()
        found[query][doc] = int(grade)
    return found


def any_config(**retrieval: object) -> LockedConfig:
    """The shipped candidate, locked without a database; keyword arguments replace retrieval settings."""
    workspace = Workspace(PROJECT)
    values = layers.load(workspace, "candidate", environment=None).values
    files = embedder_files.find(workspace, values["embedder"])
    return LockedConfig(
        **{name: values[name] for name in ("chunk_size", "overlap_ratio", "jaccard_threshold", "prefix_policy")},
        chunk_version="2026-01-02-030405-v1",
        embedder_name=files.name,
        tokenizer_name=files.tokenizer_name,
        tokenizer_hash=files.tokenizer_hash,
        embedder_weights_hash=files.weights_hash,
        embedder_dimension=files.dimension,
        embedder_max_sequence_length=files.max_sequence_length,
        embedder_query_prompt=files.query_prompt,
        embedder_document_prompt=files.document_prompt,
        embedder_runtime=values["embedder_runtime"],
        sources=("benchmark",),
        retrieval=RetrievalSettings(**{**values["retrieval"], **retrieval}),
        rerank=RerankSettings(**values["rerank"]),
        filter=FilterSettings(**values["filter"]),
        created_at="2026-01-02T03:04:05Z",
        created_by="benchmark",
    )
