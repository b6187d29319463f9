"""Records shown: tables in the terminal, and one HTML page with the images that failed."""
