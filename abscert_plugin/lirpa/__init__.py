"""The only door to auto_LiRPA: what it lacks on current releases, phi as a bounded operator, and bounds."""
