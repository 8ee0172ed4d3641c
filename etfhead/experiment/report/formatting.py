"""Numbers and names as people read them in tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "arm_name",
    "count",
    "duration",
    "interval",
    "mean_std",
    "ratio",
    "signed",
    "significant",
    "size",
    "wide_mean_std",
]

MISSING = "–"
MINUS = "−"


def arm_name(arm: str, baseline: str) -> str:
    """The arm as tables name it.

    >>> arm_name("learnable", "learnable"), arm_name("etf", "learnable")
    ('learnable (baseline)', 'etf')
    """
    return f"{arm} (baseline)" if arm == baseline else arm


def mean_std(figure: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Mean and sample standard deviation; the mean alone for one seed.

    >>> mean_std({"n": 3, "mean": 97.041, "std": 0.318})
    '97.04 ± 0.32'
    """
    if figure is None:
        return MISSING
    text = f"{figure['mean']:.{digits}f}".replace("-", MINUS)
    return text if figure["std"] is None else f"{text} ± {figure['std']:.{digits}f}"


def significant(value: float, digits: int) -> str:
    """Significant digits for figures that span many magnitudes.

    >>> [significant(value, 3) for value in (0.0, 0.00032, 0.08317, 9.999, 123.4, 2.5e6)]
    ['0', '3.20e-4', '0.0832', '10.0', '123', '2.50e6']
    """
    if value == 0:
        return "0"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)
    if -3 <= exponent < 4:
        return f"{float(value):.{max(0, digits - 1 - exponent)}f}"
    return f"{mantissa}e{exponent}"


def wide_mean_std(figure: Mapping[str, Any] | None) -> str:
    """Mean to three significant digits; sample standard deviation to one: of a few seeds it has no more.

    >>> wide_mean_std({"n": 3, "mean": 0.000321, "std": 0.0000114})
    '3.21e-4 ± 1e-5'
    """
    if figure is None:
        return MISSING
    text = significant(figure["mean"], 3)
    return text if figure["std"] is None else f"{text} ± {significant(figure['std'], 1)}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, never a negative zero.

    >>> signed(0.456), signed(-0.001), signed(-1.5)
    ('+0.46', '0.00', '−1.50')
    """
    if value is None:
        return MISSING
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def interval(pair: Mapping[str, Any] | None) -> str:
    """Bounds of a paired difference.

    >>> interval({"low": -0.123, "high": 0.987})
    '−0.12 to +0.99'
    """
    if pair is None or pair["low"] is None:
        return MISSING
    return f"{signed(pair['low'])} to {signed(pair['high'])}"


def ratio(pair: Mapping[str, Any] | None) -> str:
    """A ratio to the baseline with its interval.

    >>> ratio({"mean": 1.021, "low": 0.98, "high": 1.06})
    '×1.02 (0.98 to 1.06)'
    """
    if pair is None:
        return MISSING
    text = f"×{pair['mean']:.2f}"
    return text if pair["low"] is None else f"{text} ({pair['low']:.2f} to {pair['high']:.2f})"


def count(value: float | None) -> str:
    """A whole number with thousands separators.

    >>> count(11173962.0)
    '11,173,962'
    """
    return MISSING if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in binary units.

    >>> size(4), size(2600), size(5 * 2**30)
    ('4 B', '2.5 KiB', '5.0 GiB')
    """
    if value is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that fits.

    >>> duration(0.42), duration(75.2), duration(4000)
    ('0.42 s', '1 min 15 s', '1 h 07 min')
    """
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
