"""Loss landscapes: the loss around trained networks, drawn, and what a results folder holds of it."""
