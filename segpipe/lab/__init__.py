"""The decoder lab: what each slot of a decoder computes, shown and measured. docs/lab.md defines every number."""
