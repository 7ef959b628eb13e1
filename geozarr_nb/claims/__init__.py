"""Files of a cluster's claims: through a mount, or through a pod that reads them."""
