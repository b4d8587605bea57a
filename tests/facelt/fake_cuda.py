"""A CUDA device that is not there: tensors that say cuda:0, obey its rules, and hold real values in host memory.

Within `FakeCuda`, whatever is asked for on a CUDA device becomes a `OnDevice`: a tensor whose every operation is seen.
An operation that mixes devices as CUDA forbids fails; the others compute on the CPU and are counted: kernels, bytes,
products, and where in the sources the host waits for the device. What this cannot show: speed, CUDA's own rounding,
streams, and what an operator does inside itself.

Torch's C++ takes these tensors for the CPU's, so that autograd runs without a driver. What it makes by itself of a
tensor's options therefore comes out as the CPU's; where such a thing meets a device tensor, that is a device mix here.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SOURCES = Path(__file__).parents[2]

# What launches nothing: views, and memory that is not written to.
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh"}
_NO_KERNEL |= {"set_", "resize_", "_reshape_alias", "is_pinned", "record_stream"}
# How many numbers come out is known on the device alone, so that the host waits.
_SIZED_BY_VALUES = {"nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique2", "_unique", "bincount"}
_SIZED_BY_VALUES |= {"equal", "is_nonzero", "argwhere", "nonzero_numpy", "histc"}
_READS = {"_local_scalar_dense"}
_INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}
_MIXES = {"_to_copy", "copy_", "_foreach_copy_"}
# Pointwise in all but their tag: a number of the host may stand beside a tensor of the device.
_TAKES_NUMBERS = {"index_put_", "index_put", "_index_put_impl_", "index_fill_", "masked_fill", "masked_fill_"}


class DeviceMixError(RuntimeError):
    """An operation that CUDA would refuse: its tensors are not on one device."""


class OnDevice(Tensor):
    """A tensor of the device that is not there."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    @property
    def is_cpu(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return False

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **_without(kwargs, "copy"))
        if device is not None and torch.device(device).type == "cpu":
            return _to_host(self, dtype, non_blocking)
        return super().to(dtype=dtype or self.dtype, memory_format=memory_format or torch.preserve_format,
                          copy=kwargs.get("copy", False))  # fmt: skip

    def cpu(self, *_: Any) -> Tensor:
        return self.to(CPU)

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self

    def tolist(self) -> Any:
        return self.to(CPU).tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


def on_device(tensor: Tensor) -> Tensor:
    """A tensor of the host as one of the device, in the same memory."""
    made = Tensor._make_subclass(OnDevice, tensor.detach(), tensor.requires_grad)
    return made


def on_host(value: Any) -> Any:
    """Tensors of the device, in whatever they stand in, as the host's: for comparing, not counted."""

    def one(x: Any) -> Any:
        return _plain(x) if isinstance(x, OnDevice) else x

    return tree_map(one, value)


def _plain(x: Tensor) -> Tensor:
    x = x.detach()
    return torch._C._disabled_torch_dispatch_impl(aten.clone.default, (), (x,), {}).as_subclass(Tensor)


def _to_host(x: Tensor, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
    _note_sync("copy to the host" + (", without waiting" if non_blocking else ""))
    plain = _plain(x)
    return plain if dtype is None else plain.to(dtype)


@dataclass
class Tally:
    """What was done on the device since it was made.

    kernels: operator -> how often it was launched. bytes: read and written by them. multiplied: products m·n·k of
    matrix products. syncs: "file:line operator" -> how often the host waited there. collectives: of tensors.
    """

    kernels: Counter = field(default_factory=Counter)
    syncs: Counter = field(default_factory=Counter)
    bytes: int = 0
    multiplied: int = 0
    collectives: int = 0

    def products(self, G: int, k: int, D: int) -> float:
        """How many products of G x k x D the matrix products come to."""
        return self.multiplied / (G * k * D)

    def launched(self) -> int:
        """How many kernels: one for each operator."""
        return self.kernels.total()

    def waits(self, folder: str = "") -> int:
        """How often the host waited for the device, in the sources below a folder of the project."""
        return sum(n for place, n in self.syncs.items() if place.startswith(folder))

    def places(self) -> str:
        """Where the host waited, a line each, for the message of a failing test."""
        return "\n".join(f"{n} x {place}" for place, n in self.syncs.most_common()) or "nowhere"


_tallies: list[Tally] = []


@contextmanager
def counted() -> Iterator[Tally]:
    """Count what is done on the device within."""
    tally = Tally()
    _tallies.append(tally)
    try:
        yield tally
    finally:
        _tallies.remove(tally)


def _place() -> str:
    """file:line of the innermost line of the sources, or of a test, on the stack."""
    frame, fallback = sys._getframe(1), "?"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(SOURCES)) and "/.venv/" not in name and name != __file__:
            place = f"{Path(name).relative_to(SOURCES)}:{frame.f_lineno}"
            if place.startswith("facelt/"):
                return place
            fallback = place if fallback == "?" else fallback
        frame = frame.f_back
    return fallback


