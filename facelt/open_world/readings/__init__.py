"""How an image is named: by the run's classifier in several ways, by its memory, by OpenMax; and ODIN."""
