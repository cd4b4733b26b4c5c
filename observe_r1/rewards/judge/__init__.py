"""Is an answer right? Gold answer and response are read by one parser, whole or not at all, and compared by type.

answer       which text is the final answer, and which words around it are taken off
notation     the text in one notation: Unicode, LaTeX, Markdown and HTML as plain signs and a few commands
numerals     numbers in words, in digits
reading      the text as typed values: a choice, a time, a number, a list …
statements   from tokens to values: lists, equations, inequalities, brackets, matrices
quantities   from tokens to a quantity: a formula with its unit, money, scale or noun
formulas     from tokens to the tree of a formula
values       what an answer can be, and how a value is described to people
units        which words are units, and what one unit is in another
evaluating   the value of a formula, and whether two formulas have the same value
comparing    whether two answers are the same
options      which options a question lists, and which of them an answer names
"""
