"""Who listens on Ray's usual ports, and whether a cluster asks for a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from raydet.cluster.address import TIMEOUT_S, ask_dashboard, problem_with
from raydet.doctor.finding import Finding, fail, ok, warn

PORTS = {6379: "head", 8265: "dashboard and jobs", 10001: "clients"}
LISTEN = "0A"


def listening(tables: Iterable[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> dict[int, bool]:
    """Return the TCP ports that are listened on here, and whether beyond loopback; empty where /proc is not Linux's."""
    found: dict[int, bool] = {}
    for table in tables:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state != LISTEN:
                continue
            address, port = local.split(":")
            found[int(port, 16)] = found.get(int(port, 16), False) or not _is_loopback(address)
    return found


def _is_loopback(address: str) -> bool:
    """`address` as in /proc/net: 32-bit words in this machine's byte order, little endian on all that torch runs on."""
    ipv4 = address[-8:]
    is_mapped = len(address) == 8 or address[:24] == "0000000000000000FFFF0000"
    return ipv4.endswith("7F") if is_mapped else address == "00000000000000000000000001000000"


def judge_ports(found: Mapping[int, bool], mode: str | None) -> list[Finding]:
    """Judge Ray's usual ports on this machine; `mode` is what a dashboard here says about tokens."""
    busy = [port for port in PORTS if port in found]
    if not busy:
        return [ok("ports", "nobody listens on Ray's usual ports: " + ", ".join(map(str, PORTS)))]
    names = ", ".join(f"{port} ({PORTS[port]})" for port in busy)
    findings = [ok("ports", f"in use here: {names}; a Ray head of your own needs others, a local Ray finds its own")]
    wide = [port for port in busy if found[port]]
    if wide and mode == "disabled":
        findings.append(open_door(f"the Ray on this host listens beyond loopback ({', '.join(map(str, wide))})"))
    return findings


def open_door(what: str) -> Finding:
    """Return the warning for a cluster that asks nobody for a token."""
    return warn(
        "token",
        f"{what} and asks for no token: whoever reaches it can run any program there",
        "start every node with RAY_AUTH_MODE=token and one token (`ray get-auth-token --generate`); see "
        "docs/cluster.md, Security",
    )


def judge_mode(mode: str | None, asked: str) -> Finding:
    """Judge what the dashboard of a cluster says about tokens."""
    if mode is None:
        return warn(
            "token",
            f"no dashboard answers at {asked}, so whether the cluster asks for a token is unknown",
            "set RAY_API_SERVER_ADDRESS to the dashboard",
        )
    if mode == "disabled":
        return open_door(f"the cluster with the dashboard {asked}")
    return ok("token", f"the cluster asks for a token ({mode})")


def auth_mode(url: str, *, timeout_s: float = 3.0) -> str | None:
    """Ask a Ray dashboard how it checks who talks to it: `token`, `disabled`, ...; None where none answers."""
    return ask_dashboard(url.rstrip("/"), "authentication_mode", "authentication_mode", timeout_s=timeout_s)


def reachable(address: str, *, timeout_s: float = TIMEOUT_S) -> Finding:
    """Judge whether a Ray answers at an address, `HOST:PORT` or `ray://HOST:PORT`."""
    problem = problem_with(address, timeout_s=timeout_s)
    return ok("address", f"{address} answers") if problem is None else fail("address", problem.text, problem.advice)
