"""`raydet train`: one run from a YAML config."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train from a YAML config")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    parser.add_argument("--print-config", action="store_true", help="show the resolved config and stop")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train, or show the configuration."""
    from raydet.config.load import dump, load

    config = load(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump(config), end="")
        return
    from raydet.train.launch import launch

    launch(config, resume=arguments.resume)
