"""A chat over OpenAI's interface: one request, its text as it comes. Standard library alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Any


class ServerError(RuntimeError):
    """The server refused or failed; the message is the server's."""


class ChatClient:
    def __init__(self, url: str, api_key: str = "") -> None:
        """`url`: of the endpoint, with or without /v1."""
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def models(self) -> list[str]:
        """At least one."""
        try:
            with self._open("/models") as answer:
                names = [model["id"] for model in json.load(answer)["data"]]
        except (ValueError, LookupError, TypeError) as error:
            raise ServerError(f"{self._url}/models: no list of models") from error
        if not names:
            raise ServerError(f"{self._url}/models: the server has no model")
        return names

    def stream(
        self, model: str, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
    ) -> Iterator[str | dict[str, Any]]:
        """Pieces of text, at last the usage (a dict) where the server tells it. Closing the iterator
        ends the answer."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **{key: value for key, value in options.items() if value is not None},
        }
        with self._open("/chat/completions", body) as answer:
            try:
                for line in answer:
                    if line.startswith(b"data: [DONE]"):
                        return
                    if line.startswith(b"data: "):
                        yield from self._news(json.loads(line[len(b"data: ") :]))
            except (OSError, HTTPException, ValueError, LookupError) as error:
                raise ServerError(f"{self._url}: the answer broke off: {error}") from error
        # A connection that is closed is no end: the answer goes on, and nobody sends it.
        raise ServerError(f"{self._url}: the server ended before the answer did")

    @staticmethod
    def _news(event: Mapping[str, Any]) -> Iterator[str | dict[str, Any]]:
        if "error" in event:
            raise ServerError(event["error"]["message"])
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text
        if event.get("usage"):
            yield event["usage"]

    def _open(self, path: str, body: Mapping[str, Any] | None = None):
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._url + path, data, self._headers)
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                text = json.loads(text)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                text = f"{error.code} {error.reason}: {text[:200]}"
            raise ServerError(text) from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: of a URL
            raise ServerError(f"{self._url}: {str(error) or type(error).__name__}") from error
