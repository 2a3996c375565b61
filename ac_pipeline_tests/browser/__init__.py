"""What an operator does in the Dagster UI, in a real Chromium against real services (`make test-browser`)."""
