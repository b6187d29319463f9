"""VNN-LIB queries: is there an input for which a network's outputs satisfy what is written?"""
