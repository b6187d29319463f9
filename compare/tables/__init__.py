"""Tables out of records: the general one, and the paper's with its printed figures; and how they look as text."""
