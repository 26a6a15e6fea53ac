//! The retry rule engine: failure and time in, verdict out. Pure.
