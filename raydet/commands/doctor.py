"""`raydet doctor`: what would go wrong, on this machine and on a cluster, before it does."""

from __future__ import annotations

import argparse
import os

from raydet.config.paths import path_argument


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("doctor", help="check this machine, a cluster and a config before a run")
    parser.add_argument(
        "config", type=path_argument, nargs="?", help="YAML file; without it only the machine and the cluster"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    parser.add_argument("--address", help="Ray to look at; default: cluster.address, else RAY_ADDRESS, else none")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="train a few steps to estimate the time, and on a CPU to compare precisions",
    )
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; returns 1 where something failed."""
    import json

    from raydet.settings import load

    config = load(arguments.config, arguments.overrides) if arguments.config else None
    from raydet.doctor.examine import examine
    from raydet.doctor.finding import as_text

    address = arguments.address or (config and config.cluster.address) or os.environ.get("RAY_ADDRESS") or None
    findings = list(examine(config, address=address if address != "local" else None, measured=arguments.measure))
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=1))
    else:
        print(as_text(findings))
    return int(any(finding.level == "fail" for finding in findings))
