"""What operators do beyond a sync: snapshots, wipe, restore, links, accounts, lexicons, plans.

The command line and the jobs call the same code; nothing here knows of either.
"""
