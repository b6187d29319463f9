"""Plans: TOML files, the runs that they stand for, and what is known of a run before it is carried out."""
