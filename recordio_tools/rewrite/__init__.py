"""New sets from old ones: encoded images are copied as bytes, never decoded, and no set is changed in place."""