def _note_sync(what: str) -> None:
    if _tallies:
        place = f"{_place()} {what}"
        for tally in _tallies:
            tally.syncs[place] += 1


def _size(x: Any) -> int:
    return x.numel() * x.element_size() if isinstance(x, Tensor) else 0


@cache
def _name(func: Any) -> str:
    return func._schema.name.partition("::")[2]


@cache
def _is_pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


@cache
def _launches(func: Any) -> bool:
    return not func.is_view and _name(func) not in _NO_KERNEL


def _multiplied(name: str, tensors: list[Tensor], out: Any) -> int:
    if name in ("mm", "bmm", "_int_mm"):
        return out.numel() * tensors[0].shape[-1]
    if name in ("addmm", "addmm_", "baddbmm", "baddbmm_"):
        return out.numel() * tensors[1].shape[-1]
    return 0


def _check_devices(func: Any, name: str, tensors: list[Tensor]) -> None:
    """Refuse what CUDA refuses: numbers of the host may stand beside tensors of the device, and indices."""
    if name in _MIXES or not any(isinstance(x, OnDevice) for x in tensors):
        return
    numbers = _is_pointwise(func) or name in _TAKES_NUMBERS
    for x in tensors[1:] if name in _INDEXED else tensors:
        if isinstance(x, OnDevice) or (numbers and x.dim() == 0):
            continue
        if name in _INDEXED and x.dtype in (torch.int64, torch.bool, torch.uint8):
            _note_sync(f"{name}: indices copied to the device")
            continue
        raise DeviceMixError(f"{_place()} {name}: a tensor of the CPU, {tuple(x.shape)}, among those on cuda:0")
    if name in _INDEXED and not isinstance(tensors[0], OnDevice):
        raise DeviceMixError(f"{_place()} {name}: a tensor of the CPU indexed by one on cuda:0")


