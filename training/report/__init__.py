"""The report of a comparison: what a run leaves, the statistics over runs, and one HTML page that needs nothing else."""
