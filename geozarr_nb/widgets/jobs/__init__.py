"""Widgets that show jobs: the monitor, its rows, and what watches the jobs."""
