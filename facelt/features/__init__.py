"""Recognisers, and the features they write to disk; nothing here trains."""
