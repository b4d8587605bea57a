"""All that has a class axis, sharded over ranks: memory, classifier, losses; no engine, file or image is known here."""
