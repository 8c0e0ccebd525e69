"""The page: its sections, tables, figures and template."""
