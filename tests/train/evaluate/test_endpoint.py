from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import evaluations
import numpy as np
import pytest
import soundfile

from audio_models.generate import Decoding
from cache_schema import TapeRow, open_tape
from cache_schema.errors import ModelError, UsageError
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.endpoint import KEY_VARIABLE, Caller
from train.evaluate.settings import Endpoint
from train.evaluate.types import Item, Response

GREEDY = Decoding(max_new_tokens=40)
Asked = list[tuple[Item, TapeRow]]
Act = Callable[[BaseHTTPRequestHandler, dict[str, Any], int], None]
"""What the server does: (request, its body, how often this recording came before)."""


def reply(request: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(content)


def say(request: BaseHTTPRequestHandler, message: dict[str, Any], finish: str = "stop") -> None:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {"completion_tokens": 7}
    reply(request, 200, json.dumps({"choices": [choice], "usage": usage}).encode())


def recording(body: dict[str, Any]) -> np.ndarray:
    sound = body["messages"][0]["content"][0]["input_audio"]
    return soundfile.read(io.BytesIO(base64.b64decode(sound["data"])), dtype="float32")[0]


class Server:
    """A server on this machine that acts as it is told.

    Attributes:
        bodies: every request's body, in the order they came.
        most: requests that were under way at once.
    """

    def __init__(self) -> None:
        self.act: Act = lambda request, _body, _before: say(request, {"content": "yes"})
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.paths: list[str] = []
        self.most = self._now = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    before = sum(len(recording(b)) == len(recording(body)) for b in server.bodies)
                    server.bodies.append(body)
                    server.headers.append(self.headers)
                    server.paths.append(self.path)
                    server._now += 1
                    server.most = max(server.most, server._now)
                try:
                    server.act(self, body, before)
                except OSError:
                    self.close_connection = True  # who asked has hung up
                finally:
                    with lock:
                        server._now -= 1

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    data = evaluations.save_dataset(folder, [0.1 + 0.01 * index for index in range(20)])
    tape = open_tape(evaluations.save_tape(data, folder / "tape"))
    return [(item_of(row, BENCHMARKS["own"]), row) for row in tape]


def ask(
    server: Server, asked: Asked, decoding: Decoding = GREEDY, **settings: Any
) -> dict[str, Response]:
    settings = {"pause_s": 0.01, "timeout_s": 5.0, "attempts": 3, **settings}
    endpoint = Endpoint(url=server.url, model="m", **settings)
    found = [one for some in Caller(endpoint, decoding, "Be short.").answer(asked) for one in some]
    assert sorted(one.sample_id for one in found) == sorted(item.sample_id for item, _ in asked)
    return {one.sample_id: one for one in found}


def test_what_is_sent_and_what_is_read(
    server: Server, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    server.act = lambda request, _body, _before: say(request, {"content": "<think>a</think> no"})
    found = ask(server, asked[:1])["row-0"]
    assert (found.trace, found.answer, found.num_tokens, found.finish) == ("a", "no", 7, "stop")
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    (body,) = server.bodies
    np.testing.assert_allclose(recording(body), asked[0][1].audio, atol=2**-15)
    text = body["messages"][0]["content"][1]
    assert text == {"type": "text", "text": "Which one?\nChoices: yes, no\nBe short."}
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "m", "max_tokens": 40, "temperature": 0.0,
    }  # fmt: skip


def test_a_seed_for_each_sample(server: Server, asked: Asked) -> None:
    decoding = Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=5)
    for _ in range(2):
        ask(server, asked[:3], decoding, concurrency=1)
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3
    assert {body["top_p"] for body in server.bodies} == {0.9}


def test_thinking_given_apart_and_a_cut_response(server: Server, asked: Asked) -> None:
    message = {"content": "maybe", "reasoning_content": "well"}
    server.act = lambda request, _body, _before: say(request, message, "length")
    found = ask(server, asked[:1])["row-0"]
    assert (found.text, found.trace) == ("<think>well</think>maybe", "well")
    assert (found.answer, found.finish) == ("", "length")
    server.act = lambda request, _body, _before: say(request, {"content": None})
    assert ask(server, asked[:1])["row-0"].text == ""


def test_requests_under_way_are_limited(server: Server, asked: Asked) -> None:
    def slow(request: BaseHTTPRequestHandler, _body: object, _before: int) -> None:
        time.sleep(0.05)
        say(request, {"content": "yes"})

    server.act = slow
    ask(server, asked, concurrency=4)
    assert 2 <= server.most <= 4


