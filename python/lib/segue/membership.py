"""Membership by a shared secret, as OpenRTC has it. Weaker than Segue's own tokens: whoever can sign
for one version can sign for any."""

import time
from collections.abc import Callable, Iterable

from ._native import MembershipError, NativeVerifier, sign_membership

__all__ = ["MembershipError", "MembershipVerifier", "sign_membership"]


class MembershipVerifier:
    """Verifies what `sign_membership` signs, with any of several secrets."""

    def __init__(
        self,
        *,
        secrets: Iterable[str],
        expected_version: str | None = None,
        max_age_seconds: float = 300.0,
        clock: Callable[[], float] = time.time,
    ):
        self._native = NativeVerifier(list(secrets), expected_version, float(max_age_seconds))
        self._clock = clock

    def verify(self, *, token: str, version: str, worker_id: str, timestamp: float) -> None:
        """Raises `MembershipError`, which says why."""
        self._native.verify(token, version, worker_id, float(timestamp), float(self._clock()))

    def is_valid(self, *, token: str, version: str, worker_id: str, timestamp: float) -> bool:
        try:
            self.verify(token=token, version=version, worker_id=worker_id, timestamp=timestamp)
        except MembershipError:
            return False
        return True
