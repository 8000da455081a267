"""``python -m dynamo_tito``: the ``dynamo-tito`` command."""

from __future__ import annotations

from dynamo_tito.cli import main

if __name__ == "__main__":
    main()
