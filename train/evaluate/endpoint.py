"""Responses of an OpenAI-compatible server, asked over HTTP: ``POST URL/chat/completions``.

The recording goes along as a WAV file in base64 (``input_audio``). Several requests are under way
at a time. Where the server fails and not the request (429, 5xx, a timeout, a cut connection, no
JSON) it is asked again, each pause twice the one before, or as long as the server says; a request
the server refuses fails alone. The key, if it wants one, is read from ``ENDPOINT_API_KEY``.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx
import soundfile

from audio_models.drawing import draws_of
from audio_models.generate import Decoding
from cache_schema import TapeRow
from cache_schema.errors import ModelError, TapeError
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray
from train.evaluate.prompting import failed, prompt_text, take_apart
from train.evaluate.settings import Endpoint
from train.evaluate.types import Item, Response

KEY_VARIABLE = "ENDPOINT_API_KEY"
GIVES_UP_AFTER = 16
"""So many samples in a row the server failed on: it is gone, and no sample's fault."""

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_OF_ALL = {401, 403, 404, 405}
"""Statuses that every request would get."""

_MAX_PAUSE_S = 60.0
_SHOWN = 300


class _ServerError(Exception):
    """The server failed; ``pause_s`` is how long it wants to be left alone, if it says so."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.pause_s = pause_s


class _RefusedError(Exception):
    """The server does not want this request."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a server said."""

    text: str
    thinking: str
    finish: str
    num_tokens: int

    def response(self, sample_id: str) -> Response:
        """Return the response; thinking that the server gives apart stands before the answer."""
        text = f"<think>{self.thinking}</think>{self.text}" if self.thinking else self.text
        return take_apart(sample_id, text, self.num_tokens, self.finish)


class Caller:
    """Asks a server.

    Args:
        endpoint: where, and how patiently.
        decoding: how tokens are chosen there.
        instruction: a line below every question; may be empty.
    """

    def __init__(self, endpoint: Endpoint, decoding: Decoding, instruction: str = "") -> None:
        self._endpoint, self._decoding, self._instruction = endpoint, decoding, instruction
        self._url = f"{endpoint.url.rstrip('/')}/chat/completions"
        key = os.environ.get(KEY_VARIABLE, "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def answer(self, asked: Sequence[tuple[Item, TapeRow]]) -> Iterator[list[Response]]:
        """Yield the responses as they come, each item's once.

        Raises:
            ModelError: the server cannot be reached, wants another key, or has no such model.
        """
        limits = httpx.Limits(max_connections=self._endpoint.concurrency)
        timeout_s = self._endpoint.timeout_s
        left = iter(asked)
        well = gone = 0
        last: Response | None = None
        with (
            httpx.Client(timeout=timeout_s, limits=limits, headers=self._headers) as client,
            _Pool(self._endpoint.concurrency) as pool,
        ):
            under_way: set[Future[tuple[Response, bool]]] = set()
            while True:
                taken = list(islice(left, 2 * self._endpoint.concurrency - len(under_way)))
                for item, row in taken:
                    try:
                        body = self._body(item, row)
                    except TapeError as error:
                        yield [failed(item.sample_id, str(error))]
                        continue
                    under_way.add(pool.submit(self._ask, client, item.sample_id, body))
                if not under_way and not taken:
                    break
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for response, reached in [future.result() for future in done]:
                    well, gone = (well + 1, 0) if reached else (well, gone + 1)
                    if gone >= GIVES_UP_AFTER:
                        raise self._lost(gone, response)
                    yield [response]
                    last = response
        if last is not None and gone and not well:
            raise self._lost(gone, last)

    def _lost(self, count: int, last: Response) -> ModelError:
        return ModelError(
            f"{self._url} failed on {count} samples in a row, lastly: {last.error}. What was "
            "answered is kept; run the same command again to continue"
        )

    def _ask(
        self, client: httpx.Client, sample_id: str, body: dict[str, Any]
    ) -> tuple[Response, bool]:
        """Return the response to one request, and whether the server was well."""
        endpoint = self._endpoint
        for attempt in range(1, endpoint.attempts + 1):
            try:
                return self._post(client, body).response(sample_id), True
            except _RefusedError as error:
                return failed(sample_id, str(error)), True
            except _ServerError as error:
                if attempt == endpoint.attempts:
                    told = f"{error} ({attempt} attempts)"
                    return failed(sample_id, told), False
                pause_s = min(endpoint.pause_s * 2 ** (attempt - 1), _MAX_PAUSE_S)
                time.sleep(pause_s if error.pause_s is None else error.pause_s)
        raise AssertionError("attempts are 1 or more")

    def _body(self, item: Item, row: TapeRow) -> dict[str, Any]:
        sound = {"data": wav_base64(row.audio), "format": "wav"}
        content: list[dict[str, Any]] = [{"type": "input_audio", "input_audio": sound}]
        if text := prompt_text(item, self._instruction):
            content.append({"type": "text", "text": text})
        decoding = self._decoding
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
        }
        if decoding.temperature:
            drawn = float(draws_of(decoding.seed, [item.sample_id], 1)[0, 0])
            body |= {"top_p": decoding.top_p, "seed": int(drawn * 2**31)}
        return body

    def _post(self, client: httpx.Client, body: dict[str, Any]) -> Completion:
        try:
            reply = client.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise _ServerError(f"{type(error).__name__}: {error}") from error
        told = f"status {reply.status_code}: {reply.text[:_SHOWN]}"
        if reply.status_code in _OF_ALL:
            raise ModelError(f"{self._url} refuses every request: {told}")
        if reply.status_code in _AGAIN:
            raise _ServerError(told, _retry_after_s(reply))
        if reply.status_code != httpx.codes.OK:
            raise _RefusedError(told)
        try:
            return _completion(reply.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _ServerError(f"no chat completion: {reply.text[:_SHOWN]!r}") from error


def _completion(content: Any) -> Completion:
    """Take a chat completion apart; one that is none fails by one of many built-in errors."""
    choice = content["choices"][0]
    message = choice["message"]
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    return Completion(
        text=_text(message.get("content")),
        thinking=_text(thinking),
        finish="length" if choice.get("finish_reason") == "length" else "stop",
        num_tokens=int((content.get("usage") or {}).get("completion_tokens") or 0),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str | None):
        raise TypeError(f"expected a text, got {value!r:.40}")
    return value or ""


class _Pool(ThreadPoolExecutor):
    """Threads that, when the evaluation ends early, do not work off what is waiting."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def wav_base64(audio: FloatArray) -> str:
    """Return a recording as a WAV file of 16-bit samples in base64, which every server reads.

    Args:
        audio: float32 [num_samples], mono, 16 kHz.
    """
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def _retry_after_s(reply: httpx.Response) -> float | None:
    try:
        return min(max(float(reply.headers["retry-after"]), 0.0), _MAX_PAUSE_S)
    except (KeyError, ValueError):
        return None
