"""The converter: its command, its processes, and several of them side by side."""
