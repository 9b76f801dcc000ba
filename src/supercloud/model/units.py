"""Units of size: apart from `names`, so that the command line starts without pydantic."""

MIB = 1 << 20
GIB = 1 << 30
