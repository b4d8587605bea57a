"""One stage of a run: from its newest checkpoint, or from what it starts from, to its last step."""

from facelt.config import StageName
from facelt.errors import UserError
from facelt.head import health
from facelt.head.few_shot import FewShotHead
from facelt.head.heads import HeadOutput, MetaHead
from facelt.head.prototype_head import PrototypeHead
from facelt.images.feed import Feed, RankPlan, make_sampler
from facelt.parallel import group, heartbeat
from facelt.run_folder import checkpoint
from facelt.run_folder.checkpoint import CheckpointState, StageSource
from facelt.training import filling, start
from facelt.training.ending import divergence
from facelt.training.ending.agreement import Agreement
from facelt.training.ending.divergence import Divergence
from facelt.training.engine import Engine
from facelt.training.run import Run
from facelt.training.schedule import Schedule
from facelt.training.telemetry import Report, Telemetry, in_words
from facelt.training.validating import Validating


class Trainer:
    """Trains one stage.

    start_from: another run, whose plain stage this one starts from where the run itself has none.
    Raises UserError where the newest checkpoint is of another run, or there is nothing to start from.
    """

    def __init__(self, run: Run, stage: StageName, start_from: str | None = None) -> None:
        self.run = run
        self.stage: StageName = stage
        self.knobs = run.config.stage(stage)
        self.schedule = Schedule(self.knobs, len(run.dataset), run.global_batch)
        self.resumed = group.share(checkpoint.latest(run.folder, stage))
        self.state = start.check_same_run(run, self.resumed) if self.resumed else None
        self.source = None if self.resumed else start.find_start(run, stage, start_from)
        self.first_step = self.state.step if self.state else 0
        self.restarts = int(self.state.scalars.get("restarts", 0)) + 1 if self.state else 0
        self.divergence = Divergence(run.config, self.state.scalars if self.state else {})

    def train(self) -> bool:
        """Go on to the last step. False when asked to stop before or at it."""
        if self.resumed and self.first_step >= self.schedule.steps:
            group.say(f"stage {self.stage}: finished in {self.resumed}")
            return True
        heartbeat.settle(False)
        heartbeat.mark("start")
        engine = self._engine()
        if not self.schedule.steps:
            self.save(engine, 0, needed=True, figures=self._measured(engine))
            what = "its memory" if self.stage == "memory" else "what the next stage starts from"
            group.say(f"stage {self.stage}: no epoch to train; {what} is in {self.run.folder / self.stage}")
            return True
        feed = self._feed(engine)
        wandb = self.run.config.telemetry.wandb
        telemetry = Telemetry(self.run.folder, self.stage, self.schedule, self.first_step, wandb)
        try:
            with self.run.stop.heeded():
                stopped_at = self._loop(engine, feed, telemetry)
        finally:
            telemetry.close()
        if stopped_at is not None:
            newest = checkpoint.latest(self.run.folder, self.stage)
            group.say(
                f"stage {self.stage}: stopped at step {stopped_at} as asked, saved in {newest}; "
                "run the same command to resume"
            )
        return stopped_at is None

    def _loop(self, engine: Engine, feed: Feed, telemetry: Telemetry) -> int | None:
        """Steps to the last, or to a request to stop; then the steps done."""
        frozen = self.knobs.freeze_network
        engine.embedder.train(not frozen)
        engine.embedder.backbone.train(not frozen and not self.knobs.freeze_backbone)
        agreement, due = Agreement(self.run.stop, self.run.device, self.run.config.checkpoint_minutes), False
        validating = Validating(self.run, self.stage, self.schedule)
        for step in range(self.first_step, self.schedule.steps):
            output = self.train_step(engine, feed, step)
            heartbeat.settle(True)
            telemetry.advance()
            last = step == self.schedule.steps - 1
            self._judge(engine, telemetry, step, last)
            if step % self.run.config.log_every == 0 or last:
                telemetry.log(self._report(engine, output, step, feed.waited))
            if last and isinstance(engine.head, PrototypeHead):
                filling.fill_prototypes(self.run, engine.embedder, engine.head, ends=True)
            if last and isinstance(engine.head, FewShotHead):
                filling.fill_few_shot(self.run, engine.embedder, engine.head)
            found = validating.after_step(engine, telemetry, step, last) if self.divergence.sound else None
            decision = agreement.after_step(last, self.run.quarantine.fresh)
            if decision.news:
                self.run.quarantine.settle()
            due |= decision.stop or decision.save or last or (step + 1) % self.run.config.checkpoint_every == 0
            due |= found is not None and found.best
            if due and self.divergence.sound:
                figures = {} if found is None else found.figures
                self.save(engine, step + 1, needed=decision.stop or last, figures=figures)
                agreement.saved()
                due = False
            if decision.stop:
                return step + 1
        return None

    def _judge(self, engine: Engine, telemetry: Telemetry, step: int, last: bool) -> None:
        """Say that a step was bad; raise UserError where the run has diverged."""
        watch = self.divergence
        if (words := watch.after_step(step, engine.loss, engine.skipped, engine.loss_scale > 1)) is not None:
            telemetry.say(step, words)
        engine.explained = watch.bad > 0 or watch.budget == 1
        if watch.over or (last and not watch.sound):
            heartbeat.mark("save")
            group.on_rank_0(divergence.set_aside, self.run.folder / self.stage, watch.unsound_from)
            keys = self.run.dataset.keys[self._plan(engine).sampler.indices(step)]
            left = group.share(checkpoint.latest(self.run.folder, self.stage))
            raise UserError(watch.ending(f"stage {self.stage}, step {step}", keys, engine.largest_gradient, left))

    def train_step(self, engine: Engine, feed: Feed, step: int) -> HeadOutput:
        """One optimizer step, of one or several micro-batches. What the head gave for the last of them."""
        if isinstance(engine.head, MetaHead) and filling.refreshes(self.run.config.head, step):
            filling.fill_memory(self.run, engine.embedder, engine.head.memory)
        output, lr = None, self.schedule.learning_rate(engine.base_lr, step)
        for batch in feed.step(step):
            output = engine.forward_backward(batch.images_B3SS, batch.labels_G, batch.seed)
            engine.step(lr)
        assert output is not None, "a step has one micro-batch at least"
        return output

    def save(self, engine: Engine, step: int, needed: bool, figures: dict[str, float]) -> None:
        """Write a checkpoint after so many steps, with what was measured there. All ranks must call it.

        One that cannot be written is a warning, and the next is tried in its turn; raises UserError where it is needed.
        """
        try:
            self._save(engine, step, figures)
        except UserError as error:
            if needed:
                raise
            group.say(f"warning: stage {self.stage}, step {step}: no checkpoint: {error}; training goes on")

    def _save(self, engine: Engine, step: int, figures: dict[str, float]) -> None:
        self.run.quarantine.settle()
        heartbeat.mark("save", step)
        partition = self.run.partition
        weights, moments, rows = engine.replicated_weights(), engine.replicated_moments(), engine.sharded_rows()
        group.together(divergence.check_finite, weights | moments | rows, f"stage {self.stage}, after {step} steps")
        state = CheckpointState(
            stage=self.stage,
            step=step,
            finished=step == self.schedule.steps,
            global_batch=engine.global_batch,
            config=self.run.config,
            scalars={**engine.scalars(), **self.divergence.scalars(), "restarts": self.restarts},
            num_classes=partition.num_classes,
            starts=partition.starts(),
            ds=self.run.ds,
            data=self.run.fingerprint,
            source=self._source(),
            figures=figures,
        )
        checkpoint.save(
            self.run.folder,
            state,
            weights=weights,
            moments=moments,
            rows=rows,
        )

    def _measured(self, engine: Engine) -> dict[str, float]:
        """What validation says of a stage without a step."""
        if self.run.measure is None:
            return {}
        (figures, _), _ = Validating(self.run, self.stage, self.schedule).measure(engine)
        group.say(f"stage {self.stage}: {in_words(figures)}")
        return figures

    def _source(self) -> StageSource | None:
        """What a stage meta or memory started from, in this process or before."""
        if self.stage == "plain":
            return None
        if self.state is not None:
            return self.state.source
        return None if self.source is None else start.source_of(self.source)

    def _engine(self) -> Engine:
        if self.resumed and self.state:
            group.say(f"stage {self.stage}: resuming from {self.resumed} at step {self.first_step}")
            return start.resume(self.run, self.resumed, self.state)
        return start.begin(self.run, self.stage, self.source)

    def _feed(self, engine: Engine) -> Feed:
        run = self.run
        return Feed(run.dataset, self._plan(engine), run.config, run.device, run.quarantine)

    def _plan(self, engine: Engine) -> RankPlan:
        run = self.run
        return RankPlan(
            sampler=make_sampler(self.knobs, run.dataset, engine.global_batch, run.config.seed),
            labels=run.dataset.labels,
            seed=run.config.seed,
            rank=run.partition.rank,
            ranks=run.partition.world_size,
            micro_batches=engine.accumulation,
            first_step=self.first_step,
            steps=self.schedule.steps,
        )

    def _report(self, engine: Engine, output: HeadOutput, step: int, waited: float) -> Report:
        figures = {**engine.figures(), **health.measure(engine.head, output.seen)}
        figures |= {"restarts": self.restarts, "unreadable": len(self.run.quarantine.reasons)}
        lr = self.schedule.learning_rate(engine.base_lr, step)
        return Report(step, output.parts, output.correct_B, lr, figures, health.warnings(figures), waited)
