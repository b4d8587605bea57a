"""Closed and open set: what a run says of every image, and the figures made of that; nothing is trained here."""
