"""Public collections as corpus and cases: BEIR folders, SQuAD JSON, RAGChecker JSON.

RAGChecker's metrics need answers that make a claim. SQuAD's answers are bare spans, so the sentence that holds the span
becomes the ground-truth answer; BEIR has none, so the best judged document's text stands in, and only the retrieval
metrics of such a collection mean much.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import schemas
from lib.evaluation.offline_judge import ENTAILMENT, LexicalJudge
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


@dataclass(frozen=True)
class Beir:
    """A BEIR folder as it stands, by its own ids; ``qrels``: query -> document -> grade. Empty documents are left out."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    left_out: dict[str, int]


def read_beir(source: Path, split: str) -> Beir:
    """Reads ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``; a title stands before its text.

    Raises:
        NotFound, ConfigInvalid: a file is missing, or a line of it is not of its form; the file and the line are named.
    """
    documents: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for where, row in _json_lines(source / "corpus.jsonl"):
        doc_id = _id_of(where, row)
        text = "\n\n".join(filter(None, (_text_of(where, row, "title"), _text_of(where, row, "text"))))
        if doc_id in documents:
            raise ConfigInvalid(f"{where} is a second document {doc_id!r}")
        if text:
            documents[doc_id] = text
        else:
            left_out["empty documents"] += 1
    queries = {_id_of(where, row): _text_of(where, row, "text") for where, row in _json_lines(source / "queries.jsonl")}
    return Beir(documents, queries, _qrels(_qrels_file(source, split)), dict(left_out))


def _read_beir(source: Path, split: str) -> Collection:
    found = read_beir(source, split)
    names, ids = _Names(), _Names()
    paths = {doc_id: f"{names.free(doc_id)}.txt" for doc_id in found.documents}
    cases = []
    left_out = Counter(found.left_out)
    for query_id, judged in found.qrels.items():
        relevant = sorted((doc for doc, grade in judged.items() if grade > 0), key=lambda doc: (-judged[doc], doc))
        left_out["judgements of unknown or empty documents"] += sum(doc not in paths for doc in relevant)
        known = [doc for doc in relevant if doc in paths]
        if not known or not found.queries.get(query_id):
            left_out["queries without a relevant document"] += 1
            continue
        cases.append(
            {
                "query_id": ids.free(query_id),
                "query": found.queries[query_id],
                "gt_answer": found.documents[known[0]],
                "answerable": True,
                "require": "any",
                "gold": [{"doc_id": paths[doc], "quote": found.documents[doc]} for doc in known],
                "tags": ["beir"],
            }
        )
    documents = {paths[doc_id]: text for doc_id, text in found.documents.items()}
    return Collection(documents, cases, {reason: count for reason, count in left_out.items() if count})


def _qrels_file(source: Path, split: str) -> Path:
    """The split's judgements; raises NotFound with the splits that are there."""
    path = source / "qrels" / f"{split}.tsv"
    if not path.exists():
        there = sorted(file.stem for file in (source / "qrels").glob("*.tsv"))
        hint = f"--split names another file of qrels/: {', '.join(there) or 'there is none'}"
        raise NotFound(f"no judgements at {path}", hint=hint)
    return path


def _id_of(where: str, row: dict[str, Any]) -> str:
    found = row.get("_id", row.get("id"))
    if not isinstance(found, str | int) or isinstance(found, bool) or not str(found).strip():
        raise ConfigInvalid(f"{where} has no _id")
    return str(found)


def _text_of(where: str, row: dict[str, Any], name: str) -> str:
    """The field's text without blanks around it; none where the field is missing or null."""
    found = row.get(name)
    if found is not None and not isinstance(found, str):
        raise ConfigInvalid(f"{where}: {name} is not text")
    return (found or "").strip()


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    """query → document → grade, from BEIR's three columns (with a head) or TREC's four; a grade may be written 1.0.

    Raises ConfigInvalid where a line is of neither form: a lost judgement would make a relevant document irrelevant.
    """
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            parts = [part.strip() for part in (line.split("\t") if line.count("\t") >= 2 else line.split())]
            if not line.strip() or (number == 1 and parts[-1].lower() == "score"):
                continue
            try:
                query_id, *_, doc_id, grade = parts
                value = float(grade)
            except ValueError:
                value = math.nan
            if not value.is_integer():
                raise ConfigInvalid(
                    f"{path}:{number} is not a judgement: {line.strip()[:80]!r}",
                    hint="query, document and a whole number, with tabs between them; or TREC's four columns",
                )
            found[query_id][doc_id] = int(value)
    return dict(found)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (file:line) and its object."""
    if not path.exists():
        raise NotFound(f"no {path.name} in {path.parent}")
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ConfigInvalid(f"{path}:{number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ConfigInvalid(f"{path}:{number} is not a JSON object")
                yield f"{path}:{number}", row


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
