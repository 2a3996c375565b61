"""Alerts: what failed is said once, and once that it is well again, to the log and a webhook."""
