"""A set in figures and pictures; nothing here writes a set."""
