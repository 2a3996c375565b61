"""The mirror: a pure plan of what the PDS lacks, and the engine that carries it out."""
