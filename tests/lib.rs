//! Whole-system tests live in `it/`, the deterministic simulation in `simulation/`; this crate has no code of its own.
