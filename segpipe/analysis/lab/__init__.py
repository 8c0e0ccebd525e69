"""The page of segpipe.inspect: what the lab measured, as sections of text, tables and figures."""
