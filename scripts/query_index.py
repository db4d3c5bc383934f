"""Ask the live index: the chunks that the reader would be shown, with the release that answered.

Reads:   golive.route(), the live chunk table
Writes:  one row in golive.query_logs (the question's hash, not its text)
Refused (15) while queries are stopped.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.errors import UsageError
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument("question", metavar="QUESTION")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if not args.question.strip() or "\0" in args.question:
        raise UsageError("what is the question?", hint='make query Q="how do I roll back?"')
    from lib.index.retrieval import LiveRetriever
    from lib.platform.postgres import database

    workspace = Workspace.find()
    with database(workspace, "query") as connection:
        found = LiveRetriever(connection, workspace).retrieve(args.question)
    result = {
        "release_id": found.release_id,
        "latency_ms": round(found.latency_ms, 1),
        "snapshot_size": len(found.snapshot),
        "context": [
            {
                "chunk_id": c.chunk_id,
                "doc_id": c.doc_id,
                "start": c.span_start,
                "end": c.span_end,
                "score": c.rerank_score,
                "text": c.bm25_text,
            }
            for c in found.context
        ],
    }
    lines = [f"{c.rerank_score:.3f}  {c.chunk_id}\n       {' '.join(c.bm25_text.split())[:160]}" for c in found.context]
    lines.append(
        f"answered by {found.release_id} in {found.latency_ms:.0f} ms, {len(found.snapshot)} chunks in the snapshot"
    )
    cli.emit(args, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
