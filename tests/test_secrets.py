"""Keys do not stay anywhere: they are masked by value wherever text leaves the process."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from optimizer.privacy.redaction import RedactingFormatter, redact, remember
from tests.fake_server import Body, FakeServer, Fault, error, rate_limited, raw, reply, reset, truncated
from tests.test_main_job import answer, command, config, labelled_rows, write

KEY = "sk-canary+key/0123456789=="
OTHER = "canary-token-of-another-service"
HOOK = "http://127.0.0.1:9/canary-address-of-a-hook"
METRIC = """
import logging
import os


def leaky(example, answer):
    logging.getLogger("leaky").warning("the key is %s", os.environ["FRUIT_SERVICE"])
    if "Box 14 " in example.inputs["note"]:
        raise RuntimeError("cannot log in with " + os.environ["FRUIT_SERVICE"])
    return float(answer["team"] == example.outputs["team"]), "asked with " + os.environ["OTHER_TOKEN"]
"""


def forms(secret: str) -> list[bytes]:
    """A secret as it is, in JSON, URL-quoted and in base64."""
    raw_forms = [secret, json.dumps(secret)[1:-1], quote(secret, safe=""), base64.b64encode(secret.encode()).decode()]
    return [form.encode() for form in raw_forms]


@pytest.mark.slow
def test_no_canary_is_found_anywhere_after_a_night_of_faults(tmp_path: Path) -> None:
    """With a server and a metric that repeat every key in every form, no file and no output holds one of them."""
    echo = f"{KEY} {quote(KEY, safe='')} {base64.b64encode(KEY.encode()).decode()} {OTHER}"
    numbers = iter(range(10**6))
    faults: list[Fault] = [
        error(500, echo), rate_limited(message=echo), raw(echo.encode()), reset(), truncated(), reply(echo), reply(""),
        error(503, echo), raw(json.dumps({"error": {"message": echo}}).encode()), error(400, echo),
    ]  # fmt: skip

    def leak(body: Body) -> str | Fault:
        number = next(numbers)
        if number == 40:
            return error(401, f"Incorrect API key provided: {echo}", code="invalid_api_key")
        if number % 5 == 4:
            return faults[number // 5 % len(faults)]
        return f"{answer(body)} {echo}" if body["model"] == "proposer" else answer(body)

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled_rows()))
    (tmp_path / "leaky_metric.py").write_text(METRIC)
    environment = {**os.environ, "FRUIT_SERVICE": KEY, "OTHER_TOKEN": OTHER, "FRUIT_HOOK": HOOK}
    output = b""
    with FakeServer(leak) as server:
        settings = config(server.url, metric="leaky_metric:leaky", notify={"webhook_env": "FRUIT_HOOK"})
        settings["search"] |= {"trials": 6}
        settings["data"]["max_rows"] = {"dev": 30, "test": 20}
        for lm in settings["lm"].values():
            lm["api_key_env"] = "FRUIT_SERVICE"
        write(tmp_path, settings)
        codes = []
        for args in (["run", "study.yaml", "--debug"], ["run", "study.yaml"], ["export", "fruit"], ["show", "fruit"]):
            done = subprocess.run(command(*args), cwd=tmp_path, capture_output=True, timeout=240, env=environment)
            output += done.stdout + done.stderr
            codes.append(done.returncode)
        assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert codes == [3, 0, 0, 0], output.decode()
    files = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {"study.db", "log.txt", "mlflow.db", "best_prompt.txt", "live.json"} <= {path.name for path in files}
    assert b"the key is ***" in files[tmp_path / "runs/fruit/log.txt"]
    for secret in (KEY, OTHER, HOOK):
        for form in forms(secret):
            assert form not in output
            assert [str(path) for path, content in files.items() if form in content] == []


def test_log_records_and_their_tracebacks_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a library logs, the file gets it without keys, also within a traceback."""
    monkeypatch.setenv("SOME_API_KEY", "a-key-in-the-environment")
    remember("a key that was read from a file", "short")
    try:
        raise ValueError("a-key-in-the-environment and a key that was read from a file, in short")
    except ValueError as raised:
        record = logging.LogRecord(
            "x", logging.ERROR, "x.py", 1, "failed", (), (ValueError, raised, raised.__traceback__)
        )
    text = RedactingFormatter("%(message)s").format(record)
    assert "ValueError: *** and ***, in short" in text
    assert redact("nothing to hide") == "nothing to hide"
