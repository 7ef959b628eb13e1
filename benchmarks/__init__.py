"""What the project costs in time, memory and bytes, measured beside the bare converter."""
