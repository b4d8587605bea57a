"""Bytes on disk: records, index, headers and lists, read and written; nothing here knows what a whole set needs."""
