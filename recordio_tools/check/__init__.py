"""What is wrong with a set, and a clean set from what is whole; nothing here changes a set in place."""
