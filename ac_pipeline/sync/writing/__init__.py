"""Carrying a plan out: commits to the repository, links and ledger entries after each of them."""
