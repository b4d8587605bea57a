"""A set in figures and pictures for people and programs; nothing here writes or mends a set."""
