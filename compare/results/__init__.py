"""What a results folder holds: its runs, what each came to, and the records of them that are kept."""
