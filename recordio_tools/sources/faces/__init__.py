"""Drawn faces: who (`identity`), how photographed (`nuisance`), in what shapes, painted (`paint`); writes no file."""
