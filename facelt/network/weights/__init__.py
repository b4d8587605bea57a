"""Files of weights that others trained: read, recognised, and brought to the names of the networks here."""
