"""Discovery: instance ids without rounding, a membership that fails closed, and errors that name the switches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.control import Fleet, Identity, Worker, Workers, discover_workers
from dynamo_tito.control.discovery import rl_url_of
from dynamo_tito.control.http import Server
from dynamo_tito.control.listing import changes, merged, read_listing

URL = "http://frontend:8001/v1/rl/workers"
BIG = (1 << 64) - 1


def entry(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "namespace": "dynamo", "component": "backend", "endpoint": "rl", "instance_id": number,
        "system_url": f"http://10.0.0.{number % 250}:9090", "model": "m", "routes": ["a"], "world_size": 1, **more,
    }  # fmt: skip


def listing(*entries: Any, version: Any = 1) -> list[Worker]:
    return read_listing({"protocol_version": version, "namespace": "dynamo", "workers": [*entries]}, URL)


def worker(number: int, **more: Any) -> Worker:
    return listing(entry(number, **more))[0]


def gone(number: int) -> Worker:
    return worker(number, system_url=None, routes=[], error="Unavailable")


def test_ids_are_not_rounded() -> None:
    text = json.dumps({"protocol_version": 1, "workers": [entry(BIG), entry(BIG - 1)]})
    found = read_listing(json.loads(text), URL)
    assert [each.identity.instance_id for each in found] == [BIG, BIG - 1]
    assert str(found[0].identity) == f"dynamo.backend.rl/{BIG}"


def test_read_leniently() -> None:
    bare = {"namespace": "n", "component": "c", "endpoint": "rl", "instance_id": 0, "future": [1]}
    (found,) = listing(bare)
    assert found == Worker(Identity("n", "c", "rl", 0))
    assert "DYN_SYSTEM_PORT" in (found.problem or "")
    (odd,) = listing(bare | {"model": 3, "routes": "x", "world_size": True, "error": {"code": 1}})
    assert (odd.model, odd.routes, odd.world_size, odd.error) == (None, (), None, "{'code': 1}")


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1.5])
def test_another_protocol_is_refused(version: Any) -> None:
    with pytest.raises(tito.AdminError, match=r"8001.*protocol_version is"):
        listing(entry(), version=version)


@pytest.mark.parametrize(
    "wrong",
    [3, {}, entry() | {"instance_id": -1}, entry() | {"instance_id": 1 << 64}, entry() | {"instance_id": 1.0},
     entry() | {"instance_id": True}, entry() | {"instance_id": "1"}, entry() | {"namespace": ""},
     entry() | {"component": None}],
)  # fmt: skip
def test_a_worker_without_identity_is_refused(wrong: Any) -> None:
    with pytest.raises(tito.AdminError, match=r"workers\[1\]"):
        listing(entry(), wrong)


@pytest.mark.parametrize("document", [None, [], {}, {"workers": {}}, "text"])
def test_no_list_is_refused(document: Any) -> None:
    with pytest.raises(tito.AdminError, match="no list of workers"):
        read_listing(document, URL)


def test_addresses_lose_their_credentials_and_must_be_some() -> None:
    assert worker(1, system_url="http://user:secret@host:1/v1").system_url == "http://host:1"
    for wrong in ("host:1", 3, "ftp://x"):
        with pytest.raises(tito.AdminError, match="cannot be read"):
            worker(1, system_url=wrong)
    assert "secret" not in str(worker(1, error="cannot reach http://user:secret@host").problem)


def test_duplicates_are_one_and_contradictions_refused() -> None:
    assert merged([worker(2), worker(1), worker(2)]) == (worker(1), worker(2))
    assert merged([gone(1), worker(1)]) == merged([worker(1), gone(1)]) == (worker(1),)
    with pytest.raises(tito.AdminError, match="is listed at"):
        merged([worker(1), worker(1, system_url="http://other:1")])
    with pytest.raises(tito.AdminError, match="are both listed at"):
        merged([worker(1), worker(2, system_url=worker(1).system_url)])


def test_changes_are_by_identity() -> None:
    before = [worker(1), worker(2), worker(3)]
    assert not changes(before, before[::-1])
    again = worker(9, system_url=worker(2).system_url)
    change = changes(before, [worker(3), worker(1), again, worker(4)])
    assert (change.joined, change.left, change.restarted) == ((worker(4),), (), ((worker(2), again),))
    lingering = changes(before, [worker(1), gone(2), again, worker(3)])
    assert lingering.restarted == ((worker(2), again),)
    assert changes(before, before[:2]).left == (worker(3),)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://host:8000/v1", "http://host:8001"),
        ("http://host", "http://host:8001"),
        ("https://[::1]:8000/", "https://[::1]:8001"),
        ("http://user:pw@host:1/prefix/v1", "http://user:pw@host:8001"),
    ],
)
def test_the_address_of_discovery(base: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYN_RL_PORT", raising=False)
    assert rl_url_of(base) == expected
    monkeypatch.setenv("DYN_RL_PORT", "7001")
    assert rl_url_of(base) == expected.replace("8001", "7001")
    for wrong in ("0", "x", "70000"):
        monkeypatch.setenv("DYN_RL_PORT", wrong)
        with pytest.raises(ValueError, match="DYN_RL_PORT"):
            rl_url_of(base)


def against(work: Callable[[simulator.Engine, simulator.Engine], Any], **settings: Any) -> None:
    async def main() -> None:
        async with simulator.serve(**settings) as one, simulator.serve(seed=1, world_size=3, **settings) as two:
            one.join(two)
            await work(one, two)

    asyncio.run(main())


def test_a_broken_member_fails_the_list_closed() -> None:
    async def work(one: simulator.Engine, two: simulator.Engine) -> None:
        workers = await discover_workers(one.url, rl_base_url=one.rl_url, expected_world_size=4, trust_env=False)
        async with workers:
            assert {each.identity.instance_id for each in workers} == {one.instance_id, two.instance_id}
            two.stopped = True
            with pytest.raises(tito.AdminError, match=rf"1 of 2 workers as broken: .*{two.instance_id}: Unavailable"):
                await workers.refresh()
            assert len(workers) == 2
            two.stopped = False
            assert not await workers.refresh()
            two.restart()
            change = await workers.refresh()
            assert [new.identity.instance_id for _, new in change.restarted] == [two.instance_id]
            one.members = [one]
            with pytest.raises(tito.AdminError, match="have 1 ranks, 4 are expected"):
                await workers.refresh()
        two.stopped = True
        one.members = [one, two]
        async with await discover_workers(
            one.url, rl_base_url=one.rl_url, allow_incomplete=True, trust_env=False
        ) as lenient:
            assert [each.problem is None for each in lenient].count(False) == 1

    against(work)


def test_several_frontends_are_merged() -> None:
    async def work(one: simulator.Engine, two: simulator.Engine) -> None:
        two.join(one)
        frontends = [one.url, two.url + "/v1", one.url + "/"]
        async with await discover_workers(
            frontends, rl_base_url=[one.rl_url, two.rl_url], model="tito-model", trust_env=False
        ) as workers:
            assert len(workers) == 2
            assert workers.world_size == 4
            await workers.check_model()

    against(work)


def test_an_unreachable_discovery_names_the_address_and_the_switches() -> None:
    async def work(one: simulator.Engine, _: simulator.Engine) -> None:
        for rl_url, said in ((one.url, "does not exist"), ("http://127.0.0.1:1", "no discovery at")):
            with pytest.raises(tito.AdminError, match=said) as caught:
                await discover_workers(one.url, rl_base_url=rl_url, trust_env=False)
            assert f"{rl_url}/v1/rl/workers" in str(caught.value)
            for switch in ("DYN_ENABLE_RL", "DYN_RL_PORT", "DYN_SYSTEM_PORT"):
                assert switch in str(caught.value)
        with pytest.raises(tito.AdminError, match=r"lists no worker that serves 'x'.*DYN_ENABLE_RL"):
            await discover_workers(one.url, rl_base_url=one.rl_url, model="x", trust_env=False)

    against(work)


def test_wait_ready() -> None:
    async def work(one: simulator.Engine, two: simulator.Engine) -> None:
        async with Workers(one.url, rl_base_url=one.rl_url, model="tito-model", trust_env=False) as workers:
            two.stopped = True
            with pytest.raises(tito.AdminError, match=r"not ready after 1 s: .*Unavailable"):
                await workers.wait_ready(1.0, interval=0.01)

            async def later() -> None:
                await asyncio.sleep(0.05)
                two.stopped = False

            two.inject(*[simulator.Fault(kind="status", path="/engine/liveness_probe")] * 2)
            task = asyncio.create_task(later())
            await workers.wait_ready(20.0, interval=0.01)
            assert task.done()
            assert len(workers) == 2
            assert two.faults.pending() == ()
        async with Workers(one.url, rl_base_url=one.rl_url, trust_env=False) as slow:
            two.inject(simulator.Fault(kind="stall", phase="request", path="/engine/liveness_probe"))
            with pytest.raises(tito.AdminError, match="not ready"):
                await slow.wait_ready(0.2, interval=0.01)

    against(work)


def test_worker_for_a_data_plane_url() -> None:
    async def work(one: simulator.Engine, two: simulator.Engine) -> None:
        one.members = [one]
        async with await discover_workers(one.url, rl_base_url=one.rl_url, trust_env=False) as workers:
            for url in ("http://127.0.0.1:1234/v1", "http://localhost:8000"):
                assert (await workers.worker_for(url)).identity.instance_id == one.instance_id
            with pytest.raises(tito.AdminError, match=r"no worker is at 127.0.0.2"):
                await workers.worker_for("http://127.0.0.2:8000")
            one.members = [one, two]
            await workers.refresh()
            with pytest.raises(tito.AdminError, match="2 workers are at localhost"):
                await workers.worker_for("http://localhost:8000")

    against(work)


def test_an_explicit_admin_url_skips_discovery() -> None:
    async def work(one: simulator.Engine, two: simulator.Engine) -> None:
        urls = [one.system_url, two.system_url]
        async with await Fleet.connect(
            one.url, backend="dynamo", admin_base_url=urls, model="tito-model", trust_env=False
        ) as fleet:
            await fleet.update_weights("/w/step_1")
        assert not [call for engine in (one, two) for call in engine.calls if call.listener == "rl"]
        with pytest.raises(tito.AdminError, match=r"v1/models lists tito-model, not 'other'"):
            await Fleet.connect(one.url, backend="dynamo", admin_base_url=urls, model="other", trust_env=False)

    against(work)


def test_secrets_are_sent_where_they_belong_and_shown_nowhere() -> None:
    async def work(one: simulator.Engine, _: simulator.Engine) -> None:
        url = one.url.replace("http://", "http://user:pass-word@")
        async with await Fleet.connect(url, backend="dynamo", rl_base_url=one.rl_url, api_key="sk-secret",
                                       trust_env=False) as fleet:  # fmt: skip
            await fleet.update_weights("/w/step_1")
            shown = repr(fleet) + repr(fleet.last_result) + repr(fleet._membership)
        assert "sk-secret" not in shown
        assert {call.headers.get("authorization") for call in one.calls if call.listener == "rl"} == {
            "Bearer sk-secret"
        }
        assert {call.headers.get("authorization") for call in one.calls if call.listener == "system"} == {None}

        server = Server(url, timeout=5.0, api_key="sk-secret", trust_env=False)
        one.inject(simulator.Fault(kind="status", path="/v1/models", message="bad key sk-secret"))
        with pytest.raises(tito.ServerError) as caught:
            await server.json("GET", "/v1/models")
        for text in (str(caught.value), caught.value.body, repr(server.refusal("/x", "sk-secret"))):
            assert "sk-secret" not in text
            assert "pass-word" not in text
        await server.aclose()

    against(work)
