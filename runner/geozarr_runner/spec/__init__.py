"""One conversion, declared once.

`options.Options` is the declaration: a key for each option, with its type, its default, its help and what it belongs
to. All else is derived from it: the signatures of the public calls, both command lines, the documents that are stored
and handed over, the parameters of the workflow, the fields of the form, the code that the form shows, the identity of a
result and its record. A test holds the workflow template and the table of the documentation to it.
"""
