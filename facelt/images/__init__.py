"""Images from records to batches, in an order that is a pure function of the seed; nothing here knows of networks."""
