"""A distributed trainer of face recognition under long tails and open worlds."""
