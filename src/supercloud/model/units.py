"""Units of size: apart from `names`, so that the command line starts without pydantic."""

MIB = 1 << 20
GIB = 1 << 30
_UNITS = (("T", 1 << 40), ("G", GIB), ("M", MIB), ("K", 1 << 10))


def format_size(size: float) -> str:
    """Bytes as a person would write them: at most one decimal, in the greatest unit that fits."""
    for unit, factor in _UNITS:
        if abs(size) >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + unit
    return f"{size:.0f}"
