"""What a run is measured by while it trains, on images that it does not train on; nothing here moves a weight."""
