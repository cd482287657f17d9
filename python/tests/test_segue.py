"""What a worker and Segue tell each other."""

import asyncio
import json
import os
import subprocess
import sys
import threading

import pytest

from conftest import SOON
from segue import AgentPool, SegueUnreachable, StaleState


def pool_of(fake, tmp_path, **more):
    token = tmp_path / "token"
    token.write_text("segue_w_1\n")
    return AgentPool(
        deployment_version="v2",
        agent="desk",
        worker="w1",
        api_url=fake.url,
        token_file=token,
        **more,
    )


def test_it_is_found_in_the_environment(fake_segue, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("segue_w_1\n")
    for name, value in {
        "AGENT": "desk",
        "RELEASE": "v2",
        "WORKER_ID": "w1",
        "API_URL": fake_segue.url,
        "TOKEN_FILE": str(token),
    }.items():
        monkeypatch.setenv(f"SEGUE_{name}", value)
    with AgentPool() as pool:
        assert pool.deployment_version == "v2"
        _, _, headers, body = fake_segue.next("PUT", "/v1/agents/desk/workers/w1")
        assert {**headers}["authorization"] == "Bearer segue_w_1"
        assert body["release"] == "v2" and body["draining"] is False
        pool.begin_drain()
        _, _, _, body = fake_segue.next("PUT", "/v1/agents/desk/workers/w1")
        assert body["draining"] is True


def test_retiring_is_told_and_refuses_nothing(fake_segue, tmp_path):
    fake_segue.answer = lambda *_: (200, {"state": "draining", "retiring": True, "every": 1})
    pool, retiring = pool_of(fake_segue, tmp_path), threading.Event()
    pool.on_event(lambda event: event.name == "retiring" and retiring.set())
    with pool:
        assert retiring.wait(SOON)
        assert pool.retiring and not pool.draining
        with pool.call("CA1"):
            pass


def test_outcomes_arrive_and_no_call_waits_for_them(fake_segue, tmp_path):
    busy = threading.Event()

    def answer(method, _path, _body):
        if method == "POST" and not busy.is_set():
            busy.set()
            return 503, {"title": "busy"}
        return 201, {}

    fake_segue.answer = answer
    with pool_of(fake_segue, tmp_path) as pool:
        with pool.call("CA1") as call:
            call.report("success", "booked", {"turns": 7})
        path = "/v1/agents/desk/calls/CA1/outcome"
        first, second = fake_segue.next("POST", path)[3], fake_segue.next("POST", path)[3]
        assert first == second
        assert (first["verdict"], first["reason"]) == ("success", "booked")
        assert first["data"] == {"turns": 7} and first["worker"] == "w1"
        assert asyncio.run(pool.flush(SOON))
        with pool.call("CA2") as call:
            call.report("abandoned")
        fake_segue.next("POST", path.replace("CA1", "CA2"))
    assert pool.runtime_snapshot().reports["delivered"] == 2


def test_the_state_of_a_call(fake_segue, tmp_path):
    kept = {}

    def answer(method, path, body):
        if not path.startswith("/v1/calls/CA1/state"):
            return 200, {}
        if method == "GET":
            return (200, kept) if kept else (404, {"title": "this call has no state"})
        if kept and body.get("stale"):
            return 412, {"title": "no"}
        kept.update(call="CA1", version=kept.get("version", 0) + 1, state=body)
        return 200, kept

    fake_segue.answer = answer

    async def main():
        pool = pool_of(fake_segue, tmp_path)
        async with pool.call("CA1") as call:
            assert await call.get_state() is None
            assert await call.put_state({"name": "Ann"}, after=0) == 1
            state = await call.get_state()
            assert (state.version, state.state) == (1, {"name": "Ann"})
            with pytest.raises(StaleState):
                await call.patch_state({"stale": True}, after=7)
        fake_segue.answer = lambda *_: (403, {"title": "not this token"})
        with pytest.raises(SegueUnreachable, match="not this token"):
            await pool.get_state("CA1")

    asyncio.run(main())
    with pytest.raises(SegueUnreachable, match="SEGUE_API_URL"):
        asyncio.run(AgentPool().get_state("CA1"))


def test_a_segue_that_is_away_stops_nothing(fake_segue, tmp_path):
    fake_segue.stop()
    pool = pool_of(fake_segue, tmp_path)
    pool.start()
    with pool.call("CA1") as call:
        call.report("success")
        with pytest.raises(SegueUnreachable):
            asyncio.run(pool.get_state("CA1"))
    pool.begin_drain()
    assert pool.wait_drained(SOON)
    assert not pool.close(0.01)
    assert pool.runtime_snapshot().reports["pending"] == 1


def test_a_process_that_ends_has_reported_and_one_that_forgets_a_pool_is_rid_of_it(fake_segue):
    script = """
import gc, weakref
from segue import AgentPool

pool = AgentPool()
with pool.call("CA1") as call:
    call.report("success")
forgotten = AgentPool(audit_sink=print)
forgotten.on_event(print)
forgotten.start()
seen = weakref.ref(forgotten)
del forgotten
gc.collect()
assert seen() is None
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SEGUE_API_URL": fake_segue.url, "SEGUE_AGENT": "desk"},
        timeout=SOON,
    )
    assert ran.returncode == 0
    assert fake_segue.next("POST", "/v1/agents/desk/calls/CA1/outcome")[3]["verdict"] == "success"


def test_notifications_are_events():
    pool, events = AgentPool(), []
    pool.on_event(lambda event: events.append((event.name, event.calls)))

    def tell(kind):
        event = {"type": f"dev.segue.{kind}", "data": {"call": "CA1"}}
        return pool.notified(json.dumps(event).encode())

    assert tell("worker.retiring") and tell("call.hand-off") and not tell("call.sing")
    assert events == [("retiring", ()), ("hand-off", ("CA1",))]
