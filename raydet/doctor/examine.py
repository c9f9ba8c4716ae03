"""All checks in order: this machine, the cluster, then what the configuration wants of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raydet.cluster.capacity import this_machine
from raydet.cluster.connect import connected
from raydet.cluster.nodes import alive_nodes, ask_every_node
from raydet.cluster.storage import ask_nodes
from raydet.cluster.upload import LIMIT_BYTES, upload_of
from raydet.config.run import ClusterConfig, RunConfig
from raydet.contract import DataSizes
from raydet.data.check import CheckReport
from raydet.data.problems import Problem
from raydet.doctor import probe
from raydet.doctor.estimate import disk_of, judge_capacity, judge_disk, judge_memory, plan, written_by
from raydet.doctor.finding import Finding, fail, ok, warn
from raydet.doctor.machine import Facts, compare, judge
from raydet.doctor.measure import measure_both
from raydet.doctor.model import judge_model
from raydet.doctor.network import auth_mode, judge_mode, judge_ports, listening, reachable
from raydet.errors import UserError
from raydet.registry import build_method, family_of
from raydet.text import plural
from raydet.train.rundir import RunFolder

DASHBOARD = "http://127.0.0.1:8265"
SHOWN_ERRORS = 3  # of the data


def examine(config: RunConfig | None, *, address: str | None, measured: bool) -> Iterator[Finding]:
    """Yield findings as they are made. Joins the Ray at `address`, if any; starts none and claims nothing."""
    wants_gpu = config is not None and bool(config.cluster.gpus_per_worker or config.pool.gpus_per_actor)
    here = probe.look()
    yield from judge(here, wants_gpu=wants_gpu and address is None)
    yield from judge_ports(listening(), auth_mode(DASHBOARD))
    yield _upload(Path.cwd())
    if address is not None:
        yield from _cluster(config, address, here, wants_gpu)
    elif config is not None:
        yield _run_dir(Path(config.run.dir))
        yield from plan(config, [{"GPU": float(len(here["gpus"]))}], is_local=True)
        yield judge_capacity(config, this_machine())
    if config is not None:
        yield from _run(config, measured, here["memory_bytes"] if address is None else None)


def _cluster(config: RunConfig | None, address: str, here: Facts, wants_gpu: bool) -> Iterator[Finding]:
    """Look at a cluster: does it answer, who may enter, its nodes, the run folder on each, the places."""
    if address != "auto":
        answers = reachable(address)
        yield answers
        if answers.level == "fail":
            return
    try:
        with connected(ClusterConfig(backend="ray", address=address), cpus=0) as dashboard:
            url = os.environ.get("RAY_API_SERVER_ADDRESS") or (f"http://{dashboard}" if dashboard else DASHBOARD)
            yield judge_mode(auth_mode(url), url)
            yield from compare(here, ask_every_node(probe.look), wants_gpu=wants_gpu)
            if config is not None:
                yield from _storage(Path(config.run.dir))
                yield from plan(config, [node["Resources"] for node in alive_nodes()], is_local=False)
    except UserError as error:
        yield fail("cluster", str(error), "where the port answers, a missing or wrong token is the usual reason")


def _run(config: RunConfig, measured: bool, memory: int | None) -> Iterator[Finding]:
    """Look at what the run reads, writes and takes; `memory` (bytes): of the machine that all its processes share."""
    report = family_of(config).check_data(config, decode_images=False)
    yield _data(config, report)
    if report.num_errors:
        return
    num_classes = max(one.num_classes for one in report.sets)
    sizes = DataSizes(report.num_labeled, report.num_unlabeled, num_classes)
    folder = RunFolder(config.run.dir)
    if not folder.is_started:  # the weights of a checkpoint are taken
        yield judge_model(config, num_classes)
    yield judge_disk(disk_of(config, sizes), folder.path, written_by(folder))
    if table := build_method(config).state_bytes(sizes):
        yield judge_memory(table, config.cluster.workers, memory)
    if config.uses_labels and not report.num_unlabeled:
        return
    if not measured:
        yield ok("time", "not measured; --measure trains a few steps in a temporary folder")
        return
    try:
        yield from measure_both(config)
    except UserError as error:
        yield fail("time", str(error), "raydet train would refuse this")


def _data(config: RunConfig, report: CheckReport) -> Finding:
    sets = ", ".join(one.headline() for one in report.sets)
    if report.num_errors:
        return fail(
            "data",
            f"{plural(report.num_errors, 'error')}; {sets or 'nothing could be read'}; {_first_errors(report)}",
            "raydet check-data CONFIG lists them",
        )
    if report.num_unlabeled:
        sets = (
            f"{sets}; {report.num_labeled:,} labelled and {plural(report.num_unlabeled, 'unlabelled image')} "
            "to train on"
        )
    elif config.uses_labels:
        return fail(
            "data", f"{sets}; none is unlabelled", "label fewer of them, set data.unlabeled, or use a supervised method"
        )
    if report.num_warnings:
        return warn("data", f"{plural(report.num_warnings, 'warning')}; {sets}", "raydet check-data CONFIG lists them")
    return ok("data", f"{sets}; images not decoded here, `raydet check-data` does")


def _first_errors(report: CheckReport) -> str:
    """Return the first error of each of the first few kinds, in a line."""
    first: dict[str, Problem] = {}
    for problem in report.problems:
        if problem.severity == "error":
            first.setdefault(problem.code, problem)
    lines = [f"[{code}] {' '.join(str(problem).split())}" for code, problem in first.items()]
    return "; ".join(lines[:SHOWN_ERRORS]) + ("; ..." if report.num_errors > min(len(lines), SHOWN_ERRORS) else "")


def _storage(folder: Path) -> Iterator[Finding]:
    """Write and read a token from every node, in the run folder or in the nearest folder above it that exists."""
    folder = _existing(folder.absolute())
    try:
        answers = ask_nodes(folder)
    except OSError as error:
        yield fail("storage", f"{folder} cannot be written here: {error.strerror}", "choose another run.dir")
        return
    bad = [f"{answer.node}: {answer.error or answer.value}" for answer in answers if answer.error or answer.value]
    if bad and len(answers) > 1:
        yield fail("storage", f"{folder}: " + "; ".join(bad), "set run.dir to storage that every node mounts there")
    elif bad:
        yield fail("storage", f"{folder}: " + "; ".join(bad), "choose another run.dir")
    else:
        yield ok("storage", f"{folder}: a token was written and read on {plural(len(answers), 'node')}")


def _run_dir(folder: Path) -> Finding:
    if RunFolder(folder).is_started:
        return warn("storage", f"{folder} holds a run", "--resume goes on with it; else choose another run.dir")
    place = _existing(folder.absolute())
    try:
        with tempfile.TemporaryFile(dir=place):
            return ok("storage", f"{place} can be written")
    except OSError as error:
        return fail("storage", f"{place} cannot be written: {error.strerror}", "choose another run.dir")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in [folder, *folder.parents] if each.is_dir())


def _upload(folder: Path) -> Finding:
    upload = upload_of(folder)
    text = f"{folder}: {upload}"
    if upload.bytes > LIMIT_BYTES:
        largest = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in upload.largest)
        return warn("upload", f"{text}; a job server takes 100 MiB", f"add to .rayignore; largest: {largest}")
    return ok("upload", f"{text} go with `ray job submit --working-dir .`")
