"""Text that people see: made printable, spelled for a shell, written as HTML."""
