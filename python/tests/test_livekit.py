"""What LiveKit's worker is answered."""

import asyncio
import signal

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


def test_a_drain_is_livekits_own_and_is_begun_once():
    signals = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    try:
        pool = AgentPool()
        drain_with(pool)
        pool.begin_drain()
        pool.begin_drain()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]
