"""What the SDK knows of a Kubernetes cluster: calls to its API server, watching, and the files of a claim.

Everything that goes to a cluster passes `api.Api`; objects are plain dicts, as the API server sends them.
"""
