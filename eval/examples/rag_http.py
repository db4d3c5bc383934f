"""The example system as an HTTP service: ``POST /answer`` takes {"query_id", "query"} and gives the answer with passages.

    python eval/examples/rag_http.py --port 8000
    python scripts/evaluate_system.py --url http://127.0.0.1:8000/answer --name word-search --corpus eval/corpus

With RAG_EXAMPLE_KEY in the environment it asks for ``Authorization: Bearer <key>`` (system.key_variable: RAG_EXAMPLE_KEY).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from word_search import WordSearch

_LONGEST_REQUEST = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(__file__).resolve().parents[1] / "corpus")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    args = parser.parse_args()
    search = WordSearch(args.corpus)
    key = os.environ.get("RAG_EXAMPLE_KEY", "")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(min(length, _LONGEST_REQUEST))
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                return self._reply(401, {"error": "a key is needed"})
            if self.path != "/answer":
                return self._reply(404, {"error": "POST /answer"})
            try:
                asked = json.loads(body)
                query_id, query = str(asked["query_id"]), str(asked["query"])
            except (ValueError, TypeError, KeyError) as error:
                return self._reply(400, {"error": f"not a question: {error!r}"})
            return self._reply(200, {"query_id": query_id, **search.answer(query)})

        def _reply(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ThreadingHTTPServer(("127.0.0.1", args.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/answer", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
