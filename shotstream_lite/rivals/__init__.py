"""Other ways to tell many shots, in the same world on the same transformer: a layout, a schedule and a rule at the cut.

A streaming rival (`streams`) keeps one `FilmCache` over all shots; a joint one (`joint`) makes them all at once under a
mask. Nothing here adds a parameter to the model or a branch to the method.
`shotstream compare` measures them, as rules on a student and as `train tables` has trained them: see docs/report.md.
"""
