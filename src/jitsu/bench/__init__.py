"""The evaluation, one file a figure."""
