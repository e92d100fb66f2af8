"""Damaged input for every parser that a stranger, a card or a person's file reaches.

A target feeds bytes to one parser, which may raise nothing but its documented
error. `mutator` makes the bytes from seeds: files of `corpus/`, the vectors, and
what targets make themselves; keys in the corpus are nobody's. `target.fuzz`
counts, times and watches for leaks. The test tries some inputs of each target;
`python -m tests.fuzz` tries a million and prints a table.

Why a mutator of our own and not atheris: that one installs for few versions of
Python, and half of the parsers are in C or Rust, where it sees no more than
this. Inputs that a parser accepts become seeds in turn, which leads behind the
first check as coverage would.
"""
