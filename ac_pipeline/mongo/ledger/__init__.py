"""The pipeline's own database: item states, leases, checkpoints, plans, verification results, audit."""
