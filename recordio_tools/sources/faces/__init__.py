"""Drawn faces: who (`identity`), how they are caught (`nuisance`), their shapes, and the painting of them (`paint`)."""
