"""Requests to stop: signals, and AWS's preemption notice."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.training.scenario import train
from tinynn.errors import Interrupted
from tinynn.training import EXIT_CODE, Checkpoints, StopRequest, interruption, stop_on_signals
from tinynn.training.interruption import MetadataService, stop_on_spot_notice

ROOT = Path(__file__).parents[2]
NOTICE = {"action": "terminate", "time": "2026-11-24T17:02:00Z"}


SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class TestSignals:
    @pytest.mark.parametrize("number", SIGNALS)
    def test_the_first_is_a_request(self, number: signal.Signals) -> None:
        request = StopRequest()
        with stop_on_signals(request):
            signal.raise_signal(number)
        assert request.reason == number.name

    def test_a_second_ctrl_c_ends_at_once(self) -> None:
        request = StopRequest()
        with stop_on_signals(request):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert request.reason == "SIGINT"

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of POSIX")
    @pytest.mark.parametrize("together", [0.0, 60.0])
    @pytest.mark.parametrize(
        ("names", "has_effect_later"),
        [
            (["SIGHUP", "SIGHUP", "SIGHUP"], False),  # the terminal is closed
            (["SIGTERM", "SIGHUP"], False),  # systemd ends a session
            (["SIGINT", "SIGTERM"], True),  # a launcher that Ctrl-C reaches, too
            (["SIGTERM", "SIGTERM"], True),
        ],
    )
    def test_several_together_are_one_request(
        self, names: list[str], has_effect_later: bool, together: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(interruption, "_TOGETHER", together)
        effects: list[str] = []

        def effect(number: int, frame: object) -> None:
            effects.append(signal.Signals(number).name)

        before = {number: signal.signal(number, effect) for number in SIGNALS}
        request = StopRequest()
        try:
            with stop_on_signals(request):
                for name in names:
                    time.sleep(1e-6)
                    signal.raise_signal(signal.Signals[name])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert request.reason == names[0]
        assert effects == (names[1:] if has_effect_later and not together else [])

    def test_the_handlers_are_restored(self) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with stop_on_signals(StopRequest()):
            assert signal.getsignal(signal.SIGINT) is not before[0]
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    @pytest.mark.parametrize("number", SIGNALS)
    def test_one_that_is_ignored_stays_ignored(self, number: signal.Signals) -> None:
        before = signal.signal(number, signal.SIG_IGN)
        try:
            request = StopRequest()
            with stop_on_signals(request):
                signal.raise_signal(number)
            assert request.reason is None
            assert signal.getsignal(number) is signal.SIG_IGN
        finally:
            signal.signal(number, before)

    def test_on_another_thread_nothing_is_installed(self) -> None:
        entered: list[object] = []

        def enter() -> None:
            with stop_on_signals(StopRequest()):
                entered.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert entered == [signal.getsignal(signal.SIGINT)]

    @pytest.mark.parametrize("number", SIGNALS)
    def test_a_program_exits_with_75(self, number: signal.Signals, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.scenario", tmp_path, "0", "0.05", "60", "cpu"],
            cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not list(tmp_path.glob("step-*")):
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == EXIT_CODE == 75
        assert f"{number.name}: stopping after this step, with a checkpoint" in said
        assert "is written, resume continues from there" in said


class _Service(BaseHTTPRequestHandler):
    """IMDSv2 as documented: PUT returns a token with a time to live, all else needs the token."""

    notice: str | None = None
    tokens: int = 0
    expired: bool = False

    def do_PUT(self) -> None:
        seconds = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0"))
        if self.path != "/latest/api/token" or not 1 <= seconds <= 21600:
            self.send_error(400)
            return
        type(self).tokens += 1
        self._answer(f"token-{self.tokens}")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != f"token-{self.tokens}" or self.expired:
            type(self).expired = False
            self.send_error(401)
        elif self.path != "/latest/meta-data/spot/instance-action" or self.notice is None:
            self.send_error(404)
        else:
            self._answer(self.notice)

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Service]]:
    handler = type("Service", (_Service,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/"
    )
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


class TestSpotNotice:
    def test_none_then_one(self, service: type[_Service]) -> None:
        metadata = MetadataService()
        assert metadata.answers()
        assert metadata.spot_notice() is None
        service.notice = json.dumps(NOTICE)
        assert metadata.spot_notice() == "terminate at 2026-11-24T17:02:00Z"

    def test_a_token_that_expires_is_renewed(self, service: type[_Service]) -> None:
        metadata = MetadataService()
        assert metadata.answers()
        service.notice, service.expired = json.dumps(NOTICE), True
        assert metadata.spot_notice() is None
        assert metadata.spot_notice() == "terminate at 2026-11-24T17:02:00Z"
        assert service.tokens == 2

    def test_an_answer_of_another_format(self, service: type[_Service]) -> None:
        metadata = MetadataService()
        assert metadata.answers()
        service.notice = "going\nsoon"
        assert metadata.spot_notice() == "going soon"

    @pytest.mark.parametrize("garbled", [0, 1, 2])
    @pytest.mark.parametrize(
        "answer",
        [
            b"garbage\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nTOK",
            b"HTTP/1.1 200 OK\r\nContent-Length: -\r\n\r\n",
            b"HTTP/1.1 503 busy\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: gopher://x\r\n\r\n",
        ],
    )
    def test_a_garbled_answer_does_not_end_the_watch(
        self, garbled: int, answer: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whichever answer it is: the token, the first notice, the second."""
        notice = json.dumps(NOTICE).encode()
        replies = [b"HTTP/1.1 404 none\r\n\r\n"] * garbled + [answer]
        last = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(notice), notice)

        def serve(listening: socket.socket) -> None:
            while listening.fileno() >= 0:
                with suppress(OSError), listening.accept()[0] as connection:
                    asks_for_token = connection.recv(9999).startswith(b"PUT")
                    reply = replies.pop(0) if replies else last
                    connection.sendall(last if asks_for_token and len(replies) > 0 else reply)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(9999)

        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=serve, args=(listening,), daemon=True).start()
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
            request = StopRequest()
            with stop_on_spot_notice(request, lambda text: None, every=0.01):
                for _ in range(500):
                    if request.reason is not None:
                        break
                    time.sleep(0.01)
        assert request.reason is not None

    def test_a_thread_that_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        said: list[str] = []
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with stop_on_spot_notice(StopRequest(), said.append):
            pass
        assert said == ["not watching for spot notices: can't start new thread"]

    def test_a_training_ends_with_a_checkpoint(
        self, service: type[_Service], tmp_path: Path
    ) -> None:
        def notice(event: str, run: object) -> None:
            service.notice = json.dumps(NOTICE)
            time.sleep(0.05)

        request = StopRequest()
        checkpoints = Checkpoints(tmp_path)
        checkpoints._stop = request
        with (
            stop_on_spot_notice(request, print, every=0.02),
            pytest.raises(Interrupted, match=r"spot notice \(terminate at 2026.*is written"),
        ):
            train(checkpoints, callbacks=[notice], epochs=50)
        assert Checkpoints(tmp_path).steps > 0

    def test_no_service(self) -> None:
        said: list[str] = []
        request = StopRequest()
        assert not MetadataService("http://127.0.0.1:9").answers()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
            with stop_on_spot_notice(request, said.append):
                for _ in range(200):
                    if said:
                        break
                    time.sleep(0.01)
        assert said == [
            "no instance metadata service at http://127.0.0.1:9: not watching for spot notices"
        ]
        assert request.reason is None

    def test_asked_for_by_checkpoints(self, service: type[_Service], tmp_path: Path) -> None:
        with Checkpoints(tmp_path, watch_spot=True):
            for _ in range(200):
                if service.tokens:
                    break
                time.sleep(0.01)
        assert service.tokens == 1
