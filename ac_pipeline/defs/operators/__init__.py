"""The operators' jobs: what a person launches by hand, with defaults that change nothing."""
