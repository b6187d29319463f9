"""Engines: tasks handed out to many processes, here or on a Ray cluster; those of one that dies, once more."""
