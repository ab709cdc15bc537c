"""The benchmarks: speed and memory of the product beside baselines, as ratios taken in one interleaved run."""
