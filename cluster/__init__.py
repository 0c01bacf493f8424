"""A whole cluster on one machine: what `store up` runs."""
