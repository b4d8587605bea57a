"""A run made visible: what it sees in an image, and the paper's figures; numbers first, pictures of them after."""
