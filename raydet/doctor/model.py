"""Whether the model of a run can be built, from the weights that it starts from. Nothing is fetched."""

from __future__ import annotations

import urllib.request
from http.client import HTTPException

from raydet.config.run import RunConfig
from raydet.doctor.finding import Finding, fail, ok
from raydet.errors import UserError
from raydet.text import size
from raydet.train.launch import check_model
from raydet.vision.pretrained import NotFetched, at_hand

PATIENCE_S = 10  # with a server


def judge_model(config: RunConfig, num_classes: int) -> Finding:
    """Do what a start does before it begins, but ask the server of weights that would be fetched how many they are."""
    named = [f"model.{key}={value}" for key in config.model.weight_keys if (value := getattr(config.model, key))]
    try:
        with at_hand():
            check_model(config, num_classes)
    except NotFetched as away:
        return judge_download(away, answer_of(away.url))
    except UserError as error:
        return fail("model", str(error), "raydet train would refuse this")
    if config.run.fork_from is not None:
        return ok("model", f"it starts as {config.run.fork_from} ended, which is whole")
    return ok("model", f"{', '.join(named)}: read, and fits the model" if named else "it starts from random weights")


def judge_download(away: NotFetched, answer: int | str) -> Finding:
    """Judge weights that a start would fetch; `answer` as `answer_of` gives it."""
    if isinstance(answer, str):
        text = f"model.weights=imagenet: {away.url} is not on this machine and cannot be fetched from here ({answer})"
        return fail("model", text, f"raydet train would refuse this; {away.remedy}")
    amount = f"{size(answer)} " if answer else ""
    return ok("model", f"a start fetches {amount}of weights from {away.url}, once a node; {away.remedy}")


def answer_of(url: str) -> int | str:
    """Return how many bytes a server would send, 0 where it does not say; or why it cannot be asked."""
    request = urllib.request.Request(url, headers={"User-Agent": "torch.hub"})  # noqa: S310 - of a fixed table
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, HTTPException) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
