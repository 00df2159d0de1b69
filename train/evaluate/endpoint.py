"""Responses of an OpenAI-compatible server, asked over HTTP: ``POST URL/chat/completions``.

The recording goes along as a WAV file in base64 (``input_audio``). Several requests are under way
at a time. Where the server fails and not the request (429, 5xx, a timeout, a cut connection, no
JSON) it is asked again, each pause twice the one before, or as long as the server says; a request
the server refuses fails alone. The key, if it wants one, is read from ``ENDPOINT_API_KEY``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
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

_AGAIN = {408, 409, 425, 429}
"""Statuses that are asked again, as all from 500 are."""

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


Outcome = tuple[Response, bool]
"""A response, and whether the server was well."""


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
        well = gone = 0
        last: Response | None = None
        left = iter(asked)
        # who ends early waits neither for what is under way nor for pauses: the runner cancels them
        with asyncio.Runner() as runner, self._client(runner) as client:
            under_way: set[asyncio.Task[Outcome]] = set()
            while True:
                taken = list(islice(left, self._endpoint.concurrency - len(under_way)))
                for item, row in taken:
                    try:
                        request = self._ask(client, item.sample_id, self._body(item, row))
                    except TapeError as error:
                        yield [failed(item.sample_id, str(error))]
                        continue
                    under_way.add(runner.get_loop().create_task(request))
                if not under_way and not taken:
                    break
                done, under_way = runner.run(_first(under_way))
                for response, reached in _results(done):
                    well, gone = (well + 1, 0) if reached else (well, gone + 1)
                    if gone >= GIVES_UP_AFTER:
                        raise self._lost(gone, response)
                    yield [response]
                    last = response
        if last is not None and gone and not well:
            raise self._lost(gone, last)

    @contextlib.contextmanager
    def _client(self, runner: asyncio.Runner) -> Iterator[httpx.AsyncClient]:
        client = httpx.AsyncClient(timeout=self._endpoint.timeout_s, headers=self._headers)
        try:
            yield client
        finally:
            runner.run(client.aclose())

    def _lost(self, count: int, last: Response) -> ModelError:
        return ModelError(
            f"{self._url} failed on {count} samples in a row, lastly: {last.error}. What was "
            "answered is kept; run the same command again to continue"
        )

    async def _ask(
        self, client: httpx.AsyncClient, sample_id: str, body: dict[str, Any]
    ) -> Outcome:
        """Return the response to one request, and whether the server was well."""
        endpoint = self._endpoint
        for attempt in range(1, endpoint.attempts + 1):
            try:
                return (await self._post(client, body)).response(sample_id), True
            except _RefusedError as error:
                return failed(sample_id, str(error)), True
            except _ServerError as error:
                if attempt == endpoint.attempts:
                    told = f"{error} ({attempt} attempts)"
                    return failed(sample_id, told), False
                pause_s = min(endpoint.pause_s * 2 ** (attempt - 1), _MAX_PAUSE_S)
                await asyncio.sleep(pause_s if error.pause_s is None else error.pause_s)
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

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Completion:
        try:
            reply = await client.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise _ServerError(f"{type(error).__name__}: {error}") from error
        told = f"status {reply.status_code}: {reply.text[:_SHOWN]}"
        if reply.status_code in _OF_ALL:
            raise ModelError(f"{self._url} refuses every request: {told}")
        if reply.status_code in _AGAIN or reply.status_code >= 500:
            raise _ServerError(told, _retry_after_s(reply))
        if reply.status_code != httpx.codes.OK:
            raise _RefusedError(told)
        try:
            return _completion(reply.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _ServerError(f"no chat completion: {reply.text[:_SHOWN]!r}") from error


async def _first(
    under_way: set[asyncio.Task[Outcome]],
) -> tuple[set[asyncio.Task[Outcome]], set[asyncio.Task[Outcome]]]:
    """Return the requests that are done, at least one if there are any, and the others."""
    if not under_way:
        return set(), set()
    return await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)


def _results(done: set[asyncio.Task[Outcome]]) -> list[Outcome]:
    """Return what requests gave.

    Raises:
        ModelError: one of them showed that all will fail.
    """
    fatal = [error for task in done if (error := task.exception())]  # all are to be looked at
    if fatal:
        raise fatal[0]
    return [task.result() for task in done]


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
