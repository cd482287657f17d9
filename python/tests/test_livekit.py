"""What LiveKit's worker is answered, and who ends it. With a real one: `sdk.rs` of the dispatcher's
tests."""

import asyncio
import os
import signal

import pytest

from conftest import SOON
from segue import AgentPool
from segue.livekit import drain_with, on_request


class Offer:
    """As much of LiveKit's JobRequest as is used."""

    def __init__(self):
        self.said = []

    async def accept(self):
        self.said.append("accept")

    async def reject(self, *, terminate=True):
        self.said.append(("reject", terminate))


def answer(pool, **more):
    offer = Offer()
    asyncio.run(on_request(pool, **more)(offer))
    return offer.said


def test_a_worker_that_drains_says_not_me_and_never_nobody():
    async def politely(offer):
        offer.said.append("politely")

    pool = AgentPool()
    assert answer(pool) == ["accept"]
    assert answer(pool, accept=politely) == ["politely"]
    pool.begin_drain()
    assert answer(pool) == [("reject", False)]
    assert answer(pool, accept=politely) == [("reject", False)]


class Server:
    """As much of LiveKit's AgentServer, and of its command line, as is used."""

    def __init__(self):
        self.said = []
        self.jobs_are_over = asyncio.Event()
        self._is_draining = False
        self._started = []

    def once(self, event, callback):
        assert event == "worker_started"
        self._started.append(callback)

    async def drain(self, timeout=-1):
        if self._is_draining:
            return
        self._is_draining = True
        self.said.append(f"drains for {timeout}")
        await asyncio.wait_for(self.jobs_are_over.wait(), timeout)
        self.said.append("no jobs")

    async def aclose(self):
        pass

    async def run(self):
        """As the command line does, with both of its handlers."""
        exits = asyncio.get_running_loop().create_future()
        signal.signal(signal.SIGTERM, lambda *_: exits.set_result(None))
        for callback in self._started:
            callback()
        await exits
        signal.signal(signal.SIGTERM, lambda *_: self.said.append("killed"))
        try:
            await self.drain()
        except TimeoutError:
            self.said.append("too long")
        self.said.append("closed")


@pytest.fixture
def handlers():
    """Those of this process, as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


TERM, DRAIN, INT = "SIGTERM", "begin_drain", "SIGINT"


@pytest.mark.parametrize(
    "happens",
    [
        [TERM],
        [TERM, TERM, INT],
        [DRAIN],
        [DRAIN, TERM, TERM],
        [TERM, DRAIN, TERM],
        ["server.drain", TERM, DRAIN, TERM],
    ],
    ids=" ".join,
)
def test_whoever_begins_the_drain_no_signal_cuts_a_job(handlers, happens):
    async def main():
        pool, server = AgentPool(), Server()
        drain_with(pool, server)
        worker = asyncio.create_task(server.run())
        others = []
        for what in happens:
            # In between, the worker does what it has to do.
            for _ in range(10):
                await asyncio.sleep(0)
            if what == DRAIN:
                pool.begin_drain()
            elif what == "server.drain":
                others.append(asyncio.create_task(server.drain()))
            else:
                os.kill(os.getpid(), signal.Signals[what])
        for _ in range(10):
            await asyncio.sleep(0)
        assert pool.draining
        assert server.said == ["drains for None"]
        server.jobs_are_over.set()
        await asyncio.wait_for(asyncio.gather(worker, *others), SOON)
        assert server.said == ["drains for None", "no jobs", "closed"]

    asyncio.run(main())


def test_a_worker_that_is_told_before_it_has_started_drains_then(handlers):
    async def main():
        pool, server = AgentPool(), Server()
        drain_with(pool, server)
        pool.begin_drain()
        server.jobs_are_over.set()
        await asyncio.wait_for(server.run(), SOON)
        assert server.said[-1] == "closed"

    asyncio.run(main())


def test_a_signal_while_it_starts_ends_it_in_order(handlers):
    async def main():
        pool, server = AgentPool(), Server()
        drain_with(pool, server)
        # The command line was told before the worker had started.
        signal.signal(signal.SIGTERM, lambda *_: server.said.append("killed"))
        drain = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        closed = asyncio.Event()
        server.aclose = lambda: asyncio.sleep(0, closed.set())
        for callback in server._started:
            callback()
        os.kill(os.getpid(), signal.SIGTERM)
        server.jobs_are_over.set()
        await asyncio.wait_for(asyncio.gather(drain, closed.wait()), SOON)
        assert server.said == ["drains for None", "no jobs"]

    asyncio.run(main())


def test_a_drain_that_fails_leaves_the_worker_and_says_so(handlers, caplog):
    async def main():
        pool, server = AgentPool(), Server()

        async def fails(**_):
            raise OSError("no more processes")

        server.drain = fails
        drain_with(pool, server)
        worker = asyncio.create_task(server.run())
        await asyncio.sleep(0)
        pool.begin_drain()
        while "the worker goes on" not in caplog.text:
            await asyncio.sleep(0)
        assert not worker.done() and server.said == []
        worker.cancel()

    asyncio.run(asyncio.wait_for(main(), SOON))


@pytest.mark.parametrize("on_straggler", ["wait", "end"])
def test_jobs_are_ended_at_the_pools_ceiling_and_only_if_it_says_so(handlers, on_straggler):
    async def main():
        pool, server = AgentPool(drain_timeout=0.01, on_straggler=on_straggler), Server()
        drain_with(pool, server)
        worker = asyncio.create_task(server.run())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        if on_straggler == "end":
            await asyncio.wait_for(worker, SOON)
            assert server.said == ["drains for 0.01", "too long", "closed"]
        else:
            for _ in range(10):
                await asyncio.sleep(0)
            assert server.said == ["drains for None"]
            server.jobs_are_over.set()
            await asyncio.wait_for(worker, SOON)

    asyncio.run(main())


def test_in_development_ctrl_c_stays_livekits(handlers, monkeypatch):
    async def main():
        pool, server = AgentPool(), Server()
        server.jobs_are_over.set()
        drain_with(pool, server)
        worker = asyncio.create_task(server.run())
        await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(worker, SOON)

    monkeypatch.setenv("LIVEKIT_DEV_MODE", "1")
    asyncio.run(main())
