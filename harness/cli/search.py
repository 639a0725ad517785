"""CloudImages to be had."""
