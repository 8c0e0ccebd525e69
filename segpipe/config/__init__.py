"""A checked configuration, and the objects made from it."""
