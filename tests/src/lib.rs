//! End-to-end scenarios and benchmarks; drives the built binaries only.
