"""Every matrix figure that the paper, its appendix and its public reviews print.

BQQ, NeurIPS 2025, arXiv 2510.18650. MSE on matrices of standard deviation 1; the paper prints it times 1000, KB are
1000 bytes. Both are kept as printed, so that rounding is visible. One run of 50,000 steps, no error bars.
"""

from __future__ import annotations

from collections.abc import Iterator

MATRICES = ("Random", "DeiT", "Distance", "SIFT", "ImageNet")

# Table S.4: p, l-scale, then MSE x 1000 and KB for each of MATRICES
_TABLE_S4 = """
1  1    324.3 2.1  298.1 18.4  14.6 1.3   97.8 2.1  42.7  6.3
2  .5   329.9 2.1  309.4 18.5   9.2 1.3  108.1 2.1  29.7  6.3
4  .25  337.1 2.1  317.3 18.5  12.2 1.3  110.8 2.1  49.6  6.3
1  2    106.4 4.1  101.9 36.9   7.7 2.5   46.3 4.1  20.5 12.6
2  1    105.3 4.1   95.8 36.9   2.3 2.5   30.0 4.1  10.9 12.6
4  .5   108.4 4.1  100.8 36.9   2.5 2.6   34.4 4.1   8.9 12.6
8  .25  114.2 4.2  105.6 37.0   3.5 2.5   35.9 4.2  14.1 12.6
2  1.5   33.2 6.2   30.6 55.3   1.3 3.8   10.9 6.2   4.2 18.8
3  1     34.4 6.2   31.0 55.3   0.7 3.8    9.7 6.2   3.5 18.9
6  .5    36.0 6.2   33.2 55.4   0.9 3.8   11.5 6.2   2.9 18.9
12 .25   38.4 6.3   35.7 55.4   1.2 3.7   12.2 6.3   4.7 19.0
2  2     11.5 8.2   10.9 73.8   0.6 5.0    4.9 8.2   2.1 25.1
4  1     11.2 8.2   10.0 73.8   0.2 5.1    3.2 8.2   1.1 25.1
8  .5    11.9 8.3   10.9 73.8   0.3 5.1    3.8 8.3   1.0 25.2
16 .25   13.0 8.4   12.0 73.9   0.4 5.0    4.1 8.4   1.6 25.3
"""

# Review discussion: bits, method, then KB and MSE x 1000 for each of MATRICES, cropped to CROPS
CROPS = {"Random": 128, "DeiT": 256, "Distance": 64, "SIFT": 128, "ImageNet": 128}
_REVIEW = """
2 bqq     4.1 105.0  16.4  91.7  1.1   4.0  4.1  30.6  4.1   5.6
2 dct100  4.1 117.9  16.4 120.2  1.0 193.2  4.1 359.4  4.1 318.2
2 dct50   4.1 496.8  16.6 499.9  1.1 289.0  4.1 324.9  4.1 144.7
2 ht100   4.1 119.8  16.4 123.0  1.0 131.0  4.1 209.3  4.1 244.3
2 ht50    4.1 505.2  16.4 505.1  1.0 535.5  4.1 558.1  4.1 157.3
2 jpeg    4.1 428.6  16.3 360.8  1.0 378.9  4.1 147.4  4.1   1.6
2 e8      4.6  85.9  18.4 109.3  1.2  74.4  4.6  80.6  4.6  17.1
2 vq      3.7 917.5  15.6 893.9  0.8 337.1  3.7 318.6  3.7 133.0
2 vq_4    4.2 448.2  16.5 415.4  1.1  16.8  4.2  53.2  4.2   7.6
3 bqq     6.2  33.9  24.6  29.9  1.6   1.3  6.2  10.0  6.2   1.8
3 dct100  6.2  36.4  24.6  38.3  1.5  67.7  6.2 192.3  6.2 211.6
3 dct50   6.2 491.7  24.9 494.5  1.6 276.9  6.2 269.0  6.2  49.5
3 ht100   6.2  37.2  24.6  39.6  1.5  43.0  6.2  72.9  6.2 142.6
3 ht50    6.2 499.7  24.6 499.6  1.5 527.3  6.2 546.9  6.2 123.9
3 jpeg    6.1 147.3  24.3 123.5  1.5 152.8  6.1  53.2  5.7   0.7
3 e8      6.9  25.3  27.7  40.5  1.7  21.5  6.9  23.1  6.9   5.3
3 vq      5.8 876.7  23.8 847.2  1.3 195.3  5.8 282.2  5.8  83.8
3 vq_4    6.2 216.5  24.7 190.5  1.6   8.4  6.2  14.7  6.2   4.4
"""

# Reviews: scales of six greedy stacks
DECAY = {
    "r": (0.61, 0.35, -0.20, -0.12, -0.07, 0.04),
    "s": (-0.27, -0.19, 0.09, 0.06, 0.03, -0.02),
    "t": (-0.26, -0.19, 0.09, 0.06, 0.03, -0.02),
}


def _pairs(numbers: list[str]) -> Iterator[tuple[str, float, float]]:
    """(matrix, first, second) of each matrix."""
    values = [float(number) for number in numbers]
    yield from zip(MATRICES, values[::2], values[1::2], strict=True)


def _read_s4() -> dict[tuple[str, int, float], tuple[float, float]]:
    found = {}
    for p, scale, *numbers in (line.split() for line in _TABLE_S4.split("\n") if line):
        for matrix, mse, kb in _pairs(numbers):
            found[matrix, int(p), float(scale)] = (mse, kb)
    return found


def _read_review() -> dict[tuple[str, int, str], tuple[float, float]]:
    found = {}
    for bits, method, *numbers in (line.split() for line in _REVIEW.split("\n") if line):
        for matrix, kb, mse in _pairs(numbers):
            found[matrix, int(bits), method] = (mse, kb)
    return found


TABLE_S4 = _read_s4()  # (matrix, p, l-scale): MSE x 1000, KB
REVIEW = _read_review()  # (matrix, bits, method): MSE x 1000, KB


def by_stacks(matrix: str) -> dict[int, float]:
    """MSE of BQQ at l-scale 1 by p."""
    return {p: round(mse / 1000, 7) for (name, p, scale), (mse, _) in TABLE_S4.items() if (name, scale) == (matrix, 1)}
