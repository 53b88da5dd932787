"""What ``latune bench`` is made of: cases, peers, the contest, and how its results are shown."""
