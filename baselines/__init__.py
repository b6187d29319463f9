"""Certified-training baselines on auto_LiRPA, behind one interface."""
