"""How a run ends before its last step: requests to stop, what ranks agree on, divergence."""
