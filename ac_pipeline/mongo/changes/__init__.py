"""Which users have work to do: found by comparing states and by MongoDB's change stream."""
