"""For voice agents that are deployed with Segue: who is on the line, and when a worker may end.

    pool = AgentPool(deployment_version="v2")

    async with pool:                       # heartbeats, reports
        async with pool.call(call_id):     # a call, until the block ends
            ...

`begin_drain()` refuses new calls at once and lets the others finish. Names are those of OpenRTC where
it has them; docs/sdk.md says what differs, and why.
"""

from ._native import Barred, Draining, Refused, SegueUnreachable, StaleState
from .membership import MembershipError, MembershipVerifier, sign_membership
from .pool import (
    AgentPool,
    AuditEvent,
    AuditLog,
    Call,
    CallEnded,
    CallState,
    Event,
    PoolRuntimeSnapshot,
)

__all__ = [
    "AgentPool",
    "AuditEvent",
    "AuditLog",
    "Barred",
    "Call",
    "CallEnded",
    "CallState",
    "Draining",
    "Event",
    "MembershipError",
    "MembershipVerifier",
    "PoolRuntimeSnapshot",
    "Refused",
    "SegueUnreachable",
    "StaleState",
    "sign_membership",
]
