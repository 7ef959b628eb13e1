"""The backend `local`: jobs are folders and processes of this machine."""
