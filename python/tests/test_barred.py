"""A membership that is shown, taken, refused, and forgotten: only new calls are in question."""

import asyncio
import json
from queue import Queue

import pytest

from conftest import SOON
from segue import AgentPool, Barred
from segue.asgi import Calls

WORKER = "/v1/agents/desk/workers/w1"
SHOW = f"{WORKER}/membership"
SERVING = {"state": "serving", "why": None}


class Gate:
    """What Segue answers, and what befell the pool."""

    def __init__(self, fake, tmp_path, **more):
        self.fake, self.token = fake, tmp_path / "member.jwt"
        self.token.write_text("first\n")
        self.beat = None
        self.show = (200, SERVING)
        fake.answer = self._answer
        self.told: Queue[str] = Queue()
        self.audit: Queue[dict] = Queue()
        self.pool = AgentPool(
            agent="desk",
            worker="w1",
            api_url=fake.url,
            membership_token_file=self.token,
            audit_sink=lambda event: self.audit.put(event.to_dict()),
            **more,
        )
        self.pool.on_event(lambda event: self.told.put(f"{event.name} {event.reason or ''}".strip()))

    def _answer(self, method, path, body):
        if path == SHOW:
            return self.show(body) if callable(self.show) else self.show
        return 200, {"state": "current", "every": 1, "membership": self.beat}

    def hears(self, event):
        assert self.told.get(timeout=SOON) == event

    def rejected(self):
        while (event := self.audit.get(timeout=SOON))["event"] != "worker.rejected":
            pass
        return event


def test_one_that_falls_out_and_comes_back_keeps_its_calls(fake_segue, tmp_path):
    gate = Gate(fake_segue, tmp_path)
    pool = gate.pool
    with pool, pool.call("CA1"):
        assert fake_segue.next("POST", SHOW)[3] == {"token": "first"}
        gate.beat = {"state": "draining", "why": "fell-out"}
        gate.hears("barred fell-out")
        event = gate.rejected()
        assert (event["result"], event["reason"], event["target"]) == ("refused", "fell-out", "w1")
        assert not pool.takes_calls and not pool.draining
        with pytest.raises(Barred, match="fell-out"), pool.call("CA2"):
            raise AssertionError("it must not come in")
        with pool.call("CA1"), pool.call("AJ_1", assigned=True):
            assert pool.runtime_snapshot().active_sessions == 2
        gate.beat = SERVING
        gate.hears("admitted")
        with pool.call("CA2"):
            assert pool.takes_calls


def test_one_that_is_refused_says_why_and_another_one_lets_it_in(fake_segue, tmp_path):
    gate = Gate(fake_segue, tmp_path)
    gate.show = (403, {"title": "no", "reason": "not-admitted"})
    with gate.pool as pool:
        gate.hears("barred not-admitted")
        assert gate.rejected()["reason"] == "not-admitted"
        membership = pool.runtime_snapshot().membership
        assert membership["barred"] == "not-admitted" and "refused" in membership["last_error"]
        gate.show = (200, SERVING)
        gate.token.write_text("second\n")
        gate.hears("admitted")
        shown = [fake_segue.next("POST", SHOW)[3]["token"] for _ in range(2)]
        assert shown == ["first", "second"], "a refused one is not shown at each heartbeat"
        assert pool.runtime_snapshot().membership["last_error"] is None


def test_one_that_is_forgotten_is_shown_again(fake_segue, tmp_path):
    gate = Gate(fake_segue, tmp_path)
    with gate.pool:
        for _ in range(3):
            assert fake_segue.next("POST", SHOW)[3] == {"token": "first"}
        gate.beat = SERVING
        while fake_segue.asked.get(timeout=SOON)[0] != "PUT":
            pass
    assert gate.told.empty()


