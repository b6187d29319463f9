"""The front door: what `import abscert_plugin as abscert` offers, and what the commands call."""
