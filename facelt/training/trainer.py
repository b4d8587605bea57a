"""One stage of a run: from its newest checkpoint, or from what it starts from, to its last step."""

from facelt.config import StageName
from facelt.errors import UserError
from facelt.head import health
from facelt.head.heads import HeadOutput, MetaHead
from facelt.head.prototype_head import PrototypeHead
from facelt.images.feed import Feed, RankPlan, make_sampler
from facelt.parallel import group
from facelt.training import checkpoint, start
from facelt.training.checkpoint import CheckpointState, StageSource
from facelt.training.engine import Engine
from facelt.training.run import Run
from facelt.training.schedule import Schedule
from facelt.training.telemetry import Report, Telemetry


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
        self.source = None if self.resumed else start.find_start(run.folder, stage, start_from)
        self.first_step = self.state.step if self.state else 0

    def train(self) -> bool:
        """Go on to the last step. False when asked to stop before or at it."""
        if self.resumed and self.first_step >= self.schedule.steps:
            group.say(f"stage {self.stage}: finished in {self.resumed}")
            return not self.run.stop.agreed(self.run.device)
        engine = self._engine()
        if not self.schedule.steps:
            self.save(engine, 0, needed=True)
            group.say(f"stage {self.stage}: no epoch to train; its memory is in {self.run.folder / self.stage}")
            return True
        feed = self._feed(engine)
        telemetry = Telemetry(self.run.folder, self.stage, self.schedule, self.first_step)
        try:
            stopped_at = self._loop(engine, feed, telemetry)
        finally:
            telemetry.close()
        if stopped_at is not None:
            group.say(f"stage {self.stage}: stopped at step {stopped_at} as asked; run the same command to resume")
        return stopped_at is None

    def _loop(self, engine: Engine, feed: Feed, telemetry: Telemetry) -> int | None:
        """Steps to the last, or to a request to stop; then the steps done."""
        engine.embedder.train()
        engine.embedder.backbone.train(not self.knobs.freeze_backbone)
        for step in range(self.first_step, self.schedule.steps):
            output, asked = self.train_step(engine, feed, step), False
            telemetry.advance()
            last = step == self.schedule.steps - 1
            if step % self.run.config.log_every == 0 or last:
                telemetry.log(self._report(engine, output, step))
                asked = self.run.stop.agreed(self.run.device)
            if last and isinstance(engine.head, PrototypeHead):
                start.fill_prototypes(self.run, engine.embedder, engine.head)
            if asked or last or (step + 1) % self.run.config.checkpoint_every == 0:
                self.save(engine, step + 1, needed=asked or last)
            if asked:
                return step + 1
        return None

    def train_step(self, engine: Engine, feed: Feed, step: int) -> HeadOutput:
        """One optimizer step, of one or several micro-batches. What the head gave for the last of them."""
        if isinstance(engine.head, MetaHead) and start.refreshes(self.run.config.head, step):
            start.fill_memory(self.run, engine.embedder, engine.head.memory)
        output, lr = None, self.schedule.learning_rate(engine.base_lr, step)
        for batch in feed.step(step):
            output = engine.forward_backward(batch.images_B3SS, batch.labels_G, batch.seed)
            engine.step(lr)
        assert output is not None, "a step has one micro-batch at least"
        return output

    def save(self, engine: Engine, step: int, needed: bool) -> None:
        """Write a checkpoint after so many steps. All ranks must call it.

        One that cannot be written is a warning, and the next is tried in its turn; raises UserError where it is needed.
        """
        try:
            self._save(engine, step)
        except UserError as error:
            if needed:
                raise
            group.say(f"warning: stage {self.stage}, step {step}: no checkpoint: {error}; training goes on")

    def _save(self, engine: Engine, step: int) -> None:
        partition = self.run.partition
        state = CheckpointState(
            stage=self.stage,
            step=step,
            finished=step == self.schedule.steps,
            global_batch=engine.global_batch,
            config=self.run.config,
            scalars=engine.scalars(),
            num_classes=partition.num_classes,
            starts=partition.starts(),
            ds=self.run.ds,
            data=self.run.fingerprint,
            source=self._source(),
        )
        checkpoint.save(
            self.run.folder,
            state,
            weights=engine.replicated_weights(),
            moments=engine.replicated_moments(),
            rows=engine.sharded_rows(),
        )

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
        share = RankPlan(
            sampler=make_sampler(self.knobs, run.dataset, engine.global_batch, run.config.seed),
            seed=run.config.seed,
            rank=run.partition.rank,
            ranks=run.partition.world_size,
            micro_batches=engine.accumulation,
            first_step=self.first_step,
            steps=self.schedule.steps,
        )
        return Feed(run.dataset, share, run.config, run.device)

    def _report(self, engine: Engine, output: HeadOutput, step: int) -> Report:
        figures = {**engine.figures(), **health.measure(engine.head, output.seen)}
        lr = self.schedule.learning_rate(engine.base_lr, step)
        return Report(step, output.parts, output.correct_B, lr, figures, health.warnings(figures))
