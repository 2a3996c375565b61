"""Rules of the MongoDB layer that need no database."""
