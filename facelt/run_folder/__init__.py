"""What a run keeps on disk: checkpoints, their hashes, and the lock of whoever trains there."""
