"""The alerts sensor on a real Dagster instance."""
