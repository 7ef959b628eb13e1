"""The backend `argo`: jobs are Workflows on a cluster."""
