"""The example system as a command: a question a line on stdin, an answer a line on stdout, until stdin ends.

    python scripts/evaluate_system.py --command "python eval/examples/rag_command.py" --corpus eval/corpus

Replies may come in any order, because each names its ``query_id``; every line is flushed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from word_search import WordSearch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(__file__).resolve().parents[1] / "corpus")
    search = WordSearch(parser.parse_args().corpus)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"query_id": asked["query_id"], **search.answer(asked["query"])}), flush=True)


if __name__ == "__main__":
    main()
