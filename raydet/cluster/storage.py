"""Whether every node sees the folder that results go to: a token is written and read from each of them.

Imports stay inside the functions that run on the nodes: see `raydet.cluster.nodes`.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from raydet.cluster.nodes import Answer, alive_nodes, ask_every_node
from raydet.errors import ConfigError


def check_shared(folder: Path, key: str) -> None:
    """Raise ConfigError, naming nodes, unless every node reads and writes what this process reads and writes there.

    `folder` exists; `key` is the setting it came from. Done before anything is claimed; a cluster of one node is not
    asked. Nodes that join later are not checked: they fail where they first touch the folder.
    """
    if len(alive_nodes()) == 1:
        return
    problems = [f"{answer.node}: {text}" for answer in ask_nodes(folder) if (text := answer.error or answer.value)]
    if problems:
        raise ConfigError(
            f"{key}={folder} must be one folder that every node sees and may write to (NFS, EFS, FSx, Filestore, "
            "a shared volume), under the same path:\n  " + "\n  ".join(problems)
        )


def ask_nodes(folder: Path) -> list[Answer[str]]:
    """Return of every node what is wrong with the folder there, or an empty text."""
    token = secrets.token_hex(16)
    name = f".token-{secrets.token_hex(4)}"  # new each time: no file system remembers it as missing
    ours = folder / name
    ours.write_text(token, encoding="utf-8")
    try:
        answers = ask_every_node(_read_and_reply, str(ours), token)
        return [_with_our_view(answer, ours, token) for answer in answers]
    finally:
        for file in folder.glob(f"{name}*"):
            file.unlink(missing_ok=True)


def _with_our_view(answer: Answer[str], ours: Path, token: str) -> Answer[str]:
    """Replace the name of a node's reply by an empty text, where the reply is seen here too."""
    if answer.error or not str(answer.value).startswith("replied in "):
        return answer
    reply = ours.with_name(str(answer.value).removeprefix("replied in "))
    problem = _wait_for(str(reply), token[::-1])
    return Answer(answer.node, f"what it writes is not seen here ({problem})" if problem else "")


def _read_and_reply(path: str, token: str) -> str:
    """On a node: read the token, write it backwards; return `replied in NAME`, or what is wrong."""
    import os
    import secrets

    problem = _wait_for(path, token)
    if problem:
        return problem
    reply = f"{path}-{secrets.token_hex(4)}"
    try:
        with open(reply, "w", encoding="utf-8") as file:
            file.write(token[::-1])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"cannot be written there: {error.strerror}"
    return f"replied in {os.path.basename(reply)}"


def _wait_for(path: str, token: str, wait_s: float = 5.0) -> str:
    """Return an empty text once the file holds the token, or after a while what is wrong with it."""
    import time

    deadline = time.monotonic() + wait_s
    while True:
        try:
            with open(path, encoding="utf-8") as file:
                found = file.read()
            if found == token:
                return ""
            problem = "holds something else than what was written"
        except FileNotFoundError:
            problem = "another folder than here, or none: a file written here is not there"
        except OSError as error:
            problem = f"cannot be read there: {error.strerror}"
        if time.monotonic() > deadline:
            return problem
        time.sleep(0.2)
