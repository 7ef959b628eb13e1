"""The public calls on products and jobs."""
