"""Judging what one machine, or all nodes of a cluster, say about themselves. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydet.cluster.nodes import Answer
from raydet.doctor.finding import Finding, fail, ok, warn
from raydet.text import plural

GIB = 2**30
SMALL_SHM = 2 * GIB
FEW_FILES = 4096
MUST_MATCH = ("raydet", "torch", "torchvision", "ray", "pyarrow")  # numerics, pickles between processes, label files
CLOCK_S = 5.0

Facts = Mapping[str, Any]


def judge(facts: Facts, *, wants_gpu: bool) -> list[Finding]:
    """Judge one machine: versions, operators, GPUs, shared memory, open files, home."""
    return [_versions(facts), _operators(facts), _gpus(facts, wants_gpu), _shm(facts), _files(facts), _home(facts)]


def compare(here: Facts, answers: Sequence[Answer[dict[str, Any]]], *, wants_gpu: bool) -> list[Finding]:
    """Judge every node of a cluster, and compare it with this machine."""
    found: list[Finding] = []
    for answer in answers:
        topic = f"node {answer.node}"
        if answer.value is None:
            found.append(fail(topic, answer.error, "look at the node with `ray status` and its logs"))
            continue
        facts = answer.value
        other = _differences(here, facts)
        if other:
            found.append(
                fail(topic, "other versions: " + "; ".join(other), "install the same on every node, e.g. one image")
            )
        skew = facts["time"] - here["time"]
        if abs(skew) > CLOCK_S:
            found.append(
                warn(topic, f"its clock is {skew:+.0f} s off, transfer included", "set the nodes' clocks (NTP)")
            )
        # Not every node needs a GPU: the resource plan counts those.
        problems = [each for each in judge(facts, wants_gpu=False)[1:] if each.level != "ok"]
        found += [Finding(each.level, topic, f"{each.topic}: {each.text}", each.advice) for each in problems]
        if not other and not problems:
            gpus = f", {plural(len(facts['gpus']), 'GPU')}" if facts["gpus"] else ""
            found.append(ok(topic, f"same versions as here{gpus}"))
    if wants_gpu and answers and not any(answer.value and answer.value["gpus"] for answer in answers):
        found.append(fail("GPUs", "torch sees none on any node", "see the nodes' drivers and torch builds"))
    return found


def _differences(here: Facts, there: Facts) -> list[str]:
    found = []
    if here["python"].rsplit(".", 1)[0] != there["python"].rsplit(".", 1)[0]:  # pickles cross minor versions badly
        found.append(f"Python {there['python']}, here {here['python']}")
    for name in MUST_MATCH:
        mine, theirs = here["versions"][name], there["versions"][name]
        if mine != theirs:
            found.append(f"{name} {theirs or 'missing'}, here {mine or 'missing'}")
    return found


def _versions(facts: Facts) -> Finding:
    versions = facts["versions"]
    text = ", ".join([f"Python {facts['python']}", *(f"{name} {version}" for name, version in versions.items())])
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return fail("versions", f"not installed: {', '.join(missing)}", "pip install raydet in this environment")
    return ok("versions", text)


def _operators(facts: Facts) -> Finding:
    if facts["operators"]:
        versions = facts["versions"]
        return fail(
            "operators",
            f"torchvision {versions['torchvision']} does not work with torch {versions['torch']}: {facts['operators']}",
            "install the pair that was built together: pip install --upgrade torch torchvision, from one index",
        )
    return ok("operators", "torchvision's compiled operators work with this torch")


def _gpus(facts: Facts, wants_gpu: bool) -> Finding:
    if facts["gpus"]:
        return ok("GPUs", "; ".join(facts["gpus"]))
    if facts["has_driver"]:
        return warn("GPUs", "a driver is there, but torch sees no GPU", "compare `nvidia-smi` with torch.version.cuda")
    if wants_gpu:
        return fail("GPUs", "torch sees none, the config asks for some", "set gpus_per_worker and gpus_per_actor to 0")
    return ok("GPUs", "none: everything runs on the CPU")


def _shm(facts: Facts) -> Finding:
    size = facts["shm_bytes"]
    if size is None:
        return warn("shared memory", "no /dev/shm", "Ray keeps objects in its temporary folder, which is slower")
    if size < SMALL_SHM:
        return warn(
            "shared memory",
            f"/dev/shm has {size / GIB:.2f} GiB; with less than Ray's object store asks for, objects go to disk",
            "in a container: docker run --shm-size=8g, in Kubernetes an emptyDir of medium Memory at /dev/shm",
        )
    return ok("shared memory", f"/dev/shm has {size / GIB:.1f} GiB")


def _files(facts: Facts) -> Finding:
    if facts["open_files"] < FEW_FILES:
        return warn("open files", f"at most {facts['open_files']} per process", "ulimit -n 65536 before Ray starts")
    return ok("open files", f"at most {facts['open_files']} per process")


def _home(facts: Facts) -> Finding:
    if facts["home_problem"]:
        return fail(
            "home",
            f"Ray cannot keep its token: {facts['home_problem']}",
            "set RAY_AUTH_TOKEN_PATH to a file with a token, or HOME to a folder that can be written",
        )
    return ok("home", f"{facts['home']} takes Ray's token")
