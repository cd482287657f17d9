"""Tests of the receptionist: `python -m unittest discover -s tests -t .` in its folder."""
