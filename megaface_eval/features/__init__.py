"""Feature sets, the galleries made of them, and what is known of their rows; nothing here compares features."""
