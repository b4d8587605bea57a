"""How a stage starts, runs, is reported and is saved; the only room that knows DeepSpeed."""
