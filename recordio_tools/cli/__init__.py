"""The command line: what each command takes and prints; the work is done in the rooms it calls, not here."""
