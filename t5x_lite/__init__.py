"""T5X-lite: pre-train once on raw text, then apply everywhere.

Shape suffixes used throughout (`x_BLD` is an array of batch x length x model width):

    B batch              L query length       M memory (key) length
    D model width        H heads              K head size
    F feed-forward width V vocabulary         N layers
    P masked positions predicted in a sequence
"""
