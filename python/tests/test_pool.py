"""Calls and drains."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from conftest import SOON
from segue import AgentPool, AuditEvent, CallEnded, Draining


def soon(awaitable):
    return asyncio.wait_for(awaitable, SOON)


def listen(pool):
    events = []
    pool.on_event(lambda event: events.append(" ".join((event.name, *event.calls))))
    return events


def test_a_drain_refuses_new_calls_at_once_and_waits_for_the_others():
    async def main():
        pool = AgentPool(deployment_version="v2")
        events = listen(pool)
        drained = asyncio.create_task(pool.drained())
        async with pool.call("CA1"):
            pool.begin_drain("a new release")
            pool.begin_drain("again")
            with pytest.raises(Draining):
                async with pool.call("CA2"):
                    raise AssertionError("it must not come in")
            async with pool.call("CA1"), pool.call("AJ_1", assigned=True):
                assert pool.runtime_snapshot().active_sessions == 2
            await asyncio.sleep(0)
            assert pool.draining and not drained.done()
        await soon(drained)
        assert events == ["draining", "drained"]
        assert pool.wait_drained(0)

    asyncio.run(main())


def test_a_call_that_was_assigned_after_the_end_is_waited_for():
    async def main():
        pool = AgentPool()
        pool.begin_drain()
        async with pool.call("AJ_1", assigned=True):
            drained = asyncio.create_task(pool.drained())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not drained.done()
        await soon(drained)

    asyncio.run(main())


def test_threads_have_calls_too():
    pool = AgentPool()
    entered, leave = threading.Event(), threading.Event()

    def talk():
        with pool.call("CA1"):
            entered.set()
            leave.wait(SOON)

    thread = threading.Thread(target=talk)
    thread.start()
    assert entered.wait(SOON)
    pool.begin_drain()
    assert not pool.wait_drained(0)
    leave.set()
    assert pool.wait_drained(SOON)
    thread.join()


@pytest.mark.parametrize("on_straggler", ["wait", "end"])
def test_the_ceiling_ends_calls_only_if_that_was_asked_for(on_straggler):
    async def main():
        pool = AgentPool(drain_timeout=0.01, on_straggler=on_straggler)
        overdue = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told(event):
            if event.name == "overdue":
                loop.call_soon_threadsafe(overdue.set)

        pool.on_event(told)
        hang_up = asyncio.Event()

        async def talk():
            async with pool.call("CA1"):
                await hang_up.wait()

        call = asyncio.create_task(talk())
        await asyncio.sleep(0)
        pool.begin_drain()
        await soon(overdue.wait())
        if on_straggler == "end":
            with pytest.raises(CallEnded):
                await soon(call)
        else:
            assert pool.runtime_snapshot().overdue_sessions == 1
            hang_up.set()
            await soon(call)
        await soon(pool.drained())

    asyncio.run(main())


def test_who_is_cancelled_for_another_reason_stays_cancelled():
    async def main():
        pool = AgentPool(drain_timeout=0.0, on_straggler="end")

        async def talk():
            async with pool.call("CA1"):
                await asyncio.Event().wait()

        call = asyncio.create_task(talk())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(call)
        assert pool.runtime_snapshot().active_sessions == 0

    asyncio.run(main())


def test_an_exception_is_a_failure_whatever_the_framework_says():
    pool = AgentPool()
    with pytest.raises(ZeroDivisionError), pool.call("CA1"):
        raise ZeroDivisionError("the caller's own words")
    with pytest.raises(ZeroDivisionError), pool.call("CA2") as call:
        call.report("success")
        raise ZeroDivisionError
    snapshot = pool.runtime_snapshot()
    assert (snapshot.total_session_failures, snapshot.last_error) == (1, "ZeroDivisionError")
    assert snapshot.active_sessions == 0


def test_a_sink_that_fails_gets_every_event_and_all_can_see_it():
    taken, is_open, tried = [], threading.Event(), threading.Event()

    def sink(event):
        tried.set()
        if not is_open.is_set():
            raise OSError("the disk is full")
        taken.append(event)

    pool = AgentPool(deployment_version="v2", audit_sink=sink)
    pool.start()
    pool.begin_drain()
    mine = pool.audit_log.emit("agent.muted", actor="ann", target="CA1", why="loud", seq_of="x")
    assert isinstance(mine, AuditEvent) and mine.to_dict()["why"] == "loud"
    assert tried.wait(SOON)
    until = threading.Event()
    for _ in range(int(SOON / 0.01)):
        if pool.runtime_snapshot().audit["failed_tries"]:
            break
        until.wait(0.01)
    audit = pool.runtime_snapshot().audit
    assert audit["pending"] == 4 and "the disk is full" in audit["last_error"]
    is_open.set()
    assert pool.close(SOON)
    assert [(event.seq, event.event) for event in taken] == [
        (1, "deployment.started"),
        (2, "deployment.drain_started"),
        (3, "drain.completed"),
        (4, "agent.muted"),
    ]
    assert taken[3] == mine and taken[1].version == "v2" and taken[1].actor == "system"


def test_the_snapshot_is_plain_and_has_the_names_that_others_know():
    pool = AgentPool(deployment_version="v2", drain_timeout=3.5, on_straggler="end")
    shown = json.loads(json.dumps(pool.runtime_snapshot().to_dict()))
    for name, value in {
        "deployment_version": "v2",
        "draining": False,
        "active_sessions": 0,
        "total_sessions_started": 0,
        "total_session_failures": 0,
        "last_error": None,
        "drain_timeout_seconds": 3.5,
        "on_straggler": "end",
    }.items():
        assert shown[name] == value, name
    assert shown["timestamp"] > 1.7e9 and shown["uptime_seconds"] >= 0
    assert AgentPool().runtime_snapshot().drain_timeout_seconds is None


def test_what_makes_no_sense_is_refused_when_it_is_said():
    with pytest.raises(ValueError, match="wait"):
        AgentPool(on_straggler="kill")
    with pytest.raises(ValueError):
        AgentPool(drain_timeout=-1.0)
    with pytest.raises(ValueError, match="SEGUE_AGENT"):
        AgentPool(api_url="http://127.0.0.1:1")

    async def sink(_event):
        pass

    with pytest.raises(TypeError, match="plain function"):
        AgentPool(audit_sink=sink)
    pool = AgentPool()
    with pytest.raises(ValueError, match="call id"):
        pool.call("not an id").__enter__()
    with pytest.raises(ValueError, match="success"):
        pool.report("CA1", "splendid")
    with pytest.raises(ValueError, match="8192"):
        pool.report("CA1", "success", data={"a": "x" * 9_000})


def test_a_listener_that_fails_keeps_nobody_else_from_hearing(caplog):
    pool = AgentPool()
    pool.on_event(lambda _event: 1 / 0)
    events = listen(pool)
    pool.begin_drain()
    assert events == ["draining", "drained"]
    assert "ZeroDivisionError" in caplog.text


def test_a_signal_drains_and_a_second_one_cuts_nothing():
    async def main():
        pool = AgentPool()
        pool.handle_signals([signal.SIGTERM])
        started = asyncio.get_running_loop().create_future()
        pool.on_event(
            lambda event: event.name == "draining" and started.set_result(event.reason)
        )
        async with pool.call("CA1"):
            os.kill(os.getpid(), signal.SIGTERM)
            assert await soon(started) == "SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not pool.runtime_snapshot().drained
        await soon(pool.drained())

    asyncio.run(main())


def test_a_child_begins_with_no_calls_and_threads_of_its_own():
    pool = AgentPool(audit_sink=lambda _event: None)
    pool.start()
    with pool.call("CA1"):
        child = os.fork()
        if child == 0:
            # Nothing of pytest may run here.
            good = False
            try:
                empty = pool.runtime_snapshot().active_sessions == 0
                with pool.call("CA2"):
                    pool.begin_drain()
                good = empty and pool.wait_drained(SOON) and pool.close(SOON)
            finally:
                os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        snapshot = pool.runtime_snapshot()
        assert snapshot.active_sessions == 1 and not snapshot.draining


def run(program, *, meanwhile=lambda process: None):
    """A program in a process of its own; `meanwhile` once it has said a line."""
    args = [sys.executable, "-c", program]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            meanwhile(process)
            return process.wait(SOON), said + process.stdout.read()
        finally:
            process.kill()


def test_a_signal_begins_the_drain_that_the_main_thread_waits_for():
    program = """
