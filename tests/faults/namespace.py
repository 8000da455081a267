"""A machine whose network drops packets. It runs in a network namespace, where the machine allows one.

``python namespace.py KIND lo`` takes the loopback device down and up again, which ``unshare --user --map-root-user
--net`` lets anyone do. ``python namespace.py KIND sockets`` needs nothing: the queue of a listening socket is full, and
a server falls silent.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from dynamo_tito._errors import TransportError
from faults.black_hole import full_backlog
from faults.cases import GOOD, LONG, QUICK, SHORT, answered
from support.driver import KINDS, Driver, Kind
from support.raw_server import RawServer, Stall


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def refused(driver: Driver, phases: set[str], deadline: float = SHORT) -> None:
    """The call ends, in one of these phases."""
    with pytest.raises(TransportError) as caught:
        driver.generate(deadline=deadline)
    assert caught.value.phase in phases, caught.value


def swallowed_by_the_device(kind: Kind) -> None:
    """Packets are lost from one moment to the next: no reset, no end, nothing."""
    loopback("up")
    with RawServer([GOOD]) as server, Driver(kind, server.url, retries=QUICK) as client:
        answered(client)
        loopback("down")
        refused(client, {"send", "headers", "connect"})  # on the connection that was kept, if it is not too old
        refused(client, {"connect"})
        loopback("up")
        before = server.hits
        assert answered(client) == [7, 8, 9]
        # What was sent into the void may arrive after all; it was sampled once at most.
        assert server.hits - before <= 2


def swallowed_by_sockets(kind: Kind) -> None:
    """The same without privileges: no connection is accepted or answered."""
    with full_backlog() as url:
        for options, deadline in (({}, SHORT), ({"connect_timeout": SHORT}, LONG)):
            with Driver(kind, url, retries=None, **options) as client:
                refused(client, {"connect"}, deadline)
    with RawServer([[Stall()]]) as server, Driver(kind, server.url, retries=QUICK) as client:
        refused(client, {"send", "headers", "connect"})
        server.play(GOOD)
        assert answered(client) == [7, 8, 9]


if __name__ == "__main__":
    chosen, how = sys.argv[1:]
    assert chosen in KINDS
    play = {"lo": swallowed_by_the_device, "sockets": swallowed_by_sockets}[how]
    play(chosen)
    sys.stdout.write(f"{chosen} {how}: done\n")