def stall(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "50")
    request.end_headers()
    request.wfile.flush()
    time.sleep(0.6)


def reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(2)


FAULTS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "busy": lambda request: reply(request, 429, b"slow down", Retry_After="0.02"),
    "broken": lambda request: reply(request, 503, b"starting"),
    "stalls": stall,
    "resets": reset,
    "garbage": lambda request: reply(request, 200, b"\xff<html>"),
    "other JSON": lambda request: reply(request, 200, b'{"choices": []}'),
    "no text": lambda request: say(request, {"content": {"a": 1}}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_is_asked_again(server: Server, asked: Asked, fault: str) -> None:
    def twice(request: BaseHTTPRequestHandler, _body: object, before: int) -> None:
        if before < 2:
            FAULTS[fault](request)
        else:
            say(request, {"content": "no"})

    server.act = twice
    assert ask(server, asked[:1], timeout_s=0.3)["row-0"].answer == "no"
    assert len(server.bodies) == 3


def test_a_sample_the_server_keeps_failing_on_is_an_error(server: Server, asked: Asked) -> None:
    def one_of_them(request: BaseHTTPRequestHandler, body: dict[str, Any], _before: int) -> None:
        length = len(recording(body))
        if length == asked[3][1].num_audio_samples:
            reply(request, 500, b"CUDA error")
        elif length == asked[5][1].num_audio_samples:
            reply(request, 400, b"audio is too long")
        else:
            say(request, {"content": "yes"})

    server.act = one_of_them
    found = ask(server, asked)
    lost = {sample_id: one.error for sample_id, one in found.items() if one.finish == "error"}
    assert lost == {
        "row-3": "status 500: CUDA error (3 attempts)",
        "row-5": "status 400: audio is too long",  # asked once: another time it is no shorter
    }
    assert len(server.bodies) == len(asked) + 2


def test_a_server_that_has_gone_ends_it(server: Server, asked: Asked) -> None:
    server.act = lambda request, _body, _before: reply(request, 502, b"gone")
    with pytest.raises(ModelError, match="failed on 16 samples in a row, lastly: status 502"):
        ask(server, asked, attempts=1)
    with pytest.raises(ModelError, match="failed on 2 samples in a row"):
        ask(server, asked[:2], attempts=1)
    server.act = lambda request, _body, _before: reply(request, 404, b"no model m")
    with pytest.raises(ModelError, match="refuses every request: status 404: no model m"):
        ask(server, asked)


def test_nobody_there(asked: Asked) -> None:
    closed = Server()
    closed.close()
    with pytest.raises(ModelError, match="lastly: ConnectError"):
        ask(closed, asked, attempts=2)
    with pytest.raises(UsageError, match="http://"):
        Endpoint(url="localhost:8000", model="m")
    with pytest.raises(UsageError, match="--endpoint-model"):
        Endpoint(url=closed.url, model="")


def test_who_gives_up_does_not_wait_for_what_is_under_way(server: Server, asked: Asked) -> None:
    def stuck(request: BaseHTTPRequestHandler, body: dict[str, Any], _before: int) -> None:
        if len(recording(body)) == asked[0][1].num_audio_samples:
            time.sleep(3)
        else:
            reply(request, 401, b"no")

    server.act = stuck
    began_s = time.monotonic()
    with pytest.raises(ModelError, match="status 401"):
        ask(server, asked, timeout_s=60.0, concurrency=2)
    assert time.monotonic() - began_s < 2


def test_an_evaluation_by_an_endpoint(server: Server, tmp_path: Path) -> None:
    tape = evaluations.save_tape(evaluations.save_dataset(tmp_path), tmp_path / "tape")
    out = tmp_path / "out"
    flags = ("--data", tape, "--out", out, "--endpoint", server.url, "--endpoint-model", "m")
    done = evaluations.evaluate_here(*flags)
    assert done.exit_code == 0, done.output
    assert "official  accuracy               42.9 %" in done.stdout
    about = json.loads((out / "evaluation.json").read_text())
    assert (about["model"], about["endpoint"], about["model_digest"]) == ("m", server.url, "")
    assert len(server.bodies) == len(evaluations.SECONDS)
    both = evaluations.evaluate_here(*flags, "--model", "somewhere")
    assert both.exit_code == 2
    assert "either --model, or --endpoint" in both.output