@pytest.mark.parametrize(
    "answer",
    [(404, {"title": "no such place"}), (403, {"title": "this token may not"}), (403, {"reason": "store"}), (503, {}), (200, [])],
)
def test_what_is_no_word_of_the_gate_changes_nothing(fake_segue, tmp_path, answer):
    gate = Gate(fake_segue, tmp_path)
    gate.show = answer
    with gate.pool as pool:
        fake_segue.next("POST", SHOW)
        # The heartbeat after it has come, so it was taken in.
        fake_segue.next("PUT", WORKER)
        assert pool.takes_calls and gate.told.empty()
        assert pool.runtime_snapshot().membership["last_error"]


def test_a_token_that_is_refused_does_not_take_away_what_an_earlier_one_gave(fake_segue, tmp_path):
    gate = Gate(fake_segue, tmp_path)
    gate.beat = SERVING
    gate.show = (403, {"reason": "frozen"})
    with gate.pool as pool:
        assert gate.rejected()["reason"] == "frozen"
        fake_segue.next("PUT", WORKER)
        assert pool.takes_calls and gate.told.empty()


def test_livekit_is_told_not_me(fake_segue, tmp_path):
    from test_livekit import answer

    gate = Gate(fake_segue, tmp_path)
    gate.show = (403, {"reason": "not-admitted"})
    with gate.pool as pool:
        gate.hears("barred not-admitted")
        assert answer(pool) == [("reject", False)]


def test_a_membership_that_nobody_could_be_shown_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGUE_MEMBERSHIP_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="SEGUE_API_URL is not set"):
        AgentPool()
    with pytest.raises(ValueError, match="SEGUE_WORKER_ID is not set"):
        AgentPool(api_url="http://127.0.0.1:1", agent="desk")


def test_a_key_is_proven_when_the_gate_asks(fake_segue, tmp_path):
    jwt = pytest.importorskip("jwt")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as form

    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    )
    (tmp_path / "w.pem").write_bytes(pem)
    gate = Gate(fake_segue, tmp_path, membership_key_file=tmp_path / "w.pem")
    header = {"typ": "membership+jwt", "kid": "k"}
    gate.token.write_text(jwt.encode({"aud": "production"}, key, "EdDSA", headers=header))

    def show(body):
        if "proof" not in body:
            return 401, {"reason": "proof-missing", "nonce": "nonce-1"}
        return 200, SERVING

    gate.show = show
    with gate.pool:
        fake_segue.next("POST", SHOW)
        proof = fake_segue.next("POST", SHOW)[3]["proof"]
    claims = jwt.decode(proof, key.public_key(), algorithms=["EdDSA"], audience="production")
    assert claims["nonce"] == "nonce-1"
    assert jwt.get_unverified_header(proof)["typ"] == "membership-proof+jwt"


def test_the_wire_has_no_other_words(fake_segue, tmp_path):
    gate = Gate(fake_segue, tmp_path)
    gate.beat = {"state": "draining", "why": None}
    with gate.pool:
        gate.hears("barred draining")
        assert json.dumps(gate.pool.runtime_snapshot().to_dict())


def test_calls_that_segues_gateway_brings_are_its_to_judge(fake_segue, tmp_path):
    entered = []

    async def app(scope, receive, send):
        entered.append(scope["path"])

    async def call(path, *headers):
        said = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            said.append(message)

        scope = {"type": "websocket", "path": path, "headers": list(headers)}
        await Calls(app, gate.pool)(scope, receive, send)
        return said

    gate = Gate(fake_segue, tmp_path)
    gate.beat = {"state": "draining", "why": "fell-out"}
    by_gateway = (b"x-segue-release", b"v1")
    with gate.pool as pool:
        gate.hears("barred fell-out")
        # The manifest may have admitted it again a moment ago.
        assert asyncio.run(call("/ws/CA1", by_gateway)) == []
        assert asyncio.run(call("/ws/CA2"))[0]["type"] == "websocket.close"
        pool.begin_drain("test")
        assert asyncio.run(call("/ws/CA3", by_gateway))[0]["type"] == "websocket.close"
    assert entered == ["/ws/CA1"]