def _count(func: Any, name: str, tensors: list[Tensor], out: Any) -> None:
    if not _tallies or not _launches(func):
        return
    if name in _SIZED_BY_VALUES or name in _READS:
        _note_sync(name)
    if name in _INDEXED and any(x.dtype == torch.bool for x in tensors[1:] if x.dim()) and len(tensors) > 1:
        masks = tensors[1:-1] if "put" in name else tensors[1:]
        if any(x.dtype == torch.bool for x in masks):
            _note_sync(f"{name} by a mask")
    if name.startswith("index_put") and tensors[-1].dim() == 0 and not isinstance(tensors[-1], OnDevice):
        _note_sync(f"{name} of a number: copied to the device")
    if name in ("repeat_interleave",) and len(tensors) > 1:
        _note_sync(name)
    outs = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
    for tally in _tallies:
        tally.kernels[name] += 1
        tally.bytes += sum(map(_size, {id(x): x for x in (*tensors, *outs)}.values()))
        tally.multiplied += _multiplied(name, tensors, out)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _batch_norm_stats(x_BCHW: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x = x_BCHW.double()
    mean_C, var_C = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return mean_C.to(_wide(x_BCHW)), (var_C + eps).rsqrt().to(_wide(x_BCHW))


def _batch_norm_gather_stats_with_counts(
    x_BCHW, means_RC, inverses_RC, running_mean_C, running_var_C, momentum, eps, counts_R
) -> tuple[Tensor, Tensor]:
    assert counts_R.dtype == running_mean_C.dtype
    n, share_R1 = counts_R.double().sum(), counts_R.double()[:, None]
    mean_C = (share_R1 * means_RC.double()).sum(0) / n
    var_RC = inverses_RC.double() ** -2 - eps
    var_C = (share_R1 * (var_RC + (means_RC.double() - mean_C) ** 2)).sum(0) / n
    running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
    running_var_C.lerp_((var_C * n / (n - 1)).to(running_var_C.dtype), momentum)
    return mean_C.to(_wide(x_BCHW)), (var_C + eps).rsqrt().to(_wide(x_BCHW))


def _batch_norm_elemt(x_BCHW, weight_C, bias_C, mean_C, inverse_C, eps) -> Tensor:
    wide = (1, -1, 1, 1)
    y = (x_BCHW.to(_wide(x_BCHW)) - mean_C.view(wide)) * (weight_C * inverse_C).view(wide) + bias_C.view(wide)
    return y.to(x_BCHW.dtype)


def _batch_norm_backward_reduce(
    dy_BCHW, x_BCHW, mean_C, inverse_C, weight_C, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert all(wanted)
    dy = dy_BCHW.double()
    dy_C, along_C = dy.sum((0, 2, 3)), (dy * (x_BCHW.double() - mean_C.view(1, -1, 1, 1))).sum((0, 2, 3))
    return (
        dy_C.to(_wide(x_BCHW)),
        along_C.to(_wide(x_BCHW)),
        (along_C * inverse_C).to(weight_C.dtype),
        dy_C.to(weight_C.dtype),
    )


def _batch_norm_backward_elemt(dy_BCHW, x_BCHW, mean_C, inverse_C, weight_C, dy_C, along_C, counts_R) -> Tensor:
    assert counts_R.dtype == torch.int32
    wide, n = (1, -1, 1, 1), counts_R.sum()
    x_hat = (x_BCHW.to(_wide(x_BCHW)) - mean_C.view(wide)) * (inverse_C**2 * along_C / n).view(wide)
    dx = (dy_BCHW.to(_wide(x_BCHW)) - (dy_C / n).view(wide) - x_hat) * (weight_C * inverse_C).view(wide)
    return dx.to(x_BCHW.dtype)


# Operators that torch has on CUDA alone, from their definitions (those of torch's SyncBatchNorm).
_STAND_INS = {
    "batch_norm_stats": _batch_norm_stats,
    "batch_norm_gather_stats_with_counts": _batch_norm_gather_stats_with_counts,
    "batch_norm_elemt": _batch_norm_elemt,
    "batch_norm_backward_reduce": _batch_norm_backward_reduce,
    "batch_norm_backward_elemt": _batch_norm_backward_elemt,
}


def _mm_of_low_operands(left: Tensor, right: Tensor, out_dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    product = left.to(out_dtype) @ right.to(out_dtype)
    return product if out is None else out.copy_(product)


def _compute(func: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    if name == "mm" and func._overloadname in ("dtype", "dtype_out"):
        with _uncounted():
            made = _mm_of_low_operands(*args, **kwargs)
            return made.as_subclass(Tensor) if kwargs.get("out") is None else made
    if name in _STAND_INS:
        with _uncounted():
            return tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, OnDevice) else x,
                            _STAND_INS[name](*args, **kwargs))  # fmt: skip
    return torch._C._disabled_torch_dispatch_impl(func, (), args, kwargs)


@contextmanager
def _uncounted() -> Iterator[None]:
    """What stands in for one operator is not counted as many."""
    tallies = _tallies[:]
    _tallies.clear()
    try:
        yield
    finally:
        _tallies.extend(tallies)


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    tensors = [x for x in flat if isinstance(x, Tensor)]
    ours = any(isinstance(x, OnDevice) for x in tensors)
    name = _name(func)
    if func.namespace == "c10d":
        return _collective(func, name, tensors, args, kwargs)
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if asked is not None and asked.type == "cuda":
        kwargs = {**kwargs, "device": CPU}
    if name == "copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
        _note_sync(f"copy to the {'device' if isinstance(args[0], OnDevice) else 'host'}")
        torch._C._disabled_torch_dispatch_impl(func, (), args, kwargs)
        return args[0]
    if not ours and not tensors and _callers[-1]:
        asked = CUDA  # made by torch itself, of the options of what it was given
    if not ours and (asked is None or asked.type != "cuda"):
        return func(*args, **kwargs)
    _check_devices(func, name, tensors)
    out = _compute(func, name, args, kwargs)
    _count(func, name, tensors, out)
    same = {id(x) for x in tensors}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or id(x) in same or isinstance(x, OnDevice):
            return x
        return on_device(x)

    return tree_map(wrapped, out)


def _collective(func: Any, name: str, tensors: list[Tensor], args: tuple, kwargs: dict[str, Any]) -> Any:
    """NCCL takes tensors of the device alone; values of Python's travel otherwise (`facelt.parallel.group`)."""
    ours = [isinstance(x, OnDevice) for x in tensors]
    if any(ours) and not all(ours):
        raise DeviceMixError(f"{_place()} {name}: tensors of the CPU and of cuda:0")
    if not any(ours) and "collectives.py" in _place():
        raise DeviceMixError(f"{_place()} {name}: NCCL is given a tensor of the CPU")
    for tally in _tallies:
        tally.collectives += any(ours)
    return torch._C._disabled_torch_dispatch_impl(func, (), args, kwargs)


class _Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """What torch's own way would open a device for: tensors of Python's numbers, and copies of the host's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_cuda(kwargs.get("device")):
            if isinstance(args[0], Tensor):
                return args[0].to(device=CUDA, dtype=kwargs.get("dtype"))
            return _to_device(torch.tensor(*args, **_without(kwargs, "device")), None, False)
        if func in (Tensor.to, Tensor.cuda) and not isinstance(args[0], OnDevice):
            to = func is Tensor.to
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args[1:], **_without(kwargs, "copy")) if to else (
                CUDA, None, False, None)  # fmt: skip
            if _is_cuda(device):
                return _to_device(args[0], dtype, non_blocking)
        if func is Tensor.pin_memory:
            args[0].pinned = True
            return args[0]
        _callers.append(any(isinstance(x, OnDevice) for x in tree_flatten((args, kwargs))[0]))
        try:
            if func is Tensor.backward:
                with self:  # what a backward pass calls of Python is seen too
                    return torch.autograd.backward(args[0], kwargs.get("gradient"), kwargs.get("retain_graph"))
            return func(*args, **kwargs)
        finally:
            _callers.pop()


# Of Python's calls into torch that are under way: whether they were given a tensor of the device.
_callers: list[bool] = [False]


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _to_device(x: Tensor, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
    assert not (x.requires_grad and torch.is_grad_enabled()), "no gradient goes back to the host here"
    if not (non_blocking and getattr(x, "pinned", False)):
        _note_sync("copy to the device")
    return on_device(x.detach().to(dtype or x.dtype, copy=True))


def _reduce_scatter(output: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    """NCCL's, by what gloo has. `input` is left as it was."""
    total = input.clone()
    dist.all_reduce(total)
    output.copy_(total.tensor_split(dist.get_world_size())[dist.get_rank()])


def _grouped(tensorlists: Any, with_indices: bool = False) -> Any:
    groups = torch._C._group_tensors_by_device_and_dtype(tensorlists, with_indices)
    device = CUDA if isinstance(next(x for x in tensorlists[0] if x is not None), OnDevice) else CPU
    return {(device, dtype): values for (_, dtype), values in groups.items()}


class FakeAccelerator(CPU_Accelerator):
    """DeepSpeed's name for the device; streams it has none."""

    def device_name(self, device_index: int | None = None) -> str:
        return "cuda" if device_index is None else f"cuda:{device_index}"

    def current_device(self) -> int:
        return 0

    def current_device_name(self) -> str:
        return "cuda:0"

    def on_accelerator(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cuda"


_plain_to = nn.Module.to


def _module_to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """A module that moves gets new parameters of the other kind; one that is there keeps those that it has."""
    moves = any(not isinstance(p, OnDevice) for p in (*self.parameters(), *self.buffers()))
    torch.__future__.set_overwrite_module_params_on_conversion(moves)
    try:
        return _plain_to(self, *args, **kwargs)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@contextmanager
def fake_cuda(nccl: bool = True) -> Iterator[None]:
    """Within, torch's CUDA devices are one that is not there.

    nccl: whether the group of ranks, which gloo carries, is taken for one of NCCL.
    """
    autocast = torch.amp.autocast_mode.autocast
    start = autocast.__init__

    def as_cpu(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        start(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    patches = [
        mock.patch("torch.cuda._lazy_init"),
        mock.patch("torch.cuda.get_device_capability", return_value=(9, 0)),
        mock.patch.object(autocast, "__init__", as_cpu),
        mock.patch.object(nn.Module, "to", _module_to),
        mock.patch.object(torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(_grouped)),
    ]
    if nccl and dist.is_initialized():
        patches.append(mock.patch.object(dist, "get_backend", return_value="nccl"))
        patches.append(mock.patch.object(dist, "reduce_scatter_single", _reduce_scatter))
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.callback(set_accelerator, get_accelerator())
        set_accelerator(FakeAccelerator())
        stack.enter_context(_Made())
        stack.enter_context(_Seen())
        yield


def maybe_fake_cuda() -> AbstractContextManager:
    """The device that is not there, where there is none."""
    return nullcontext() if torch.cuda.is_available() else fake_cuda()
