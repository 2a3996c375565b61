"""MongoDB: the source documents, the accounts and the pipeline's own ledger."""
