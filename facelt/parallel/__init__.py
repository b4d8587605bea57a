"""Ranks, what crosses between them, and which of them owns which classes; nothing here knows of faces or networks."""
