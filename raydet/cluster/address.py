"""Whether a Ray answers at an address, asked of its port and in seconds: Ray itself tries for minutes, without a word.

Ray speaks gRPC, so HTTP/2: whoever listens is greeted in that, and has to greet back. No Ray here.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from dataclasses import dataclass
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from raydet.config.run import ClusterConfig
from raydet.errors import ConfigError

TIMEOUT_S = 5.0
# The client's preface and an empty SETTINGS frame (RFC 9113, 3.4); a server begins with a SETTINGS frame of its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_HEADER = 9  # bytes of a frame: length, type, flags, stream


@dataclass(frozen=True, slots=True)
class Problem:
    """Why no Ray can be joined at an address, and what to do."""

    text: str
    advice: str


def address_of(cluster: ClusterConfig) -> str | None:
    """Return the address of the Ray to join: `cluster.address`, else RAY_ADDRESS; None for a local Ray of one's own."""
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def origin_of(cluster: ClusterConfig) -> str:
    """Return what messages call the place that the address comes from."""
    return "cluster.address (or --address)" if cluster.address else "RAY_ADDRESS"


def check_answers(cluster: ClusterConfig) -> None:
    """Raise ConfigError where no Ray answers at the address to join, if there is one; takes seconds at most."""
    address = address_of(cluster)
    if address not in (None, "auto") and (problem := problem_with(str(address))) is not None:
        raise ConfigError(
            f"{origin_of(cluster)}={address}: {problem.text}; {problem.advice}, or leave the address out for a local "
            f"Ray"
        )


def problem_with(address: str, *, timeout_s: float = TIMEOUT_S) -> Problem | None:
    """Return what is wrong with a Ray address, `HOST:PORT` or `ray://HOST:PORT`; None where it answers as Ray does."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        return Problem(f"{address}: expected HOST:PORT", "the head prints it when it starts")
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            said = b"" if _is_encrypted() else _greeted(connection)
    except socket.gaierror as error:
        return Problem(f"{host}: no such host ({error.strerror})", "mend the name, or name resolution (DNS)")
    except OSError as error:
        reason = error.strerror or f"no answer within {timeout_s:g} s"
        return Problem(f"{address}: {reason}", "start the head, mend the address, or open the port")
    if _is_encrypted() or (len(said) == _HEADER and said[3] == _SETTINGS):
        return None
    return _problem_of_other(address, host, port, said, timeout_s)


def ask_dashboard(url: str, path: str, name: str, *, timeout_s: float) -> str | None:
    """Return what a Ray dashboard at `url` says of `name` in its answer to /api/PATH; None where none answers so."""
    opener = build_opener(ProxyHandler({}))  # a proxy of the environment is not for addresses inside a cluster
    try:
        with opener.open(f"{url}/api/{path}", timeout=timeout_s) as answer:
            return str(json.loads(answer.read(10_000))[name])
    except (URLError, OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None


def _greeted(connection: socket.socket) -> bytes:
    """Return the first bytes of the answer to a greeting in HTTP/2; none where nothing comes."""
    said = b""
    try:
        connection.sendall(_GREETING)
        while len(said) < _HEADER and (more := connection.recv(_HEADER - len(said))):
            said += more
    except OSError:
        pass
    return said


def _problem_of_other(address: str, host: str, port: int, said: bytes, timeout_s: float) -> Problem:
    """Say what it is that listens there and is no Ray."""
    version = ask_dashboard(f"http://{host}:{port}", "version", "ray_version", timeout_s=timeout_s)
    if version is not None:
        return Problem(
            f"{address} is the dashboard of a Ray {version}, which takes jobs (ray job submit --address "
            f"http://{host}:{port})",
            f"Ray itself listens at another port of the head, by default {host}:6379",
        )
    what = "speaks another protocol" if said else f"says nothing within {timeout_s:g} s"
    return Problem(
        f"{address}: something listens there that {what}; it is no Ray, or one that hangs",
        "mend the address (the head prints it when it starts), or start the head again",
    )


def _is_encrypted() -> bool:
    """Whether Ray is told to speak TLS, which cannot be greeted in the clear."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
