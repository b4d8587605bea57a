"""New sets from old ones: encoded images are copied as bytes and never decoded."""
