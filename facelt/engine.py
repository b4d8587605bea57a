"""All that knows DeepSpeed: the replicated network in its engine, the class-sharded head beside it, one step for both.

DeepSpeed averages the gradients of replicated parameters over ranks, while the objective is the sum over ranks of
what each returns: `comms.leave_averaging` stands between the two. Class-sharded parameters never enter the engine,
which would broadcast, average and save them as if they were replicas.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.runtime.config import DeepSpeedConfigError
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)
from pydantic import ValidationError
from torch import Tensor, nn

from facelt import comms
from facelt.embedder import Embedded
from facelt.model import Head, Step

# DeepSpeed compiles a shared-memory operator of its CPU backend at its first start: a minute of g++, behind a lock file
# that a killed process leaves locked. Only its inference uses it; nothing here does.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
logger.setLevel("ERROR")  # its notices are for its own developers


class Engine:
    """The embedder under DeepSpeed and the head's shards under an optimizer of the same kind (SGD).

    embedder: the replicated module; only parameters that require a gradient are trained. head: class-sharded.
    ds: DeepSpeed's configuration. memory_weight_decay: for parameters named *.centroids; None: as the rest.
    Raises ValueError for an optimizer or a precision that the two halves cannot share.
    """

    def __init__(
        self, embedder: nn.Module, head: Head, ds: dict[str, Any], memory_weight_decay: float | None = None
    ) -> None:
        ds, knobs = _split_optimizer(ds)
        self.head = head
        self.base_lr: float = knobs["lr"]
        self.moments = ("momentum_buffer",) if knobs.get("momentum") else ()  # what SGD remembers of a parameter
        trained = [p for p in embedder.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, **knobs)
        try:
            self.engine, *_ = deepspeed.initialize(
                model=embedder, model_parameters=trained, optimizer=optimizer, config=ds
            )
        except (AssertionError, DeepSpeedConfigError, ValidationError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"DeepSpeed refuses its configuration: {reason}; correct the JSON") from None
        learned = {name: p for name, p in head.named_parameters() if p.requires_grad}
        centroids = [p for name, p in learned.items() if name.endswith("centroids")]
        others = [p for name, p in learned.items() if not name.endswith("centroids")]
        own_decay = {} if memory_weight_decay is None else {"weight_decay": memory_weight_decay}
        groups = [{"params": others}, {"params": centroids, **own_decay}]
        self.head_optimizer = torch.optim.SGD([g for g in groups if g["params"]], **knobs)
        self.head_dtype = next(head.parameters()).dtype

    @property
    def embedder(self) -> nn.Module:
        return self.engine.module

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step, over all ranks and accumulated micro-batches."""
        return self.engine.train_batch_size()

    @property
    def micro_batch(self) -> int:
        """Images of one rank in one forward pass."""
        return self.engine.train_micro_batch_size_per_gpu()

    @property
    def accumulation(self) -> int:
        """Forward passes of one optimizer step."""
        return self.engine.gradient_accumulation_steps()

    def embed(self, images_B3HW: Tensor) -> Embedded:
        """What the embedder gives, in the head's dtype, for an objective summed over ranks."""
        parts = self.engine(images_B3HW)
        return Embedded(*(None if p is None else comms.leave_averaging(p.to(self.head_dtype)) for p in parts))

    def forward_backward(self, images_B3HW: Tensor, labels_G: Tensor, seed: int = 0) -> Step:
        """One micro-batch: labels_G are those of all ranks' images. Gradients accumulate in both halves.

        seed: of what the head draws in this micro-batch; the same on all ranks.
        """
        step = self.head(self.embed(images_B3HW), labels_G, seed)
        self.engine.backward(step.loss)
        return step

    def step(self, lr: float) -> None:
        """Update both halves after a micro-batch; DeepSpeed decides whether this one ends an accumulation."""
        for group in (*self.engine.optimizer.param_groups, *self.head_optimizer.param_groups):
            group["lr"] = lr
        boundary = self.engine.is_gradient_accumulation_boundary()
        self.engine.step()
        if not boundary:
            return
        applied = self.engine.was_step_applied()
        if applied:
            self.head_optimizer.step()
        self.head.after_step(applied)
        self.head_optimizer.zero_grad(set_to_none=False)  # the gradients' memory is used again: see `blocks`

    def replicated_weights(self) -> dict[str, Tensor]:
        """Every weight and buffer of the embedder in full, in float32. All ranks must call it."""
        state = {name: tensor.detach() for name, tensor in self.embedder.state_dict().items()}
        for name, parameter in self.embedder.named_parameters():
            full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
            if full is not None:
                state[name] = full
        return state

    def replicated_moments(self) -> dict[str, Tensor]:
        """What the optimizer remembers of the embedder, "parameter.moment" -> tensor. All ranks must call it."""
        return {
            f"{name}.{moment}": self._moment(parameter, moment)
            for name, parameter in self._trained()
            for moment in self.moments
        }

    def load_replicated_moments(self, moments: dict[str, Tensor]) -> None:
        """Take up what `replicated_moments` gave, at this number of ranks and ZeRO stage."""
        optimizer = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        _start_moments(optimizer, self.moments)
        if hasattr(self.engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._trained():
            for moment in self.moments:
                value = moments[f"{name}.{moment}"].to(parameter.device)
                if hasattr(parameter, "_hp_mapping"):
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    optimizer.state[parameter][moment].copy_(value)

    def sharded_rows(self) -> dict[str, Tensor]:
        """This rank's rows of every class-sharded tensor: weights and moments."""
        rows = {name: parameter.detach() for name, parameter in self.head.named_parameters()}
        for name, parameter in self._learned():
            state = self.head_optimizer.state.get(parameter, {})
            for moment in self.moments:
                rows[f"{name}.{moment}"] = state.get(moment, torch.zeros_like(parameter))
        return rows

    def load_sharded_rows(self, rows: dict[str, Tensor]) -> None:
        """Take up this rank's rows as `sharded_rows` names them."""
        _start_moments(self.head_optimizer, self.moments)
        with torch.no_grad():
            for name, parameter in self.head.named_parameters():
                parameter.copy_(rows[name])
            for name, parameter in self._learned():
                for moment in self.moments:
                    self.head_optimizer.state[parameter][moment].copy_(rows[f"{name}.{moment}"])

    def scalars(self) -> dict[str, float]:
        """What else the steps remember, the same on all ranks: the norm statistics of AdaFace."""
        return {"norm_mean": self.head.margin.mean, "norm_deviation": self.head.margin.deviation}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        """Take up what `scalars` gave; what is missing keeps its start."""
        margin = self.head.margin
        margin.mean = scalars.get("norm_mean", margin.mean)
        margin.deviation = scalars.get("norm_deviation", margin.deviation)

    def _learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.head.named_parameters() if p.requires_grad)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.embedder.named_parameters() if p.requires_grad)

    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        if hasattr(parameter, "_hp_mapping"):
            return safe_get_full_optimizer_state(parameter, moment)
        return self.engine.optimizer.state.get(parameter, {}).get(moment, torch.zeros_like(parameter))


