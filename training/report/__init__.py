"""The report of a comparison: what a run leaves, the statistics over runs, and one self-contained HTML page."""
