"""Published training methods, one a file, behind one interface."""
