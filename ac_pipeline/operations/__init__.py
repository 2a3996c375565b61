"""What operators do beyond a sync: snapshots, wipe, restore, links, accounts, lexicons, plans; command line and jobs
call it.
"""
