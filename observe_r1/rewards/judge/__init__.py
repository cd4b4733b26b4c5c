"""Is an answer right? Gold answer and response are read by one parser, whole or not at all, and compared by type.

answer       which text is the final answer, without markup and sentence
reading      the text as typed values: a choice, a time, a number, a list …
statements   the part of it that reads lists, equations, brackets, quantities from tokens
formulas     the part of that which reads formulas
values       what an answer can be
units        what a unit is, and is in another
evaluating   what a formula is worth, and whether two are worth the same
comparing    whether two answers are the same
options      which options a question lists, and which of them an answer names
"""
