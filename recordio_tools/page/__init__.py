"""How every HTML page looks and behaves: skeleton, style, script, plots in its colours; no word of what a page says."""
