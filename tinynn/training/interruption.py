"""Requests to end: Ctrl-C, SIGTERM, and the two-minute notice of a spot instance."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

METADATA_SERVICE = "http://169.254.169.254"
_TOKEN_SECONDS = 21600  # the longest that IMDSv2 allows
_PATIENCE = 2.0  # seconds for one request: the service is on the machine itself


class StopRequest:
    """Why a training is asked to end; ``reason`` is None as long as it is not."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self, reason: str) -> None:
        self.reason = self.reason or reason


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """The first SIGINT (Ctrl-C) or SIGTERM makes a request; a second one acts as always, at once.

    Signals reach the main thread only: elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def ask(number: int, frame: Any) -> None:
        restore()
        name = signal.Signals(number).name
        request(name)
        text = f"\n{name}: ending after this step, with a checkpoint; a second one ends at once\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        restore()


@contextmanager
def stop_on_spot_notice(
    request: StopRequest, say: Callable[[str], None], every: float = 5.0
) -> Iterator[None]:
    """Ask the instance metadata service every few seconds whether AWS takes the machine back.

    AWS announces it about two minutes ahead. Where there is no such service, that is said once and
    nothing is watched. ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` names another address.
    """
    ended = threading.Event()
    service = MetadataService()

    def watch() -> None:
        if not service.answers():
            say(f"no instance metadata service answers at {service.address}: no spot notice here")
            return
        while not ended.wait(every):
            notice = service.spot_notice()
            if notice is not None:
                request(f"spot notice ({notice})")
                return

    thread = threading.Thread(target=watch, name="tinynn-spot-notice", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * _PATIENCE)


class MetadataService:
    """The part of AWS's instance metadata service (IMDSv2) that tells of an interruption.

    "Instance Metadata Service Version 2" and "Spot Instance interruption notices" in the user
    guide of Amazon EC2: a token by PUT, then GET with it; 404 as long as nothing is planned.
    """

    def __init__(self, address: str | None = None) -> None:
        chosen = address or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA_SERVICE)
        self.address = chosen.rstrip("/")
        self._token = ""
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def answers(self) -> bool:
        """Whether there is a service: whether it gives a token."""
        try:
            self._token = self._request(
                "/latest/api/token",
                {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
                "PUT",
            )
        except (OSError, ValueError):
            return False
        return bool(self._token)

    def spot_notice(self) -> str | None:
        """What is going to happen and when, such as "terminate at 2026-01-01T12:00:00Z"."""
        try:
            text = self._request(
                "/latest/meta-data/spot/instance-action",
                {"X-aws-ec2-metadata-token": self._token},
                "GET",
            )
        except urllib.error.HTTPError as error:
            if error.code == 401:  # the token has expired
                self.answers()
            return None
        except (OSError, ValueError):
            return None
        return _in_words(text)

    def _request(self, path: str, headers: dict[str, str], method: str) -> str:
        request = urllib.request.Request(self.address + path, headers=headers, method=method)
        with self._open(request, timeout=_PATIENCE) as answer:
            content: bytes = answer.read(10_000)
            return content.decode("utf-8", "replace")


def _in_words(text: str) -> str:
    try:
        notice = json.loads(text)
        return f"{notice['action']} at {notice['time']}"
    except (ValueError, LookupError, TypeError):
        return " ".join(text.split())[:100]
