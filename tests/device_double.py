"""A device that says it is a GPU, computes on the CPU, and writes down where a program would wait for it.

Tensors on it are of a class of their own that holds a CPU tensor. An operation on tensors of both places is refused, as
a real device refuses it; what has to know a value or a length on the host (`.item()`, `bool`, `nonzero`, a mask as an
index, a copy to the host, a copy from memory that is not pinned) is a wait, counted by the line of raydet that asks.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_any, tree_flatten, tree_map

import raydet

DEVICE = torch.device("cuda:0")
PACKAGE = Path(raydet.__file__).parent
aten = torch.ops.aten
LENGTHS = {  # operations whose result has a length that only the device knows, or is a plain number
    "aten::nonzero": "a length",
    "aten::masked_select": "a length",
    "aten::unique_dim": "a length",
    "aten::_unique": "a length",
    "aten::_unique2": "a length",
    "aten::_local_scalar_dense": "a value",
    "aten::is_nonzero": "a value",
    "aten::equal": "a value",
    "aten::bincount": "a length",
    "torchvision::nms": "a length",
}


class OnDevice(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        """Put a CPU tensor on the device; the two share their memory."""
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",  # what torch's own code sees, which would ask a GPU's driver
            requires_grad=False,
        )
        made.inner = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU; write down a wait."""
        kwargs = dict(kwargs or {})
        _check_devices(func, args, kwargs)
        wait = _wait_of(func, args, kwargs)
        if wait is not None:
            Waits.note(wait)
        leaves = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if func is aten._local_scalar_dense.default or leaves:
            # A copy to the host is never the device's memory.
            return out.clone() if isinstance(out, Tensor) and leaves else out
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_outside, out))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.inner!r})"


class Waits:
    """Where waits were asked for, by what they wait for and the line that asked."""

    found: Counter[tuple[str, str]] = Counter()

    @classmethod
    def note(cls, kind: str) -> None:
        """Write down a wait of the innermost line of raydet."""
        for frame in reversed(traceback.extract_stack()):
            file = Path(frame.filename)
            if file.is_relative_to(PACKAGE):
                cls.found[f"{file.relative_to(PACKAGE).as_posix()}:{frame.lineno} {frame.line}", kind] += 1
                return


class _Calls(TorchFunctionMode):
    """Puts on the device what is asked for there: the real one cannot be asked."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__ and isinstance(args[0], OnDevice):
            return DEVICE
        if func == Tensor.is_cuda.__get__:
            return isinstance(args[0], OnDevice)
        if func is Tensor.tolist and isinstance(args[0], OnDevice):
            Waits.note("a copy to the host")
            return args[0].inner.tolist()
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.__getitem__ and isinstance(args[0], OnDevice):
            args = (args[0], _index(args[1]))
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            Waits.note("a copy to the device")
            return OnDevice(torch.as_tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        if name in ("to", "cuda") and args and isinstance(args[0], Tensor):
            return self._moved(func, args, kwargs)
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "cuda":
            kwargs["device"] = "cpu"
            made = func(*args, **kwargs)
            if name in ("tensor", "as_tensor"):
                Waits.note("a copy to the device")
            return made if isinstance(made, OnDevice) else OnDevice(made).requires_grad_(made.requires_grad)
        return func(*args, **kwargs)

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        given, rest = args[0], args[1:]
        if func is Tensor.cuda:
            rest, kwargs = (DEVICE, *rest), kwargs
        if rest and isinstance(rest[0], Tensor):  # a tensor that has the place and the type
            rest = (DEVICE if isinstance(rest[0], OnDevice) else rest[0].device, rest[0].dtype, *rest[1:])
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(
            *rest, **{key: value for key, value in kwargs.items() if key != "copy"}
        )
        if device is None or device.type != "cuda":
            return func(*args, **kwargs)
        if isinstance(given, OnDevice):
            return given if dtype in (None, given.dtype) and layout is None else given.to(dtype=dtype or given.dtype)
        if not non_blocking:
            Waits.note("a copy to the device")
        moved = given.to(dtype=dtype, memory_format=layout or torch.preserve_format)
        return _Arrive.apply(moved)


class _Generator(torch.Generator):
    """Draws on the CPU, whatever the place."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")


class _Factories(TorchDispatchMode):
    """Makes on the device what torch's own code makes where the tensors that it looks at are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_ours = tree_any(lambda each: isinstance(each, OnDevice), (args, kwargs))
        if not is_ours and torch.device(kwargs.get("device") or "cpu").type == "meta":
            return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return OnDevice(given.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.inner if isinstance(grad, OnDevice) else grad


@contextmanager
def waits() -> Iterator[Counter[tuple[str, str]]]:
    """Within it `DEVICE` can be asked for; gives what was waited for: (line, kind) -> how often."""
    Waits.found = Counter()
    before, generator = torch.__future__.get_overwrite_module_params_on_conversion(), torch.Generator
    torch.Generator = _Generator  # type: ignore[misc]
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Calls(), _Factories():
            yield Waits.found
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
        torch.Generator = generator  # type: ignore[misc]


def _index(rows: Any) -> Any:
    """Send the lists of an index to the device, as torch does."""
    if isinstance(rows, tuple):
        return tuple(_index(each) for each in rows)
    if not isinstance(rows, list):
        return rows
    Waits.note("a copy to the device")
    return OnDevice(torch.tensor(rows))


def _inside(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _outside(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    strangers = [each for each in given if not isinstance(each, OnDevice) and each.dim() > 0]
    name = func._schema.name
    if strangers and any(isinstance(each, OnDevice) for each in given):
        if name in ("aten::copy_", "aten::_to_copy"):
            return
        if name in ("aten::index", "aten::index_put_", "aten::index_put", "aten::_unsafe_index"):
            return
        shapes = [tuple(each.shape) for each in strangers]
        raise RuntimeError(f"{name}: tensors of the device and of the CPU ({shapes}) in one operation")


def _wait_of(func: Any, args: Any, kwargs: Any) -> str | None:
    name = func._schema.name
    if name in LENGTHS:
        return LENGTHS[name]
    if func is aten.where.default or name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        return "a length"
    if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"):
        rows = [each for each in args[1] if each is not None]
        if any(each.dtype in (torch.bool, torch.uint8) for each in rows):
            return "a length"
        if any(not isinstance(each, OnDevice) for each in rows):
            return "a copy to the device"
    if "device" in kwargs and torch.device(kwargs["device"]).type == "cpu":
        return "a copy to the host"
    if name == "aten::copy_" and not tree_any(lambda each: isinstance(each, OnDevice), args[0]):
        return "a copy to the host"
    if name == "aten::copy_" and not isinstance(args[1], OnDevice):
        return None if len(args) > 2 and args[2] else "a copy to the device"
    return None
