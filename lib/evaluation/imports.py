"""Public collections as corpus and cases: BEIR folders, SQuAD JSON, RAGChecker JSON.

RAGChecker's metrics need answers that make a claim. SQuAD's answers are bare spans, so the sentence that holds the span
becomes the ground-truth answer; BEIR has none, so the best judged document's text stands in, and only the retrieval
metrics of such a collection mean much.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.evaluation.judge import ENTAILMENT, LexicalJudge
from lib.index.structure import sentences_of
from lib.platform.errors import ConfigInvalid, NotFound, Refused, UsageError
from lib.platform.files import pretty_json, read_json, writing

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NO_ANSWER = "The corpus does not answer this question."
_SUPPORT = 0.5


@dataclass(frozen=True)
class Collection:
    """Documents by path, cases in the case file's form, and how much was left out for which reason."""

    documents: dict[str, str]
    cases: list[dict[str, Any]]
    left_out: dict[str, int]


def read(kind: str, source: Path, *, split: str) -> Collection:
    """Reads a collection.

    Raises:
        NotFound, ConfigInvalid: a file is missing or not of its kind, or holds no case.
    """
    if not source.exists():
        raise NotFound(f"no {kind} collection at {source}")
    readers: dict[str, Callable[[], Collection]] = {
        "beir": lambda: _read_beir(source, split),
        "squad": lambda: _read_squad(source),
        "ragchecker": lambda: _read_ragchecker(source),
    }
    try:
        found = readers[kind]()
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ConfigInvalid(f"{source} is not a {kind} collection", detail=f"{type(error).__name__}: {error}") from error
    if not found.cases:
        raise ConfigInvalid(f"{source} holds no case that can be used", detail=str(found.left_out))
    schemas.check({"schema_version": 1, "cases": found.cases}, "cases", lambda dotted: f"{source}: {dotted}")
    return found


def check_target(out: Path, name: str) -> None:
    """Whether a collection can be written there.

    Raises:
        UsageError: ``name`` is not the name of a folder. Refused: ``out`` is there already.
    """
    if name in ("", "..") or Path(name).name != name:
        raise UsageError(f"{name!r} is not the name of a folder", hint="--name NAME names the corpus, without a path")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise Refused(f"{out} is there already", hint="choose another --out, or remove it")


