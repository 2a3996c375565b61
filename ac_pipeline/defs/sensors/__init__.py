"""The sensors: each watches one thing and asks for runs; what it decides is a pure function beside it."""
