"""Runs carried out: one in its folder, and all of a plan, here or on a Ray cluster; resumable after any kill."""
