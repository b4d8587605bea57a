"""What a reader is shown: tables, plots, JSON and one HTML page; nothing here searches or measures."""
