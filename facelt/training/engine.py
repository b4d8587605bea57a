"""All that knows DeepSpeed: the replicated network in its engine, the class-sharded head beside it, one step for both.

DeepSpeed averages the gradients of replicated parameters over ranks, while the objective is the sum over ranks of
what each returns: `collectives.leave_averaging` stands between the two. Class-sharded parameters never enter
DeepSpeed's engine, which would broadcast, average and save them as if they were replicas.
"""

import math
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor, nn

from facelt.errors import UserError
from facelt.head.heads import Head, HeadOutput
from facelt.network.embedder import Embedded, Embedder
from facelt.network.weight_generator import Generation
from facelt.parallel import collectives, group, heartbeat
from facelt.training import deepspeed_internals as internals
from facelt.training.optimizer import norm_and_loss, split, start_moments

internals.quieten()


class Engine:
    """The embedder under DeepSpeed and the head's shards under an optimizer of the same kind (SGD).

    embedder: the replicated module; only parameters that require a gradient are trained. head: class-sharded.
    ds: DeepSpeed's configuration. network_lr: times the rate of a step, for the embedder; 0: nothing of it moves.
    gradient_norm: that of the whole model at the last step, before clipping (inf or nan: the step was skipped).
    loss: of the last step, all ranks' images; known on all ranks. skipped: whether that step was.
    explained: whether steps also find out `largest_gradient`, the parameter whose gradient was the largest.
    skipped_steps: how many were skipped since the start, in both halves on all ranks.
    Raises UserError for an optimizer or a precision that the two halves cannot share.
    """

    def __init__(self, embedder: Embedder, head: Head, ds: dict[str, Any], network_lr: float = 1) -> None:
        ds, knobs, self.clipping = split(ds)
        if group.world_size() == 1:  # parts of one rank are the whole, at four copies of the network a step
            zero = {
                name: value for name, value in ds.get("zero_optimization", {}).items() if name != "compute_grad_norm"
            }
            ds = {**ds, "zero_optimization": {**zero, "stage": 0}}
        self.embedder, self.head, self.network_lr = embedder, head, network_lr
        self.base_lr: float = knobs["lr"]
        self.moments = ("momentum_buffer",) if knobs.get("momentum") else ()  # what SGD remembers of a parameter
        trained = [p for p in embedder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, **knobs)
        try:
            self.engine: Any = deepspeed.initialize(
                model=embedder,
                model_parameters=trained,  # pyright: ignore[reportArgumentType]
                optimizer=self.optimizer,
                config=ds,
            )[0]
        except (AssertionError, internals.DeepSpeedConfigError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"DeepSpeed refuses its configuration: {reason}; correct the JSON") from None
        self.head_optimizer = torch.optim.SGD([g for g in head.parameter_groups() if g["params"]], **knobs)
        self.head_dtype = next(head.parameters()).dtype
        for optimizer in (self.optimizer, self.head_optimizer):
            start_moments(optimizer, self.moments)
        internals.start_moments(self.engine)
        if group.world_size() == 1:
            internals.reduce_nothing(self.engine)
        self.scaler = internals.take_scaler(self.engine)
        self.optimizer.register_step_pre_hook(self._settle)
        self.gradient_norm, self.loss, self.skipped_steps = 0.0, 0.0, 0
        self._shares: list[Tensor] = []
        self.explained, self.largest_gradient = False, "unknown"

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
        direct_BD, concept_BD, temperature, generation = self.engine(images_B3HW)
        return Embedded(
            self._towards_head(direct_BD),
            None if concept_BD is None else self._towards_head(concept_BD),
            None if temperature is None else self._towards_head(temperature),
            None if generation is None else Generation(*map(self._towards_head, generation)),
        )

    def _towards_head(self, part: Tensor) -> Tensor:
        return collectives.leave_averaging(part.to(self.head_dtype))

    def forward_backward(self, images_B3HW: Tensor, labels_G: Tensor, seed: int = 0) -> HeadOutput:
        """One micro-batch: labels_G are those of all ranks' images. Gradients accumulate in both halves.

        seed: of what the head draws in this micro-batch; the same on all ranks.
        """
        heartbeat.mark("forward")
        output: HeadOutput = self.head(self.embed(images_B3HW), labels_G, seed)
        self._shares.append(output.loss.detach())
        heartbeat.mark("backward")
        self.engine.backward(output.loss * self.loss_scale)
        return output

    def step(self, lr: float) -> None:
        """Update both halves after a micro-batch; DeepSpeed decides whether this one ends an accumulation.

        lr: the network has it times `network_lr`, each group of the head's parameters times its own `lr_scale`.
        Raises UserError when gradients overflow at the smallest loss scale.
        """
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = lr * self.network_lr
        for param_group in self.head_optimizer.param_groups:
            param_group["lr"] = lr * param_group["lr_scale"]
        boundary = self.engine.is_gradient_accumulation_boundary()
        heartbeat.mark("update")
        if boundary and self.explained:
            self.largest_gradient = self._largest_gradient()
        self.engine.step()
        if not boundary:
            return
        overflow = self.skipped
        if not overflow:
            self.head_optimizer.step()
        self.head.after_step(not overflow)
        self.head_optimizer.zero_grad(set_to_none=False)  # the gradients' memory is used again: see `head.blocked`
        self.skipped_steps += overflow
        if overflow and internals.at_its_smallest(self.scaler):
            raise UserError(
                f"gradients overflow float16 even at the smallest loss scale, {self.loss_scale:g}: lower "
                'optimizer.params.lr, or use "dtype": "bfloat16"'
            )
        self.scaler.update_scale(overflow)

    def _settle(self, *_: Any) -> None:
        """Decide for both halves, when DeepSpeed's optimizer is about to step, what becomes of their gradients.

        By then it holds those averaged over ranks and micro-batches: in full under ZeRO 0, a part of each rank under
        1 and 2. An optimizer passes over parameters without a gradient, and its fused kernel divides by `grad_scale`.
        """
        theirs = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        heads = [p.grad for p in self.head.parameters() if p.grad is not None]
        partitioned = self.engine.zero_optimization()
        sharded, replicated = (heads + theirs, []) if partitioned else (heads, theirs)
        share = torch.stack([part.to(self.head_dtype) for part in self._shares]).mean()
        self._shares.clear()
        norm, self.loss = norm_and_loss(sharded, replicated, share)
        norm = self.gradient_norm = norm / self.loss_scale
        if not math.isfinite(norm):
            for param_group in self.optimizer.param_groups:
                for parameter in param_group["params"]:
                    parameter.grad = None
            return
        divisor = self.loss_scale * (max(1.0, (norm + 1e-6) / self.clipping) if self.clipping else 1.0)
        for optimizer in (self.optimizer, self.head_optimizer):
            scale = None if divisor == 1 else torch.full((), divisor, device=share.device)  # no copy that waits
            optimizer.grad_scale = scale  # pyright: ignore[reportAttributeAccessIssue] - its fused kernel divides by it

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped, in both halves on all ranks: its gradient was not finite."""
        return not math.isfinite(self.gradient_norm)

    def _largest_gradient(self) -> str:
        """The name of the parameter whose gradient has the largest norm over all ranks, a non-finite one first."""
        network = [(name, safe_get_full_grad(p)) for name, p in self._trained()]
        heads = [(name, p.grad) for name, p in self._learned()]
        found = [(name, gradient) for name, gradient in network + heads if gradient is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient.double()) for _, gradient in found])
        norms = torch.where(norms.isfinite(), norms, torch.inf)
        return found[int(collectives.all_max(norms).argmax())][0]

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by before the backward pass: 1 without float16."""
        return self.scaler.cur_scale

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
            f"{name}.{moment}": internals.moment_of(parameter, moment, self.optimizer)
            for name, parameter in self._trained()
            for moment in self.moments
        }

    def load_replicated_moments(self, moments: dict[str, Tensor]) -> None:
        """Load what `replicated_moments` gave, at this number of ranks and ZeRO stage."""
        for name, parameter in self._trained():
            for moment in self.moments:
                value = _of_moment(moments, f"{name}.{moment}").to(parameter.device)
                internals.load_moment(parameter, moment, self.optimizer, value)

    def sharded_rows(self) -> dict[str, Tensor]:
        """This rank's rows of every class-sharded tensor: weights and moments."""
        rows = {name: parameter.detach() for name, parameter in self.head.named_parameters()}
        for name, parameter in self._learned():
            for moment in self.moments:
                rows[f"{name}.{moment}"] = self.head_optimizer.state[parameter][moment]
        return rows

    def load_sharded_rows(self, rows: dict[str, Tensor]) -> None:
        """Load this rank's rows as `sharded_rows` names them."""
        with torch.no_grad():
            for name, parameter in self.head.named_parameters():
                parameter.copy_(rows[name])
            for name, parameter in self._learned():
                for moment in self.moments:
                    self.head_optimizer.state[parameter][moment].copy_(_of_moment(rows, f"{name}.{moment}"))

    def figures(self) -> dict[str, float]:
        """What a log may say of the last step, the same on all ranks: the gradient's norm, unless it was skipped."""
        norm = {"gradient_norm": self.gradient_norm} if math.isfinite(self.gradient_norm) else {}
        scale = {"loss_scale": self.loss_scale} if self.scaler.dynamic else {}
        return {**norm, **scale, "skipped_steps": self.skipped_steps}

    def scalars(self) -> dict[str, float]:
        """What else the steps remember, the same on all ranks: of the head, and a dynamic loss scale."""
        return {**self.head.scalars(), **internals.scaler_state(self.scaler)}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        """Load what `scalars` gave; what is missing keeps its start."""
        self.head.load_scalars(scalars)
        internals.load_scaler_state(self.scaler, scalars)

    def _learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.head.named_parameters() if p.requires_grad)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.embedder.named_parameters() if p.requires_grad)


def _of_moment(saved: dict[str, Tensor], name: str) -> Tensor:
    if name not in saved:
        raise UserError(
            f"the checkpoint has no {name}: it was trained with other optimizer.params.momentum, or "
            "freeze_backbone; keep those, or another --output"
        )
    return saved[name]
