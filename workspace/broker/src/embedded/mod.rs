//! The broker on one SQLite file, for one process.
