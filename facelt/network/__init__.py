"""The replicated network, from images to direct features; nothing with a class axis lives here."""
