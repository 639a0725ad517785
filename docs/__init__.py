"""The site: its pages, the parts of them that are generated from the program, and the check of the links in what was built."""
