"""Accounts of the PDS: who has one, making them, their passwords and handles."""
