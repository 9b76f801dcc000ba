"""What runs in a guest, read out of its memory from outside: pure, over a function that reads.

All of it belongs to whoever is in the guest: every number may be a lie and every list a circle. So every loop
has a bound, every read is counted, and what does not add up is `Unavailable`: it cannot be looked at.
"""
