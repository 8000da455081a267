"""A process with no free file descriptor: ``python exhausted.py KIND URL``."""

from __future__ import annotations

import contextlib
import os
import resource
import sys

import pytest

from dynamo_tito._errors import TransportError
from dynamo_tito._http import native
from support.driver import KINDS, Driver, Kind


def every_descriptor() -> list[int]:
    """All that are left."""
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def main(kind: Kind, url: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    # However slow the machine, the connection is kept.
    setattr(native, "KEEPALIVE", 600.0)  # noqa: B010 - for mypy it is not the module's own
    with Driver(kind, url, retries=None) as client, Driver(kind, url, retries=None) as fresh:
        # The event loop opens descriptors in its first call.
        client.generate(deadline=60.0)
        fresh._runner.get_loop()
        for _ in range(3):
            taken = every_descriptor()
            # A connection that is there serves on; one that is not cannot come about.
            client.generate(deadline=60.0)
            with pytest.raises(TransportError) as caught:
                fresh.generate(deadline=60.0)
            assert caught.value.phase == "connect", caught.value
            assert "deadline" not in str(caught.value)
            for descriptor in taken:
                os.close(descriptor)
        assert len(fresh.generate(deadline=60.0).token_ids) == 3
    # Closing the clients gave everything back.
    assert len(every_descriptor()) > 50


if __name__ == "__main__":
    chosen, address = sys.argv[1:]
    assert chosen in KINDS
    main(chosen, address)
    sys.stdout.write("done\n")
