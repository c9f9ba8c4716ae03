"""Addresses where no Ray answers: known in seconds, before anything is begun."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raydet.cluster.address import check_answers, problem_with
from raydet.config.run import ClusterConfig
from raydet.errors import ConfigError
from raydet.train.launch import launch
from tests.helpers import tiny_config


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port whose every caller gets an answer; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = threading.Event()

        def serve() -> None:
            while not calls.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        calls.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@contextmanager
def web_server(content: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def dead_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def greets_in_http2(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))


def test_a_dead_port_is_known_at_once():
    problem = problem_with(dead_port())
    assert problem is not None
    assert "Connection refused" in problem.text


def test_a_port_that_says_nothing_is_given_up_after_a_while():
    with listening(lambda connection: time.sleep(2)) as address:
        began = time.monotonic()
        problem = problem_with(address, timeout_s=0.3)
        assert time.monotonic() - began < 2
    assert problem is not None
    assert "says nothing within 0.3 s" in problem.text


def test_a_port_that_greets_in_http2_may_be_a_ray():
    with listening(greets_in_http2) as address:
        assert problem_with(address) is None
        assert problem_with(f"ray://{address}") is None


def test_a_dashboard_is_recognised():
    with web_server(json.dumps({"ray_version": "2.60.0"}).encode()) as address:
        for given in (address, f"http://{address}"):
            problem = problem_with(given)
            assert problem is not None
            assert "is the dashboard of a Ray 2.60.0, which takes jobs" in problem.text
            assert "127.0.0.1:6379" in problem.advice


def test_another_web_server_is_no_ray():
    with web_server(b"<html>") as address:
        problem = problem_with(address)
    assert problem is not None
    assert "speaks another protocol" in problem.text


@pytest.mark.parametrize("address", ["somewhere", "10.0.0.1", "10.0.0.1:port"])
def test_what_is_no_address_is_said_to_be_none(address: str):
    problem = problem_with(address)
    assert problem is not None
    assert "expected HOST:PORT" in problem.text


def test_what_is_encrypted_is_only_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(lambda connection: None) as address:
        assert problem_with(address) is None
    assert problem_with(dead_port()) is not None


def test_messages_name_where_the_address_comes_from(monkeypatch: pytest.MonkeyPatch):
    port = dead_port()
    with pytest.raises(ConfigError, match=r"^cluster\.address \(or --address\)=127"):
        check_answers(ClusterConfig(address=port))
    monkeypatch.setenv("RAY_ADDRESS", port)
    with pytest.raises(ConfigError, match="^RAY_ADDRESS=127.*or leave the address out for a local Ray"):
        check_answers(ClusterConfig())
    monkeypatch.setenv("RAY_ADDRESS", "local")
    check_answers(ClusterConfig())


def test_a_run_is_not_begun_where_no_ray_answers(tmp_path: Path):
    config = tiny_config(tmp_path / "run", cluster__backend="ray", cluster__address=dead_port())
    with pytest.raises(ConfigError, match="Connection refused"):
        launch(config)
    assert not (tmp_path / "run").exists()
