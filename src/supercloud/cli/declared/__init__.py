"""A whole cloud as one file: read, compared with what is there, applied, written.

`tree` reads YAML, `models` says what may stand in it, `read` makes requests of the API of the two.
`plan` is a pure function from these and from what is `there` to steps; `run` carries them out.
`write` is the way back.
"""
