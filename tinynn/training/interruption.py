"""Requests to stop: Ctrl-C, SIGTERM, SIGHUP, and the preemption notice of a spot instance."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

from tinynn.messages import write_unbuffered

__all__ = ["StopRequest", "stop_on_signals", "stop_on_spot_notice"]

METADATA_SERVICE = "http://169.254.169.254"
_TOKEN_SECONDS = 21600  # the longest lifetime that IMDSv2 allows
_TOGETHER = 1.0  # seconds in which several signals are one request
_TIMEOUT = 2.0  # seconds per request; the service is on the same host


class StopRequest:
    """Why training should stop, and since when.

    Attributes:
        reason: None until the request is called with the first reason.
        since: The time of that call, in seconds of ``time.monotonic()``.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.since = 0.0

    def __call__(self, reason: str) -> None:
        if self.reason is None:
            self.reason, self.since = reason, time.monotonic()


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Install signal handlers: the first SIGINT (Ctrl-C), SIGTERM or SIGHUP calls ``request``.

    A second SIGINT has its usual effect, at once, and so has a SIGTERM more than a second later.
    One that comes together with the first is no second request, and neither is a SIGHUP: a terminal
    that is closed sends two, systemd sends one after SIGTERM, and launchers pass on what the whole
    process group gets. A signal that is ignored (``nohup``) stays ignored. Python delivers signals
    to the main thread only: in another thread nothing is installed.
    """
    before: dict[signal.Signals, Any] = {}
    first: float | None = None

    def restore() -> None:
        for number, handler in reversed(before.items()):  # SIGINT last: it may raise
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        name = signal.Signals(number).name
        if first is None:
            first = time.monotonic()
            request(name)
            text = "stopping after this step, with a checkpoint; send it again to stop now"
            write_unbuffered(f"\n{name}: {text}\n")
        elif name == "SIGINT" or (name == "SIGTERM" and time.monotonic() - first > _TOGETHER):
            restore()
            signal.raise_signal(number)

    try:
        for number in _stopping_signals():
            before[number] = signal.getsignal(number)
            signal.signal(number, handle)
        yield
    finally:
        restore()


def _stopping_signals() -> list[signal.Signals]:
    """Those that end a program and can be handled here."""
    if threading.current_thread() is not threading.main_thread():
        return []
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stop_on_spot_notice(
    request: StopRequest, say: Callable[[str], None], every: float = 5.0
) -> Iterator[None]:
    """Poll the instance metadata service every few seconds for AWS's preemption notice.

    The notice comes about two minutes ahead; then ``request`` is called. If no service answers,
    ``say`` is called once with a message, and it is tried again.
    ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` sets another address.
    """
    ended = threading.Event()
    service = MetadataService()

    def watch() -> None:
        if not service.answers():
            say(f"no instance metadata service at {service.address}: not watching for spot notices")
        while not ended.wait(every):  # it may come later
            notice = service.spot_notice()
            if notice is not None:
                request(f"spot notice ({notice})")
                return

    thread = threading.Thread(target=watch, name="tinynn-spot-notice", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        say(f"not watching for spot notices: {error}")
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(2 * _TIMEOUT)


class MetadataService:
    """The part of AWS's instance metadata service (IMDSv2) that announces a preemption.

    "Instance Metadata Service Version 2" and "Spot Instance interruption notices" in the Amazon EC2
    User Guide: PUT returns a token, GET with the token the notice, or 404 while there is none.
    """

    def __init__(self, address: str | None = None) -> None:
        chosen = address or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA_SERVICE)
        self.address = chosen.rstrip("/")
        self._token = ""
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def answers(self) -> bool:
        """Whether the service exists, that is, returns a token."""
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        try:
            self._token = self._request("/latest/api/token", ttl, "PUT")
        except (OSError, ValueError, HTTPException):
            return False
        return bool(self._token)

    def spot_notice(self) -> str | None:
        """The announced action and its time, such as "terminate at 2026-01-01T12:00:00Z"."""
        token = {"X-aws-ec2-metadata-token": self._token}
        try:
            text = self._request("/latest/meta-data/spot/instance-action", token, "GET")
        except (OSError, ValueError, HTTPException) as error:
            if not self._token or (isinstance(error, HTTPError) and error.code == 401):
                self.answers()  # there was no service before, or the token has expired
            return None
        try:
            notice = json.loads(text)
            return f"{notice['action']} at {notice['time']}"
        except (ValueError, LookupError, TypeError, RecursionError):
            return " ".join(text.split())[:100]

    def _request(self, path: str, headers: dict[str, str], method: str) -> str:
        request = urllib.request.Request(self.address + path, headers=headers, method=method)
        with self._open(request, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(10_000)
            return content.decode("utf-8", "replace")
