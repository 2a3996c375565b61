"""The media types: what a Mongo document means and which record it becomes."""
