"""The software-defined assets: Mongo collections, renditions and PDS records."""
