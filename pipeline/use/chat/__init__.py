"""Talk to one policy or several in a terminal, or over a pipe."""
