"""Whole histories of a small cluster, decided by one seed: the real cores on a simulated network, disk and clock."""