def _start_moments(optimizer: torch.optim.Optimizer, moments: tuple[str, ...]) -> None:
    """Give every parameter empty moments, which torch would make only at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for moment in moments:
                optimizer.state[parameter].setdefault(moment, torch.zeros_like(parameter))


def _split_optimizer(ds: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """DeepSpeed's configuration without its optimizer, and the parameters of that optimizer.

    Raises ValueError for what the replicated and the class-sharded half could not do alike.
    """
    ds = dict(ds)
    block = ds.pop("optimizer", None)
    kind, knobs = (block.get("type"), block.get("params")) if isinstance(block, dict) else (block, None)
    if kind != "SGD" or not isinstance(knobs, dict):
        raise ValueError(f"optimizer.type is {kind!r}; expected SGD with its params; set it as in jobs/ds.json")
    known = set(inspect.signature(torch.optim.SGD).parameters) - {"params"}
    if unknown := sorted(set(knobs) - known):
        raise ValueError(f"optimizer.params.{unknown[0]} is not known; expected some of: {', '.join(sorted(known))}")
    if isinstance(knobs.get("lr"), bool) or not isinstance(knobs.get("lr"), int | float):
        raise ValueError(f"optimizer.params.lr is {knobs.get('lr')!r}; expected a number; set it in the JSON")
    zero = ds.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if not isinstance(zero, dict) or stage not in (0, 1, 2):
        raise ValueError(f"zero_optimization.stage is {stage!r}; expected 0, 1 or 2: the class axis is sharded already")
    autocast = ds.get("torch_autocast", {})
    if any(ds.get(kind, {}).get("enabled") for kind in ("fp16", "bf16")) or autocast.get("dtype") == "float16":
        raise ValueError('fp16 and bf16 keep no float32 weights; expected "torch_autocast" with "dtype": "bfloat16"')
    if ds.get("gradient_clipping"):
        raise ValueError("gradient_clipping would clip the network and not its sharded head; leave it out")
    ds.setdefault("zero_allow_untested_optimizer", True)
    return ds, knobs
