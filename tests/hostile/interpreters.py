"""The package in two interpreters of one process, the main one first or last; ``test_processes`` runs it."""

from __future__ import annotations

import sys

try:
    import _interpreters as interpreters  # type: ignore[import-not-found]
except ImportError:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

IMPORT = """
import sys, warnings
warnings.simplefilter("ignore")  # numpy warns of interpreters
try:
    import dynamo_tito
    dynamo_tito.decode(b"{}", wire="vllm_chat")
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def main(order: str) -> None:
    other = interpreters.create()
    for place in order:
        if place == "m":
            exec(IMPORT, {})
        else:
            interpreters.run_string(other, IMPORT)
    interpreters.destroy(other)


if __name__ == "__main__":
    main(sys.argv[1])
