"""What a fuzzer cannot guess: keys that were not used before, and names of what there is."""

import re
import uuid

import schemathesis

KEY = re.compile(r"[!-~]{1,128}")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
KNOWN = {"agent": "desk", "release": "v1", "gateway": "gw-1"}


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Every second request whose path is as described is about something that exists."""
    headers = case.headers
    if headers and KEY.fullmatch(str(headers.get("Idempotency-Key", ""))):
        headers["Idempotency-Key"] = str(uuid.uuid4())
    for name, known in KNOWN.items():
        given = (case.path_parameters or {}).get(name)
        if isinstance(given, str) and NAME.fullmatch(given) and sum(given.encode()) % 2 == 0:
            case.path_parameters[name] = known
        given = (case.query or {}).get(name)
        if isinstance(given, str) and NAME.fullmatch(given) and sum(given.encode()) % 2 == 0:
            case.query[name] = known
