"""Which call a connection is."""

import pytest

from segue.asgi import CALL_ID_CHARS_MAX, call_id, comes_back, routed


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/ws/CA1", {}, "CA1"),
        ("/ws/CA1/", {}, "CA1"),
        ("/ws/CA1", {"x-call-id": "CA2"}, "CA2"),
        ("/ws/CA1", {"x-call-id": "CA2", "x-segue-call-id": "CA3"}, "CA3"),
        ("/", {}, None),
        ("/ws/a b", {}, None),
        ("/ws/..", {}, None),
        ("/ws/" + "x" * (CALL_ID_CHARS_MAX + 1), {}, None),
        ("/ws/CA1", {"x-segue-call-id": "caf\u00e9"}, None),
    ],
)
def test_the_id_is_the_gateways_or_the_callers_or_made_up(path, headers, expected):
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    found = call_id({"path": path, "headers": raw})
    if expected is None:
        # Nobody said, so it is nobody else's.
        assert len(found) == 32 and found != call_id({"path": path, "headers": raw})
    else:
        assert found == expected


def test_only_the_gateway_says_that_it_chose():
    assert routed({"headers": [(b"x-own", b""), (b"x-segue-release", b"v1")]})
    assert not routed({"headers": [(b"x-release", b"v1")]}) and not routed({})


def test_only_the_gateway_says_that_a_call_comes_back():
    assert comes_back({"headers": [(b"x-segue-resume", b"true")]})
    for headers in ([], [(b"x-segue-resume", b"false")], [(b"x-resume", b"true")]):
        assert not comes_back({"headers": headers})
