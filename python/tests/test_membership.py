"""OpenRTC's membership."""

import hashlib
import hmac
import json

import pytest

from segue import MembershipError, MembershipVerifier, sign_membership


def by_hand(version, worker_id, timestamp, secret):
    """As OpenRTC 0.20 has it, written down here once more."""
    message = json.dumps([version, worker_id, repr(float(timestamp))], separators=(",", ":"))
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "signed",
    [
        ("v2", "w1", 1_700_000_000.25, "secret"),
        ("v2", "w1", 1_700_000_000, "secret"),
        ("v\u00e9 \U0001f600\n", '"w"', 1e-7, "k\u00e9y"),
        ("", "w1", 1e22, "secret"),
    ],
)
def test_it_is_signed_as_openrtc_signs_it(signed):
    version, worker, timestamp, secret = signed
    ours = sign_membership(
        version=version, worker_id=worker, timestamp=timestamp, secret=secret
    )
    assert ours == by_hand(*signed)


def test_it_is_verified_and_refused_with_the_reason():
    def token(secret="new"):
        return sign_membership(version="v2", worker_id="w1", timestamp=1_000.0, secret=secret)

    def verifier(now=1_000.0, expected="v2"):
        return MembershipVerifier(
            secrets=["new", "old"], expected_version=expected, clock=lambda: now
        )

    said = {"version": "v2", "worker_id": "w1", "timestamp": 1_000.0}
    for secret in ("new", "old"):
        verifier().verify(token=token(secret), **said)
    assert verifier(expected=None).is_valid(token=token(), **said)
    for made, given, why in [
        (verifier(expected="v3"), token(), "does not match"),
        (verifier(now=1_301.0), token(), "stale"),
        (verifier(now=699.0), token(), "future"),
        (verifier(), token("other"), "signature"),
        (verifier(), "not hexadecimal", "signature"),
    ]:
        with pytest.raises(MembershipError, match=why):
            made.verify(token=given, **said)
        assert not made.is_valid(token=given, **said)
    with pytest.raises(MembershipError, match="secret"):
        MembershipVerifier(secrets=[])
