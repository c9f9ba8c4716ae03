"""Which precision is computed in, and how `auto` chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raydet import precision
from raydet.arithmetic import Arithmetic
from raydet.doctor.measure import judge_precision
from raydet.errors import ConfigError
from raydet.precision import autocast_dtype, bf16_over_fp32, settled_dtype, time_both

CPU = torch.device("cpu")
INFO = "model name\t: Some Processor\nflags\t\t: sse2 avx512_bf16\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A processor with bf16 hardware, an empty cache folder, and a stopwatch that says what it is told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "_cpuinfo", lambda: INFO)

    def timed(ratio: float) -> list[int]:
        calls: list[int] = []
        monkeypatch.setattr(precision, "time_both", lambda: calls.append(1) or ratio)
        bf16_over_fp32.cache_clear()
        return calls

    yield timed
    bf16_over_fp32.cache_clear()


def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="needs a GPU"):
        autocast_dtype("fp16", CPU)


@pytest.mark.parametrize(("ratio", "dtype"), [(0.5, torch.bfloat16), (0.89, torch.bfloat16), (0.9, None), (2.0, None)])
def test_auto_takes_what_a_timing_finds_faster(machine, ratio: float, dtype: torch.dtype | None):
    machine(ratio)
    assert autocast_dtype("auto", CPU) == dtype


@pytest.mark.parametrize(
    ("asked", "begun", "dtype"),
    [
        ("auto", Arithmetic("cpu", "fp32"), None),  # though bf16 is faster here
        ("auto", Arithmetic("cpu", "bf16"), torch.bfloat16),
        ("auto", Arithmetic("cuda", "fp32"), torch.bfloat16),  # a device of the other kind decides by itself
        ("auto", None, torch.bfloat16),
        ("fp32", Arithmetic("cpu", "bf16"), None),  # somebody has said it
    ],
)
def test_auto_stays_what_it_was_when_the_run_began(
    machine, asked: str, begun: Arithmetic | None, dtype: torch.dtype | None
):
    machine(0.5)
    assert settled_dtype(asked, CPU, begun) == dtype


def test_a_machine_is_timed_once_for_all_its_processes(machine, tmp_path: Path):
    assert (len(machine(0.5)), autocast_dtype("auto", CPU)) == (0, torch.bfloat16)
    kept = json.loads((tmp_path / "raydet" / "bf16_over_fp32.json").read_text())
    assert kept == {f"Some Processor, torch {torch.__version__}": 0.5}
    calls = machine(2.0)  # another process, at a bad moment
    assert autocast_dtype("auto", CPU) == torch.bfloat16
    assert calls == []


@pytest.mark.parametrize("content", ["", "[]", '{"a": ', "\x00", '{"Some Processor": 0.1}'])
def test_a_cache_that_says_nothing_is_written_anew(machine, tmp_path: Path, content: str):
    file = tmp_path / "raydet" / "bf16_over_fp32.json"
    file.parent.mkdir()
    file.write_text(content)
    assert len(machine(2.0)) == 0 and bf16_over_fp32() == 2.0
    assert json.loads(file.read_text())[f"Some Processor, torch {torch.__version__}"] == 2.0


def test_a_cache_that_cannot_be_written_costs_a_timing(machine, tmp_path: Path):
    (tmp_path / "raydet").write_text("a file")
    machine(0.5)
    assert autocast_dtype("auto", CPU) == torch.bfloat16


def test_a_processor_without_bf16_is_not_timed(machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_cpuinfo", lambda: "flags : sse2 avx2")
    calls = machine(0.1)
    assert autocast_dtype("auto", CPU) is None
    assert calls == []


def test_the_timing_is_a_ratio_and_draws_no_number_of_a_run():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    assert 0 < time_both() < 100
    assert torch.equal(torch.rand(4), wanted)


def test_doctor_warns_where_auto_took_the_slower():
    good = judge_precision("bf16", 1.0, "fp32", 2.0)
    assert (good.level, good.text) == (
        "ok",
        "a step takes 1.00 s in bf16, which auto chose here, and 2.00 s in fp32",
    )
    assert judge_precision("bf16", 2.5, "fp32", 2.0).level == "ok"  # 1.25 times: within what four steps tell
    bad = judge_precision("bf16", 2.6, "fp32", 2.0)
    assert bad.level == "warn" and "set optim.precision=fp32" in bad.advice