def write(collection: Collection, out: Path, name: str) -> None:
    """Writes ``out/<name>/`` and ``out/cases.json``, all of it or nothing; raises as ``check_target``."""
    check_target(out, name)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            for path, text in collection.documents.items():
                target = temporary / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text.encode())
            case_file = {"schema_version": 1, "about": f"imported as {name}", "cases": collection.cases}
            (temporary / "cases.json").write_text(pretty_json(case_file), encoding="utf-8")
            temporary.chmod(0o755)
            if out.exists():
                out.rmdir()
            temporary.rename(out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _read_squad(source: Path) -> Collection:
    articles = read_json(source, "SQuAD file")["data"]
    documents: dict[str, str] = {}
    cases = []
    folders, ids = _Names(), _Names()
    left_out: Counter[str] = Counter()
    for number, article in enumerate(articles, 1):
        folder = folders.free(article.get("title") or f"article-{number:03d}")
        for place, paragraph in enumerate(article["paragraphs"], 1):
            path = f"{folder}/{place:03d}.txt"
            documents[path] = paragraph["context"]
            for question in paragraph["qas"]:
                case = _squad_case(question, path, paragraph["context"])
                if case is None:
                    left_out["questions whose answer is not in their paragraph"] += 1
                else:
                    cases.append({"query_id": ids.free(question["id"]), **case})
    return Collection(documents, cases, dict(left_out))


def _squad_case(question: dict[str, Any], path: str, context: str) -> dict[str, Any] | None:
    base = {"query": question["question"].strip(), "tags": ["squad"]}
    if question.get("is_impossible"):
        return {**base, "gt_answer": _NO_ANSWER, "answerable": False, "gold": []}
    answer = question["answers"][0]
    start = answer["answer_start"]
    end = start + len(answer["text"])
    if context[start:end] != answer["text"]:
        return None
    quote = _sentences_around(context, start, end)
    return {**base, "gt_answer": quote.strip(), "answerable": True, "gold": [{"doc_id": path, "quote": quote}]}


def _sentences_around(text: str, start: int, end: int) -> str:
    """The sentences that hold ``text[start:end]``, widened until they stand in the text only once."""
    spans = sentences_of(text)
    first = max((i for i, span in enumerate(spans) if span[0] <= start), default=0)
    last = min((i for i, span in enumerate(spans) if span[1] >= end), default=len(spans) - 1)
    while True:
        quote = text[spans[first][0] : spans[max(first, last)][1]]
        if text.find(quote) == text.rfind(quote) or (first == 0 and last >= len(spans) - 1):
            return quote
        first, last = max(0, first - 1), min(len(spans) - 1, last + 1)


def _read_beir(source: Path, split: str) -> Collection:
    documents: dict[str, str] = {}
    paths: dict[str, str] = {}
    files, ids = _Names(), _Names()
    left_out: Counter[str] = Counter()
    for row in _json_lines(source / "corpus.jsonl"):
        text = "\n\n".join(filter(None, (str(row.get("title") or "").strip(), str(row["text"]).strip())))
        if not text:
            left_out["empty documents"] += 1
            continue
        path = f"{files.free(row['_id'])}.txt"
        paths[str(row["_id"])], documents[path] = path, text
    queries = {str(row["_id"]): str(row["text"]).strip() for row in _json_lines(source / "queries.jsonl")}
    cases = []
    for query_id, judged in _qrels(source / "qrels" / f"{split}.tsv").items():
        found = [
            paths[doc]
            for doc, grade in sorted(judged.items(), key=lambda item: (-item[1], item[0]))
            if grade > 0 and doc in paths
        ]
        if not found or not queries.get(query_id):
            left_out["queries without a relevant document"] += 1
            continue
        gold = [{"doc_id": path, "quote": documents[path]} for path in found]
        cases.append(
            {
                "query_id": ids.free(query_id),
                "query": queries[query_id],
                "gt_answer": documents[found[0]],
                "answerable": True,
                "require": "any",
                "gold": gold,
                "tags": ["beir"],
            }
        )
    return Collection(documents, cases, dict(left_out))


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    """query → document → grade, from BEIR's three columns (with a head) or TREC's four.

    Raises ConfigInvalid where a line is of neither form: a lost judgement would make a relevant document irrelevant.
    """
    if not path.exists():
        raise NotFound(f"no judgements at {path}", hint="--split names another file of qrels/")
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            parts = line.split("\t") if line.count("\t") >= 2 else line.split()
            if not line.strip() or (number == 1 and parts[-1].strip() == "score"):
                continue
            try:
                query_id, *_, doc_id, grade = parts
                found[query_id][doc_id] = int(grade)
            except ValueError as error:
                raise ConfigInvalid(
                    f"{path}:{number} is not a judgement: {line.strip()[:80]!r}",
                    hint="query, document and a whole number, with tabs between them; or TREC's four columns",
                ) from error
    return dict(found)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        raise NotFound(f"no {path.name} in {path.parent}")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ConfigInvalid(f"{path}:{number} is not JSON: {error}") from error


def _read_ragchecker(source: Path) -> Collection:
    """Gold is what RAGChecker's own labels say entails the answer; without labels, what the offline judge says does."""
    documents: dict[str, str] = {}
    paths: dict[str, str] = {}
    cases = []
    files, ids = _Names(), _Names()
    left_out: Counter[str] = Counter()
    for row in read_json(source, "RAGChecker file")["results"]:
        contexts = row.get("retrieved_context") or []
        for context in contexts:
            text = str(context["text"])
            if text.strip() and text not in paths:
                path = f"{files.free(context.get('doc_id') or 'passage')}.txt"
                paths[text], documents[path] = path, text
        gold = _supporting(row, [str(context["text"]) for context in contexts])
        if not gold:
            left_out["questions whose answer no passage supports"] += 1
            continue
        cases.append(
            {
                "query_id": ids.free(row["query_id"]),
                "query": str(row["query"]).strip(),
                "gt_answer": str(row["gt_answer"]).strip(),
                "answerable": True,
                "gold": [{"doc_id": paths[text], "quote": text} for text in gold],
                "tags": ["ragchecker", "gold:labels" if row.get("retrieved2answer") else "gold:lexical"],
            }
        )
    return Collection(documents, cases, dict(left_out))


def _supporting(row: dict[str, Any], passages: list[str]) -> list[str]:
    """For each claim of the answer the first passage that entails it, each passage once.

    Raises ValueError where a claim does not have a label for each passage.
    """
    labels = row.get("retrieved2answer") or LexicalJudge(_SUPPORT).passage_labels(str(row["gt_answer"]), passages)
    found: list[str] = []
    for claim in labels:
        supporting = [text for text, label in zip(passages, claim, strict=True) if label == ENTAILMENT and text.strip()]
        if supporting and not set(supporting) & set(found):
            found.append(supporting[0])
    return found


class _Names:
    """Names that are safe in a path, each given once: names that are alike are numbered, in the order of their coming."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def free(self, name: Any) -> str:
        safe = found = _UNSAFE.sub("_", str(name)).strip("._") or "unnamed"
        while found.casefold() in self._given:  # some file systems take a and A for one name
            self._given[safe.casefold()] += 1
            found = f"{safe}-{self._given[safe.casefold()]}"
        self._given[found.casefold()] = 1
        return found
