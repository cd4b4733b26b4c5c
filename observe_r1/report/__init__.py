"""Runs as pictures, made from the records that others write."""
