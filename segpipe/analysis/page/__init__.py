"""The page of the report: sections, tables, figures and the template."""
