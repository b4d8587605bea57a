"""Exact ranks over galleries of any size, and the scans that make them fast; nothing here knows what a rank is for."""
