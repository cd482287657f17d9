"""What the tests share."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest

# Longer than any machine needs; nothing waits for it to pass.
SOON = 30.0

MEMBERSHIP = ("MEMBERSHIP_TOKEN_FILE", "MEMBERSHIP_KEY_FILE")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    """The tests may run in a worker of Segue's own."""
    for name in ("AGENT", "RELEASE", "WORKER_ID", "API_URL", "TOKEN_FILE", *MEMBERSHIP):
        monkeypatch.delenv(f"SEGUE_{name}", raising=False)


class FakeSegue:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self):
        self.asked: Queue[tuple[str, str, dict, dict]] = Queue()
        self.answer: Callable[[str, str, dict], tuple[int, object]] = lambda *_: (200, {})
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self):
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                fake.asked.put((self.command, self.path, dict(self.headers), body))
                status, answer = fake.answer(self.command, self.path, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self, method: str, path: str):
        """The next request of that kind; others are skipped."""
        while True:
            asked = self.asked.get(timeout=SOON)
            if asked[:2] == (method, path):
                return asked

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake_segue():
    fake = FakeSegue()
    yield fake
    fake.stop()
