"""Threads that compute one kernel together: how many, who they are, where they wait for each other."""
