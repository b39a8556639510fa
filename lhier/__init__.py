"""The composition root: the `lhier` command and the demo."""