import threading
from segue import AgentPool

pool = AgentPool()
pool.handle_signals()
call = pool.call("CA1")
call.__enter__()
pool.on_event(lambda event: event.name == "draining" and threading.Thread(
    target=call.__exit__, args=(None, None, None)).start())
assert not pool.wait_drained(0.01)
print("waits", flush=True)
print(pool.wait_drained())
"""
    answer = run(program, meanwhile=lambda process: process.send_signal(signal.SIGTERM))
    assert answer == (0, "waits\nTrue\n")


def test_ctrl_c_ends_a_wait_of_the_main_thread():
    program = """
from segue import AgentPool

pool = AgentPool()
try:
    print("waits", flush=True)
    pool.wait_drained()
except KeyboardInterrupt:
    print("ends")
"""
    answer = run(program, meanwhile=lambda process: process.send_signal(signal.SIGINT))
    assert answer == (0, "waits\nends\n")


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages of a process")
def test_a_call_is_not_lost_for_want_of_a_thread(fake_segue):
    program = f"""
import resource
import time
from segue import AgentPool

pool = AgentPool(api_url={fake_segue.url!r}, agent="desk", worker="w1", audit_sink=print)
# Room for what little a call needs, and none for a thread's stack of 2 MiB.
pages = int(open("/proc/self/statm").read().split()[0])
before = resource.getrlimit(resource.RLIMIT_AS)
room = pages * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, before[1]))
try:
    pool.start()
except OSError:
    print("no thread", flush=True)
with pool.call("CA1"):
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert pool.runtime_snapshot().active_sessions == 1
with pool.call("CA2"):
    pass
while pool.runtime_snapshot().segue["last_contact"] is None:
    time.sleep(0.01)
pool.close()
print(pool.runtime_snapshot().audit)
"""
    code, said = run(program)
    assert code == 0 and said.startswith("no thread\n"), said
    assert "deployment.started" in said and "'pending': 0" in said
    fake_segue.next("PUT", "/v1/agents/desk/workers/w1")
